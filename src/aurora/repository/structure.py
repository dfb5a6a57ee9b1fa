"""Which objects a manifest names, found without knowing what its author meant.

A Ref is written as a JSON object with the members ``name`` and ``raw``. A table manifest
that is JSON is followed the same way.
"""

from collections.abc import Iterator

from aurora.repository import canonical
from aurora.repository.layout import ObjectType, parse_content, parse_part


class RefWalk:
    """Collects the Refs in manifests and table manifests."""

    def __init__(self) -> None:
        self._named: dict[str, set[str]] = {}
        self._raw: dict[str, int] = {}

    def add(self, name: str, payload: bytes) -> None:
        """Collect what the object *name* names; other than JSON it names nothing."""
        if not payload.startswith((b"{", b"[")):
            return
        try:
            document = canonical.loads(payload)
        except ValueError:
            return
        named = self._named.setdefault(name, set())
        for other, raw in find_refs(document):
            named.add(other)
            self._raw[other] = raw

    def promised(self, name: str) -> int | None:
        """The raw size of *name*, when something read so far promises one."""
        return self._raw.get(name)

    def reachable(self, name: str) -> set[str]:
        """All objects that *name* names, directly or through a table manifest."""
        found: set[str] = set()
        todo = [name]
        while todo:
            for other in self._named.get(todo.pop(), ()):
                if other not in found:
                    found.add(other)
                    content = parse_content(other)
                    if content is not None and content.type is ObjectType.TABLE:
                        todo.append(other)
        return found


def is_ref(name: str) -> bool:
    """Whether *name* can be that of a Ref: a content, or a part of a sealed backup."""
    return parse_content(name) is not None or parse_part(name) is not None


def find_refs(document: object) -> Iterator[tuple[str, int]]:
    """(name, raw) of every Ref anywhere in a JSON value, or in what becomes one."""
    stack = [document]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            name, raw = item.get("name"), item.get("raw")
            if isinstance(name, str) and isinstance(raw, int) and is_ref(name):
                yield name, raw
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
