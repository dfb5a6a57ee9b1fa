"""Canonical JSON: one text for one value, so that it can be signed and compared.

UTF-8, members sorted by name, no white space, no escapes beyond those that JSON demands,
no floats, integers of 64 bits at most. ``json.dumps(value, sort_keys=True,
separators=(",", ":"), ensure_ascii=False)`` gives the same bytes.
"""

from typing import Any

import msgspec


def dumps(value: object) -> bytes:
    """The canonical text of *value*: dicts with string keys, lists, strings, integers, None.

    Raises:
        ValueError: *value* holds a float or something that JSON cannot say.
    """
    _refuse_floats(value)
    try:
        return msgspec.json.encode(value, order="sorted")
    except (
        TypeError,
        OverflowError,
        RecursionError,
        UnicodeEncodeError,
        msgspec.MsgspecError,
    ) as error:
        raise ValueError(f"no canonical JSON: {error}") from error


def loads(text: bytes | memoryview) -> Any:
    """The value of a JSON text. Raises ValueError when it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from error


def _refuse_floats(value: object) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            raise ValueError("canonical JSON has no floats: use integers of a smaller unit")  # noqa: TRY004
        if isinstance(item, dict):
            if any(not isinstance(key, str) for key in item):
                raise ValueError("canonical JSON has only strings as member names")
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
