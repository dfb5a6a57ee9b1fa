"""`aurora init`: check everything, make the repositories, write the configuration.

Order of writes, so that a crash anywhere is continued by the same command: the source's
password file, the primary's repository, the secondary's, then aurora.toml. A repository
that is there already and opens with the passphrase is kept. Recovery codes are handed to
``reveal`` the moment they exist: they are stored nowhere.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

from aurora import clock
from aurora.errors import AuroraError, RepositoryNotFound, UsageError, WrongKey
from aurora.events import EventSink, Noted, Warned, discard
from aurora.operations.configuration import (
    Draft,
    Reference,
    StorageDraft,
    add_npm_scripts,
    keep_secret,
    write_new,
)
from aurora.operations.findings import Finding, Level, guarded
from aurora.operations.lock_checks import check_object_lock
from aurora.operations.source_checks import check_source
from aurora.operations.storage_checks import check_apart_from_source, check_storage, check_together
from aurora.postgres.conninfo import ConnInfo
from aurora.repository.creation import unlock
from aurora.repository.door import Repository
from aurora.repository.keys import Kdf, Passphrase, RecoveryCode, new_recovery_code
from aurora.repository.layout import ObjectType
from aurora.repository.mirror import MirrorView, replicate
from aurora.repository.reader import ObjectReader
from aurora.repository.slots import write_slot
from aurora.storage.base import Storage
from aurora.storage.object_lock import ObjectLock

Place = Literal["primary", "secondary"]
Reveal = Callable[[Place, str], None]


class Subject(Protocol):
    """What init needs of the composition root (:class:`aurora.wiring.Aurora` is one)."""

    @property
    def database(self) -> str: ...
    @property
    def has_secondary(self) -> bool: ...
    def source(self) -> ConnInfo: ...
    def storage(self, place: Place) -> Storage: ...
    def object_lock(self, place: Place) -> ObjectLock | None: ...
    def longest_retention(self, place: Place) -> timedelta: ...
    def passphrase(self, place: Place) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to make, and where."""

    config: Path  # aurora.toml
    written: bool  # it is there already: make what is missing, leave it alone
    keep_password: bool  # the source's password came in the command line: move it to a file
    password: Reference | None
    primary: StorageDraft
    secondary: StorageDraft | None
    npm: Path | None  # directory of package.json
    jobs: int = 1
    skip: Collection[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the checks found. Nothing is written yet."""

    options: Options
    findings: Sequence[Finding]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level is Level.ERROR]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is there now."""

    config: Path
    config_written: bool
    database: str
    repository_ids: Mapping[Place, str]
    created: Sequence[Place]  # repositories that this run made
    codes: Mapping[Place, str] = field(default_factory=dict, repr=False)  # recovery codes
    findings: Sequence[Finding] = ()  # of the checks
    scripts_added: Sequence[str] = ()
    scripts_kept: Sequence[str] = ()


def refuse_difference(
    config: Path, written: Mapping[str, Any], asked: Mapping[str, Mapping[str, str]]
) -> None:
    """Raise UsageError where the command line contradicts the file that is there already."""
    for section, fields in asked.items():
        for key, wanted in fields.items():
            held = str((written.get(section) or {}).get(key) or "")
            same = (
                ConnInfo.parse(wanted).uri() == ConnInfo.parse(held).uri()
                if (key == "dsn" and held)
                else wanted == held
            )
            if not same:
                raise UsageError(
                    f"{config} exists already and says otherwise: {key} under [{section}] "
                    f"is {held or 'not set'}",
                    hint="It was left as it is. Edit it by hand and run `aurora init` without "
                    "options, move it away, or name another file: aurora --config FILE init …",
                )


def plan(subject: Subject, options: Options) -> Plan:
    """Look at the source and the storages. Writes nothing but the probe's own objects."""
    return Plan(options=options, findings=tuple(_look(subject, options)))


def _look(subject: Subject, options: Options) -> Iterator[Finding]:
    yield from guarded(lambda: check_source(subject.source(), jobs=options.jobs, skip=options.skip))
    yield from guarded(lambda: check_storage("primary", subject.storage("primary")))
    yield from guarded(lambda: _check_lock(subject, "primary"))
    yield from guarded(
        lambda: check_apart_from_source("primary", subject.storage("primary"), subject.source())
    )
    if options.secondary is not None:
        yield from guarded(lambda: check_storage("secondary", subject.storage("secondary")))
        yield from guarded(lambda: _check_lock(subject, "secondary"))
        yield from guarded(
            lambda: check_together(subject.storage("primary"), subject.storage("secondary"))
        )


def _check_lock(subject: Subject, place: Place) -> Iterator[Finding]:
    lock = subject.object_lock(place)
    if lock is not None:
        yield from check_object_lock(place, lock, longest=subject.longest_retention(place))


def refuse_errors(checked: Plan) -> None:
    """Raise UsageError where a check found an error."""
    if errors := checked.errors:
        raise UsageError(
            f"{len(errors)} of the checks failed: {errors[0].message}",
            hint=f"{errors[0].hint} Nothing was made.".strip(),
            context={"codes": [finding.code for finding in errors]},
        )


def apply(subject: Subject, checked: Plan, *, reveal: Reveal, sink: EventSink = discard) -> Report:
    """Make what is missing.

    Raises:
        WrongKey: a storage holds a repository that the passphrase does not open.
        UsageError: a storage holds something else, or a file is in the way.
        StorageError: a storage failed; run init again to continue.
    """
    options = checked.options
    password = _keep_password(subject, options, sink)
    if options.secondary is not None:
        _refuse_lost_primary(subject)
    making = _Making(fresh=not options.written, reveal=reveal, sink=sink)
    primary = making.primary(subject)
    if options.secondary is not None:
        mirror = making.secondary(subject)
        replicate(primary.storage, mirror, sink=sink)
    written = not options.written
    if written:
        draft = Draft(
            dsn=subject.source().uri(),
            name=subject.database,
            password=password,
            primary=options.primary,
            secondary=options.secondary,
        )
        write_new(options.config, draft.toml())
    added, kept = add_npm_scripts(options.npm) if options.npm is not None else ((), ())
    return Report(
        config=options.config,
        config_written=written,
        database=subject.database,
        repository_ids=making.ids,
        created=tuple(making.created),
        codes=making.codes,
        findings=checked.findings,
        scripts_added=added,
        scripts_kept=kept,
    )


def _refuse_lost_primary(subject: Subject) -> None:
    """Beside a secondary that holds backups, an empty primary is a lost one, not a new one.

    Raises:
        UsageError: nothing was made.
    """
    try:
        Repository.open(subject.storage("primary"), Passphrase(subject.passphrase("primary")))
    except RepositoryNotFound:
        pass
    except AuroraError:
        return  # something is there; what is wrong with it is told where it is opened
    else:
        return
    try:
        mirror = MirrorView.open(
            subject.storage("secondary"), Passphrase(subject.passphrase("secondary"))
        )
    except AuroraError:
        return
    if any(mirror.list(ObjectType.BACKUP.prefix)):
        raise UsageError(
            f"the primary {subject.storage('primary').url} is empty, and the secondary "
            f"{subject.storage('secondary').url} holds the backups of another repository",
            hint="Nothing was made. If the primary was lost, `aurora backup heal all` fills it "
            "again from the secondary. For a new repository give both storages new places.",
        )


def _keep_password(subject: Subject, options: Options, sink: EventSink) -> Reference | None:
    password = subject.source().password
    if not options.keep_password or not password or options.written:
        return options.password
    base = options.config.parent
    path = keep_secret(base, "source-password", password)
    sink(
        Warned(
            "password-moved",
            f"the password in --source was moved to {path} (readable by you alone)",
            "aurora.toml refers to that file. The password stays in your shell's history: remove "
            "it there. Keep the file out of version control (its directory has a .gitignore).",
        )
    )
    return {"file": str(path.relative_to(base))}


class _Making:
    """The repositories, each made or found."""

    def __init__(self, *, fresh: bool, reveal: Reveal, sink: EventSink) -> None:
        self._fresh, self._reveal, self._sink = fresh, reveal, sink
        self.ids: dict[Place, str] = {}
        self.codes: dict[Place, str] = {}
        self.created: list[Place] = []

    def primary(self, subject: Subject) -> Repository:
        storage, passphrase = subject.storage("primary"), subject.passphrase("primary")
        try:
            repository = Repository.open(storage, Passphrase(passphrase))
        except RepositoryNotFound:
            repository, code = Repository.create(storage, passphrase=passphrase)
            self._made("primary", code)
        except WrongKey as error:
            raise _not_ours(error, "primary", storage) from error
        else:
            self._found("primary", repository, storage, passphrase)
        self.ids["primary"] = repository.repository_id.hex()
        return repository

    def secondary(self, subject: Subject) -> MirrorView:
        storage, passphrase = subject.storage("secondary"), subject.passphrase("secondary")
        try:
            mirror = MirrorView.open(storage, Passphrase(passphrase))
        except RepositoryNotFound:
            mirror, code = MirrorView.create(storage, passphrase=passphrase)
            self._made("secondary", code)
        except WrongKey as error:
            raise _not_ours(error, "secondary", storage) from error
        else:
            self._found("secondary", mirror, storage, passphrase)
        self.ids["secondary"] = mirror.repository_id.hex()
        return mirror

    def _made(self, place: Place, code: str) -> None:
        self.created.append(place)
        self.codes[place] = code
        self._reveal(place, code)

    def _found(
        self, place: Place, opened: Repository | MirrorView, storage: Storage, passphrase: str
    ) -> None:
        self._sink(
            Noted(f"{place}: {storage.url} holds a repository that opens with the passphrase; kept")
        )
        backups = opened.storage if isinstance(opened, Repository) else opened
        if not self._fresh or any(backups.list(ObjectType.BACKUP.prefix)):
            return
        # No configuration and no backup: an earlier init was cut off, perhaps before
        # anybody saw the recovery code. A second code costs nothing.
        code = _add_recovery_code(place, storage, passphrase)
        self.codes[place] = code
        self._reveal(place, code)


def _add_recovery_code(place: Place, storage: Storage, passphrase: str) -> str:
    master = unlock(ObjectReader(storage), Passphrase(passphrase), place)
    code = new_recovery_code()
    name, stored = write_slot(
        master,
        RecoveryCode(code),
        kdf=Kdf(),
        label="printed recovery code",
        created_at=clock.now(),
    )
    storage.put(name, stored, create_only=True)
    return code


def _not_ours(error: AuroraError, place: Place, storage: Storage) -> WrongKey:
    prefix = "AURORA" if place == "primary" else "AURORA_SECONDARY"
    return WrongKey(
        f"the {place} storage {storage.url} holds a repository that this passphrase does not open",
        hint=f"If it is yours, give its passphrase ({prefix}_PASSPHRASE_FILE). Otherwise give "
        "another directory or prefix. Nothing in it was changed.",
        context=error.context,
    )
