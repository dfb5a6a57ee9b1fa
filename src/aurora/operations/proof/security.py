"""The security audit: what may be told of keys, rights, storages and habits, and what to do.

Looks at this machine, the source and both storages; reads only. What cannot be seen from here
(who else has the cloud account's password) is said to be so and not passed over.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

from aurora import clock
from aurora.errors import AuroraError
from aurora.operations.findings import Finding, Level, failed, good, guarded, warning
from aurora.operations.keys import KeySlot
from aurora.operations.lock_checks import told
from aurora.operations.proof.evidence import table
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import translated
from aurora.postgres.server import inspect_server, open_control
from aurora.repository.door import Repository
from aurora.repository.exposure import Unsealed, look_for_unsealed
from aurora.repository.trail import TrailReport
from aurora.storage.base import Storage
from aurora.storage.exposure import anonymous_look
from aurora.storage.open import common_fate
from aurora.storage.s3_requests import BucketState
from aurora.units import format_duration, listed, plural
from aurora.version import __version__

Place = Literal["primary", "secondary"]
_OLD_SECRET = timedelta(days=365)
_EXPIRES_SOON = timedelta(days=30)
_MONTHLY = timedelta(days=35)
# Last day with fixes. Source: the versioning policy of postgresql.org, five years each.
_ENDS = {
    14: date(2026, 11, 12), 15: date(2027, 11, 11), 16: date(2028, 11, 9),
    17: date(2029, 11, 8), 18: date(2030, 11, 14),
}  # fmt: skip


class Subject(Protocol):
    """What the audit needs of the composition root (:class:`aurora.wiring.Aurora` is one)."""

    @property
    def database(self) -> str: ...
    @property
    def has_secondary(self) -> bool: ...
    def source(self) -> ConnInfo: ...
    def storage(self, place: Place) -> Storage: ...
    def open_primary(self) -> Repository: ...
    def bucket_state(self, place: Place) -> BucketState | None: ...
    def secret_files(self) -> list[Path]: ...


@dataclass(frozen=True, slots=True)
class Habits:
    """What the audit trail tells of tests: when each was last done and good; None for never."""

    recovery_test: datetime | None
    full_test: datetime | None
    drill: datetime | None
    verification: datetime | None
    goal: float  # seconds: how old the last proven restore may get
    drilled: float  # seconds: how long ago the last drill may be


@dataclass(slots=True)
class SecurityReport:
    """Everything that was looked at."""

    database: str
    at: datetime
    findings: list[Finding] = field(default_factory=list)
    path: str = ""

    def count(self, level: Level) -> int:
        return sum(1 for one in self.findings if one.level is level)

    @property
    def verdict(self) -> str:
        return (
            f"{plural(self.count(Level.ERROR), 'error')}, "
            f"{plural(self.count(Level.WARNING), 'warning')}, {self.count(Level.OK)} ok"
        )

    @property
    def outcome(self) -> str:
        return "bad" if self.count(Level.ERROR) else "ok"

    def document(self) -> dict[str, Any]:
        return {
            "kind": "security-audit",
            "database": self.database,
            "at": clock.isoformat(self.at),
            "outcome": self.outcome,
            "verdict": self.verdict,
            "aurora": __version__,
            "findings": [asdict(one) for one in self.findings],
        }

    def markdown(self) -> str:
        lines = [f"# Security audit of {self.database}: {self.verdict}", "",
                 f"- {clock.isoformat(self.at)}, aurora {__version__}", ""]  # fmt: skip
        order = sorted(self.findings, key=lambda one: [*Level].index(one.level), reverse=True)
        rows = ((one.level, one.message, one.hint) for one in order)
        return "\n".join([*lines, *table(("", "found", "what to do"), rows)]) + "\n"


def examine_security(
    subject: Subject,
    *,
    base: Path,
    slots: Sequence[KeySlot],
    trail: TrailReport | None,
    habits: Habits | None,
    sample: int,
) -> Iterator[Finding]:
    """All findings, in the order of looking. Never raises an AuroraError.

    Args:
        base: the directory of aurora.toml.
        slots: the key slots of both storages; empty where they could not be listed.
        trail: what a look at the audit trail found.
        sample: how many objects of each storage are looked into; all names are looked at.
    """
    yield from _files(subject, base)
    yield from guarded(lambda: _source(subject.source()), about="source")
    places: tuple[Place, ...] = ("primary", "secondary") if subject.has_secondary else ("primary",)
    for place in places:
        yield from guarded(lambda place=place: _storage(place, subject, sample), about=place)  # type: ignore[misc]
    yield from guarded(lambda: _apart(subject))
    yield from _keys(slots)
    yield from _trail(trail)
    yield from _habits(habits)


def _files(subject: Subject, base: Path) -> Iterator[Finding]:
    """Who on this machine can read secrets, or change what Aurora does."""
    secret = [path for path in subject.secret_files() if path.is_file()]
    open_ones = [p for p in secret if p.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)]
    for path in open_ones:
        yield failed(
            "secret-readable",
            f"other users of this machine may read the secret in {path}",
            f"chmod 600 {path}; if others log in here, change the secret too.",
        )
    if secret and not open_ones:
        yield good("secret-files", f"{plural(len(secret), 'file')} with secrets, for us alone")
    now = clock.now().timestamp()
    for path in secret:
        age = timedelta(seconds=now - path.stat().st_mtime)
        if age > _OLD_SECRET:
            yield warning(
                "secret-old",
                f"the secret in {path} is {age.days} days old",
                "Change it once a year, and when somebody leaves who knew it (docs/keys.md).",
            )
    for path in (base, base / "aurora.toml", base / "aurora.state"):
        if path.exists() and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            yield failed(
                "configuration-writable",
                f"other users of this machine may write {path}",
                f"chmod go-w {path}: who can change it can send your backups elsewhere, or run "
                "commands as you.",
            )
    if os.environ.get("AURORA_PASSPHRASE") or os.environ.get("AURORA_SECONDARY_PASSPHRASE"):
        yield warning(
            "secret-in-environment",
            "a passphrase stands in the environment itself",
            "Use AURORA_PASSPHRASE_FILE or _COMMAND: an environment is inherited by every child, "
            "and shown by some tools.",
        )


def _source(info: ConnInfo) -> Iterator[Finding]:
    """Rights of the role, the way to the server, its version."""
    with open_control(info) as conn, translated("source", doing="looking at the role"):
        facts = inspect_server(conn)
        row = conn.execute(
            "SELECT rolvaliduntil FROM pg_catalog.pg_roles WHERE rolname = current_user"
        ).fetchone()
    host = info.settled().options.get("host", "")
    local = host.startswith("/") or host in ("", "localhost", "127.0.0.1", "::1")
    if facts.tls:
        yield good("source-tls", "the connection to the source is encrypted")
    elif local:
        yield good("source-local", "the source is on this machine")
    else:
        yield failed(
            "source-clear",
            f"the connection to the source {info.redacted()} is not encrypted",
            "Add sslmode=verify-full (and sslrootcert) to dsn under [source].",
        )
    mode = info.settled().options.get("sslmode", "prefer")
    if facts.tls and not local and mode not in ("verify-full", "verify-ca"):
        yield warning(
            "source-unproven",
            f"the source's certificate is not checked (sslmode={mode})",
            "Add sslmode=verify-full and sslrootcert to dsn under [source]: somebody between "
            "could pose as the server.",
        )
    role = facts.role
    mighty = {
        "superuser": role.superuser,
        "creates roles": role.creates_roles,
        "creates databases": role.creates_databases,
    }
    rights = [word for word, has in mighty.items() if has]
    if rights and not facts.is_supabase:
        yield warning(
            "role-mighty",
            f"the role {role.name} on the source is more than a backup needs: {listed(rights)}",
            "A role with LOGIN, REPLICATION, BYPASSRLS and pg_read_all_data will do "
            "(`aurora doctor` says what it lacks).",
        )
    else:
        yield good("role-fit", f"the role {role.name} has no rights beyond a backup's need")
    yield from _valid_until(role.name, row[0] if row else None)
    yield from _version(facts.major, facts.version)


def _valid_until(role: str, until: object) -> Iterator[Finding]:
    if isinstance(until, datetime) and until - clock.now() < _EXPIRES_SOON:
        yield warning(
            "password-expires",
            f"the password of {role} on the source ends on {clock.isoformat(until)}",
            f"ALTER ROLE {role} VALID UNTIL …, with a new password, before the backups stop.",
        )


def _version(major: int, version: str) -> Iterator[Finding]:
    end = _ENDS.get(major)
    today = clock.now().date()
    if end is not None and today > end:
        yield failed(
            "server-ended",
            f"PostgreSQL {version} gets no fixes since {end}",
            "Upgrade the source to a supported major version.",
        )
    elif end is not None and end - today < timedelta(days=183):
        yield warning(
            "server-ends", f"PostgreSQL {version} gets fixes until {end}", "Plan the upgrade."
        )
    else:
        yield good("server-version", f"PostgreSQL {version} gets fixes")
    yield good("aurora-version", f"aurora {__version__}")


def _storage(place: Place, subject: Subject, sample: int) -> Iterator[Finding]:
    """Is it open to the world, and is everything on it encrypted?"""
    storage = subject.storage(place)
    seen = anonymous_look(storage.url)
    if seen and (seen.lists or seen.reads):
        what = " and ".join(
            word for word, can in (("list", seen.lists), ("read", seen.reads)) if can
        )
        yield failed(
            f"{place}-public",
            f"{place}: everybody may {what} {storage.url} without credentials",
            "Take the public access away. What is there is encrypted, but who can read it can try "
            "passphrases; who can list it knows when you back up.",
        )
    elif seen:
        yield good(f"{place}-private", f"{place}: strangers may neither list nor read it")
    elif storage.url.startswith("file:"):
        yield from _directory(place, storage)
    else:
        yield good(
            f"{place}-access-unseen",
            f"{place}: whether strangers may read it cannot be asked from here: look at the "
            "bucket's access in the provider's console",
        )
    found = look_for_unsealed(storage, secondary=place == "secondary", sample=sample)
    yield from _sealed(place, found)
    if not storage.url.startswith("file:"):
        yield _deletable(place, subject)


def _deletable(place: Place, subject: Subject) -> Finding:
    """Whether what stolen credentials delete could be had back."""
    code = f"{place}-deletable"
    try:
        state = subject.bucket_state(place)
    except AuroraError:
        state = None
    if state is None or (state.locks is None and state.versioned is None):
        return good(
            code,
            f"{place}: whether old versions are kept cannot be seen from here: object lock or "
            "versions at the provider outlive stolen credentials",
        )
    if not state.locks and not state.versioned:
        return warning(
            code,
            f"{place}: {told(state)}: what stolen credentials delete is gone",
            "Give it a bucket with object lock and set object_lock in its section, or credentials "
            "that cannot delete.",
        )
    return good(code, f"{place}: {told(state)}")


def _directory(place: Place, storage: Storage) -> Iterator[Finding]:
    path = Path(storage.url.removeprefix("file://"))
    if not path.is_dir():
        return
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        yield failed(
            f"{place}-writable",
            f"{place}: every user of this machine may write {path}",
            f"chmod o-w {path}: they could delete every backup.",
        )
    elif mode & stat.S_IROTH:
        yield warning(
            f"{place}-readable",
            f"{place}: every user of this machine may read {path}",
            f"chmod o-rwx {path}. What is there is encrypted; they can try passphrases.",
        )
    else:
        yield good(f"{place}-private", f"{place}: only we, and our group, may read {path}")


def _sealed(place: Place, found: Unsealed) -> Iterator[Finding]:
    if found.unsealed:
        yield failed(
            f"{place}-unsealed",
            f"{place}: {plural(len(found.unsealed), 'object')} not encrypted as they must be: "
            f"{listed(found.unsealed, at_most=5)}",
            "Nobody but Aurora should write there. Verify the backups; remove what is not its.",
        )
    if found.strangers:
        yield warning(
            f"{place}-strangers",
            f"{place}: {plural(len(found.strangers), 'object')} that Aurora did not make: "
            f"{listed(found.strangers, at_most=5)}",
            "Something else writes there. Give the repository a place of its own.",
        )
    if not found.unsealed:
        yield good(
            f"{place}-sealed",
            f"{place}: {found.sampled} of {plural(found.objects, 'object')} looked into, all "
            "encrypted, or signed documents that hold no data",
        )


def _apart(subject: Subject) -> Iterator[Finding]:
    if not subject.has_secondary:
        yield failed(
            "no-secondary",
            "there is no secondary storage: one stolen credential takes every backup",
            "Add [secondary] to aurora.toml, at another provider, and run `aurora init` again.",
        )
        return
    shared = common_fate(subject.storage("primary").url, subject.storage("secondary").url)
    if shared:
        yield warning(
            "common-fate",
            f"one accident can take both storages: {'; '.join(shared)}",
            "Put the secondary at another provider: one account that is closed or broken into "
            "takes both.",
        )
    else:
        yield good("apart", "the two storages share nothing that can be seen from here")


def _keys(slots: Sequence[KeySlot]) -> Iterator[Finding]:
    for slot in slots:
        name = f"{slot.place}: the key slot {slot.id[:8]} ({slot.kind}, {slot.label or 'no label'})"
        if not slot.genuine:
            yield failed(
                "slot-foreign",
                f"{slot.place}: the key slot {slot.id} was not made by an owner of the key",
                "Somebody wrote to the storage. Delete it, and change the storage's credentials.",
            )
            continue
        if not slot.proven_at:
            yield warning(
                "slot-unproven",
                f"{name} was never seen to open on this machine",
                "aurora key test, with the secret from where it is kept: a code copied with a "
                "mistake is found out on the worst day.",
            )
        if slot.created_at is not None and clock.now() - slot.created_at > _OLD_SECRET:
            yield warning(
                "slot-old",
                f"{name} is {(clock.now() - slot.created_at).days} days old",
                "aurora key rotate passphrase: once a year, and when somebody leaves.",
            )
    proven = [slot for slot in slots if slot.genuine and slot.proven_at]
    if slots and len(proven) == len(slots):
        yield good("slots-proven", f"{plural(len(slots), 'key slot')}, each seen to open")
    for place in dict.fromkeys(slot.place for slot in slots):
        if sum(1 for slot in slots if slot.place == place and slot.genuine) < 2:
            yield failed(
                "one-slot",
                f"{place}: there is one key slot only; if its secret is lost, so is everything",
                f"aurora key add recovery-code --storage {place}, and keep it off this machine.",
            )


def _trail(trail: TrailReport | None) -> Iterator[Finding]:
    if trail is None:
        yield warning("trail-unseen", "the audit trail could not be looked at", "See above.")
    elif trail.ok:
        yield good("trail-whole", f"the audit trail is whole: {plural(trail.records, 'record')}")
    else:
        yield failed(
            "trail-broken",
            f"the audit trail is not whole: {len(trail.altered)} altered, {len(trail.removed)} "
            "removed",
            "Run `aurora audit verify`: it names them. Somebody wrote to the storage.",
        )


def _habits(habits: Habits | None) -> Iterator[Finding]:
    if habits is None:
        return
    goal = timedelta(seconds=habits.goal)
    wanted = (
        ("recovery-test", "recovery test", habits.recovery_test, goal,
         "aurora backup test-recovery"),
        ("full-test", "full recovery test from the secondary", habits.full_test, _MONTHLY,
         "aurora backup test-recovery --full"),
        ("drill", "drill", habits.drill, timedelta(seconds=habits.drilled), "aurora drill run"),
        ("verification", "verification", habits.verification, _MONTHLY,
         "aurora backup verify latest"),
    )  # fmt: skip
    for code, name, done, every, command in wanted:
        if done is None:
            yield warning(f"{code}-never", f"no {name} was ever done and good", f"Run `{command}`.")
        elif clock.now() - done > every:
            age = format_duration((clock.now() - done).total_seconds())
            yield warning(f"{code}-overdue", f"the last good {name} was {age} ago",
                          f"Run `{command}`.")  # fmt: skip
        else:
            yield good(code, f"the last good {name} was on {clock.isoformat(done)}")
