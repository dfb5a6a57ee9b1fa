"""What a writer may reuse: stored, named by a live backup, and nobody's candidate."""

import threading
from collections.abc import Container

from aurora.errors import IntegrityError
from aurora.events import EventSink, Warned
from aurora.repository.candidates import all_candidates
from aurora.repository.catalog import Catalog
from aurora.repository.derive import MasterKey
from aurora.repository.layout import (
    CONTENT_TYPES,
    ObjectType,
    content_name,
    parse_content,
    parse_session,
    sid8,
)
from aurora.repository.reader import ObjectReader
from aurora.repository.refs import RefObject, Refs
from aurora.repository.sessions import Sessions

_LISTED = (*CONTENT_TYPES, ObjectType.SESSION)
_SUFFIX = len("-") + 8


class Holdings:
    """The reusable objects of a repository, as they were when the lease was put.

    Threads may share it. An object counts only while a listing shows it with the size that
    the refs promise and its session opens: a lost object is uploaded again, so the next
    backup heals what can be healed.
    """

    def __init__(self, reader: ObjectReader, sessions: Sessions) -> None:
        self._reader = reader
        self._sessions = sessions
        self._by_name: dict[str, RefObject] = {}
        self._by_content: dict[str, str] = {}
        self._session_names: dict[str, list[str]] = {}
        self._opens: dict[str, bool] = {}
        self._lock = threading.Lock()
        self.sid8s: set[str] = set()  # of all sessions ever listed; a new one avoids them

    @classmethod
    def take(
        cls,
        reader: ObjectReader,
        sessions: Sessions,
        catalog: Catalog,
        master: MasterKey,
        *,
        distrusted: Container[str],
        sink: EventSink,
    ) -> "Holdings":
        """Read ``gc/``, then refs with a manifest, then list what is there.

        Call it after the lease is put, or a collector may delete what is reused.
        """
        held = cls(reader, sessions)
        try:
            refused = all_candidates(
                reader, repository_id=master.repository_id, mac_key=master.mac_key
            )
        except IntegrityError as error:
            sink(
                Warned(
                    "nothing-reused",
                    f"a candidate list cannot be read, so nothing is reused: {error.message}",
                    hint="The backup is complete, only larger. Run the collector to mend it.",
                )
            )
            return held
        named = _named_by_live_backups(catalog, sink)
        stored = held._list(named)
        for name, one in named.items():
            if stored.get(name) == one.size and name not in refused and name not in distrusted:
                held._add(one)
        return held

    @classmethod
    def nothing(cls, reader: ObjectReader, sessions: Sessions) -> "Holdings":
        """For a run that reuses nothing: only the sessions' names are listed."""
        held = cls(reader, sessions)
        listed = (parse_session(i.name) for i in reader.storage.list(ObjectType.SESSION.prefix))
        held.sid8s = {sid8(sid) for sid in listed if sid is not None}
        return held

    def find(self, kind: ObjectType, payload_id: str) -> RefObject | None:
        """A reusable object with this content, or None."""
        key = content_name(kind, payload_id, "")[:-1]
        name = self._by_content.get(key)
        return None if name is None else self.get(name)

    def get(self, name: str) -> RefObject | None:
        """The reusable object *name*, or None."""
        content = parse_content(name)
        one = self._by_name.get(name)
        return one if one and content and self.session_of(content.sid8) else None

    def session_of(self, short: str) -> RefObject | None:
        """The one session object whose id begins with *short* and which opens, or None."""
        names = self._session_names.get(short, [])
        if len(names) != 1:
            return None
        with self._lock:
            opens = self._opens.get(short)
        if opens is None:
            opens = self._try(names[0])
            with self._lock:
                self._opens[short] = opens
        return self._by_name[names[0]] if opens else None

    def _try(self, name: str) -> bool:
        sid = parse_session(name)
        try:
            return sid is not None and self._sessions.get(sid) is not None
        except IntegrityError:
            return False  # whatever it wrapped the key of is uploaded again

    def _add(self, one: RefObject) -> None:
        self._by_name[one.name] = one
        sid = parse_session(one.name)
        if sid is not None:
            self._session_names.setdefault(sid8(sid), []).append(one.name)
        elif parse_content(one.name) is not None:
            self._by_content[one.name[:-_SUFFIX]] = one.name

    def _list(self, named: dict[str, RefObject]) -> dict[str, int]:
        stored: dict[str, int] = {}
        for kind in _LISTED:
            for info in self._reader.storage.list(kind.prefix):
                sid = parse_session(info.name)
                if sid is not None:
                    self.sid8s.add(sid8(sid))
                if info.name in named:
                    stored[info.name] = info.size
        return stored


def _named_by_live_backups(catalog: Catalog, sink: EventSink) -> dict[str, RefObject]:
    named: dict[str, RefObject] = {}
    for (database, backup), refs in catalog.read_all(catalog.names()):
        if isinstance(refs, Refs):
            for one in refs.objects:
                named.setdefault(one.name, one)
        else:
            sink(
                Warned(
                    "refs-unreadable",
                    f"the refs of {database}/{backup} cannot be read: {refs.message}",
                    hint="What only that backup holds is uploaded again. "
                    "Run `aurora backup heal all`.",
                )
            )
    return named
