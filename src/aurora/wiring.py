"""The composition root: from settings to open storages, repositories and connections.

The only module that knows every concrete class. Nothing is opened, fetched or asked
before it is needed, and no secret is asked for twice.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any, Literal

from aurora.config import SecretRef, Settings, StorageSettings, load_settings
from aurora.config.references import (
    PREFIX,
    Place,
    code_reference,
    collector_references,
    credential_references,
    passphrase_reference,
    password_reference,
)
from aurora.config.secrets import reference_from_environment
from aurora.config.settings import slug
from aurora.errors import AuroraError, UsageError, WrongKey
from aurora.events import EventSink, Warned, discard
from aurora.operations.objects import SourceObjects
from aurora.postgres.conninfo import ConnInfo, needs_password, supabase_project
from aurora.repository.door import ClosedRepository, Repository
from aurora.repository.keys import Passphrase, RecoveryCode, Secret
from aurora.repository.layout import UNLOCKED
from aurora.repository.mirror import MirrorView
from aurora.repository.sealed import Identities, Recipients
from aurora.repository.sealed_door import SealedRepository
from aurora.storage.addresses import parse_address, provider_of
from aurora.storage.base import Storage
from aurora.storage.later import Later, StandIn
from aurora.storage.object_lock import LockRule, ObjectLock
from aurora.storage.open import Patience, open_storage
from aurora.storage.s3_requests import BucketState, S3Requests
from aurora.storage.supabase_rest import SupabaseRest

DEFAULT_CONFIG = Path("aurora.toml")
_TIMEOUT = 300.0  # seconds for one request to a storage
_HASTY_TIMEOUT = 30.0  # where somebody waits for an answer, and nothing large is read
HASTY = Patience(budget=8.0, longest=3.0)
"""Where "it does not answer" is an answer."""
Ask = Callable[[str], str | None]  # a question -> the answer, None where nobody can answer


def nobody(_question: str) -> str | None:
    """The :data:`Ask` of a run without a terminal."""
    return None


class Aurora:
    """Everything that one configuration describes, opened on demand.

    Safe to share between threads. Close nothing: what is opened here holds no lock.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        ask: Ask = nobody,
        ask_passphrase: Ask | None = None,
        sink: EventSink = discard,
        patience: Patience | None = None,
    ) -> None:
        """*ask_passphrase* is for passphrases where they are being chosen; *ask* by default.

        *patience* is for storages that do not answer.
        """
        self.settings = settings
        self._ask = ask
        self._sink = sink
        self._patience = patience
        self._ask_passphrase = ask_passphrase or ask
        self._lock = RLock()
        self._passphrases: dict[Place, str] = {}
        self._storages: dict[Place, Storage] = {}
        self._object_locks: dict[Place, ObjectLock | None] = {}
        self._source: ConnInfo | None = None

    @classmethod
    def load(
        cls,
        path: Path | str = DEFAULT_CONFIG,
        *,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        ask: Ask = nobody,
        sink: EventSink = discard,
        patience: Patience | None = None,
    ) -> "Aurora":
        """Read aurora.toml at *path*; *overrides* (by section and field) win over it.

        *sink* hears of a storage that does not answer and is tried again.

        Raises UsageError.
        """
        return cls(load_settings(Path(path), overrides), ask=ask, sink=sink, patience=patience)

    def impatient(self) -> "Aurora":
        """The same, for what must go on soon where a storage does not answer."""
        made = Aurora(
            self.settings, ask=self._ask, ask_passphrase=self._ask_passphrase, sink=self._sink,
            patience=HASTY,
        )  # fmt: skip
        made._passphrases = self._passphrases  # what was asked for is not asked for again
        return made

    @cached_property
    def database(self) -> str:
        """The source's label in the repository."""
        if self.settings.source.name:
            return self.settings.source.name
        return default_label(self._source_as_written())

    @property
    def has_secondary(self) -> bool:
        return self.settings.secondary is not None

    def source(self) -> ConnInfo:
        """How to reach the source, with its password where one is known. Raises UsageError."""
        with self._lock:
            if self._source is None:
                self._source = self._with_password(self._source_as_written())
            return self._source

    def source_dsn(self) -> str:
        """The same as a libpq string. It holds the password: never show it."""
        return self.source().dsn()

    def source_objects(self) -> SourceObjects:
        """Whether and how the objects of the source's Storage are backed up.

        Without a key the run goes on and says what the backup lacks. Raises UsageError.
        """
        settings = self.settings.objects
        client = self._project_storage("source") if settings.include else None
        return SourceObjects(
            wanted=settings.include,
            client=client,
            own=self._own_buckets(client) if client is not None else (),
            jobs=settings.jobs,
            max_rate=settings.max_rate,
            skip=settings.skip,
            checkpoint_interval=settings.checkpoint_interval,
        )

    def _own_buckets(self, client: SupabaseRest) -> tuple[str, ...]:
        """Buckets of the project that hold its backups: they would hold themselves, and grow."""
        project = provider_of(f"supabase+{client.url}/bucket").account
        storages = (self.settings.primary, self.settings.secondary)
        found = [provider_of(one.url) for one in storages if one is not None and one.url]
        return tuple(one.bucket for one in found if one.account == project)

    def target_storage(self, target: str | None) -> SupabaseRest | None:
        """The Storage that objects are restored to; None where no key of it is known.

        *target* is the connection string given for the restore; None means the source.
        """
        found = self._project_storage("target", target)
        return self._project_storage("source") if found is None and target is None else found

    def _project_storage(
        self, side: Literal["source", "target"], dsn: str | None = None
    ) -> SupabaseRest | None:
        settings = self.settings.source if side == "source" else self.settings.target
        prefix = f"AURORA_{side.upper()}_STORAGE_KEY"
        reference = reference_from_environment(prefix) or settings.storage_key
        if reference is None:
            return None
        url = settings.storage_url
        if not url and (dsn or side == "source"):
            url = supabase_project(ConnInfo.parse(dsn) if dsn else self._source_as_written())
        if not url and side == "target" and dsn is None:
            url = self.settings.source.storage_url
        if not url:
            raise UsageError(
                f"a key of the {side}'s Storage is given, and not whose it is",
                hint=f"Set storage_url under [{side}] in aurora.toml to the project's URL, or "
                f"AURORA_{side.upper()}_STORAGE_URL.",
            )
        key = reference.resolve(f"the key of the {side}'s Storage", base=self.settings.base)
        return SupabaseRest(url, key, connections=self.settings.objects.jobs + 2)

    def passphrase(self, place: Place) -> str:
        """The passphrase of a storage's repository, asked for at most once. Raises UsageError."""
        with self._lock:
            if place not in self._passphrases:
                self._passphrases[place] = self._find_passphrase(place, self._ask_passphrase)
            return self._passphrases[place]

    def secret(self, place: Place) -> Secret:
        """What opens a storage's repository: a recovery code where one is given, else the
        passphrase. Raises UsageError."""
        code = code_reference(place)
        if code is None:
            return Passphrase(self.passphrase(place))
        return RecoveryCode(code.resolve(f"the {place} recovery code", base=self.settings.base))

    def recipients(self) -> Recipients:
        """Whom sealed backups are made for. Raises UsageError where nobody is named."""
        return Recipients.parse(self.settings.sealed.recipients)

    def secret_files(self) -> list[Path]:
        """The files that hold secrets, as far as this configuration refers to files."""
        references: list[SecretRef | str | None] = [
            password_reference(self.settings),
            reference_from_environment("AURORA_SOURCE_STORAGE_KEY")
            or self.settings.source.storage_key,
            reference_from_environment("AURORA_TARGET_STORAGE_KEY")
            or self.settings.target.storage_key,
        ]
        storages: dict[Place, StorageSettings | None] = {
            "primary": self.settings.primary,
            "secondary": self.settings.secondary,
        }
        for place, storage in storages.items():
            if storage is not None:
                references.append(passphrase_reference(place, storage))
                references += credential_references(place, storage).values()
                references += collector_references(place, storage).values()
        return [
            Path(self.settings.base, Path(reference.file).expanduser())
            for reference in references
            if isinstance(reference, SecretRef) and reference.file is not None
        ]

    def storage(self, place: Place = "primary") -> Storage:
        """The storage, with retries. Touches no network. Raises UsageError."""
        with self._lock:
            if place not in self._storages:
                settings = self._storage_settings(place)
                self._storages[place] = open_storage(
                    settings.url,
                    self._credentials(place, settings),
                    lock=self.object_lock(place),
                    base_directory=self.settings.base,
                    patience=self._patience,
                    timeout=_TIMEOUT if self._patience is None else _HASTY_TIMEOUT,
                    sink=self._sink,
                )
            return self._storages[place]

    def object_lock(self, place: Place) -> ObjectLock | None:
        """The object lock of a storage; None where none is wanted. Raises UsageError."""
        with self._lock:
            if place not in self._object_locks:
                settings = self._storage_settings(place)
                credentials = self._credentials(place, settings)
                self._object_locks[place] = self._lock_by(settings, credentials)
            return self._object_locks[place]

    def bucket_state(self, place: Place) -> BucketState | None:
        """What an S3 bucket says of its versions and its lock; None for what is no such bucket.

        Raises UsageError: no key is given. StorageError.
        """
        settings = self._storage_settings(place)
        address = parse_address(settings.url, self.settings.base)
        if address.kind != "s3":
            return None
        return S3Requests(address, self._credentials(place, settings)).state()

    def versions_of(self, place: Place) -> S3Requests:
        """The versions of an S3 storage, by the collector's credentials where there are such.

        Raises UsageError: it is no such storage, or no key is given.
        """
        settings = self._storage_settings(place)
        address = parse_address(settings.url, self.settings.base)
        if address.kind != "s3":
            raise UsageError(
                f"the {place} {address.url} is no S3 storage: its versions cannot be asked for",
                hint="Bring back older versions with the provider's own tools.",
            )
        credentials = self._collector_credentials(place, settings)
        return S3Requests(address, credentials or self._credentials(place, settings))

    def longest_retention(self, place: Place) -> timedelta:
        """How long retention keeps a backup of that storage at most."""
        retention = self.settings.retention
        kinds = ("full", "sealed", "safety", "window")
        return timedelta(seconds=max(retention.of(place, kind) for kind in kinds))

    def lock_for_collecting(self, place: Place) -> ObjectLock | None:
        """The same by the credentials that may delete, where there are such."""
        settings = self._storage_settings(place)
        credentials = self._collector_credentials(place, settings)
        return self._lock_by(settings, credentials) if credentials else self.object_lock(place)

    def _lock_by(
        self, settings: StorageSettings, credentials: Mapping[str, str]
    ) -> ObjectLock | None:
        if settings.object_lock is None:
            return None
        period = timedelta(seconds=settings.object_lock)
        return ObjectLock(
            settings.url,
            credentials,
            LockRule(period, settings.object_lock_mode, UNLOCKED),
            timeout=_TIMEOUT if self._patience is None else _HASTY_TIMEOUT,
            patience=self._patience,
            sink=self._sink,
        )

    def open_for_collecting(self, place: Place) -> Repository:
        """The repository on *place* by the credentials that may delete, where there are such.

        A manifest that is damaged on the primary is read from the secondary. Raises as
        :meth:`open_primary`.
        """
        storage = self._collector_storage(place)
        if place == "secondary":
            with self._naming("secondary"):
                view = MirrorView.open(storage, self.secret("secondary"))
            return Repository.open(view, self.secret("primary"))
        fallback = Later(self._secondary_unasked) if self.has_secondary else None
        with self._naming("primary"):
            return Repository.open(storage, self.secret("primary"), fallback=fallback)

    def _collector_storage(self, place: Place) -> Storage:
        settings = self._storage_settings(place)
        credentials = self._collector_credentials(place, settings)
        if not credentials:
            return self.storage(place)
        return open_storage(
            settings.url,
            credentials,
            base_directory=self.settings.base,
            patience=self._patience,
            lock=self.lock_for_collecting(place),
            sink=self._sink,
        )

    def _collector_credentials(self, place: Place, settings: StorageSettings) -> dict[str, str]:
        references = collector_references(place, settings)
        return self._resolved(references, f"{place}.collector_credentials")

    def open_for_reading(self, place: str, *, sink: EventSink = discard) -> Repository:
        """The repository to list, verify and restore from.

        On the primary, what is missing or damaged is read from the secondary where that can
        be opened without asking anybody; *sink* is warned. ``"secondary"`` reads there alone.

        Raises as :meth:`open_primary`, and UsageError for any other *place*.
        """
        if place == "secondary":
            return self.open_secondary(sink=sink)
        if place != "primary":
            raise UsageError(f"no storage is called {place!r}", hint="primary or secondary.")
        fallback = (
            StandIn(self._secondary_unasked, lambda error: _tell_absence(error, sink))
            if self.has_secondary
            else None
        )
        with self._naming("primary"):
            return Repository.open(
                self.storage("primary"), self.secret("primary"), fallback=fallback, sink=sink
            )

    def open_sealed(
        self, place: str, identities: Sequence[Path], *, sink: EventSink = discard
    ) -> SealedRepository:
        """The sealed backups of *place*, opened by identity files.

        On the primary no other key is needed, and none is asked for. Where the repository's
        own secret is given it proves whose the backups are; otherwise *sink* is warned.

        Raises as :meth:`open_secondary`, and UsageError for an identity that is none.
        """
        keys = Identities.read(identities)
        storage = self.storage("primary") if place == "primary" else self.open_secondary_view()
        try:
            mac_key = Repository.open(storage, self._secret_unasked("primary")).mac_key
        except (UsageError, WrongKey) as error:
            mac_key = None
            sink(
                Warned(
                    "origin-unproven",
                    f"the repository's own key is not at hand ({error.message}), so nothing proves "
                    "that the sealed backup is yours",
                    "Anybody who can write to the storage and knows a recipient's public key "
                    "could have made it. Look at the rows before you rely on them.",
                )
            )
        return SealedRepository(storage, keys, mac_key=mac_key, sink=sink)

    def open_for_verifying(self, place: str, *, keys: bool) -> ClosedRepository:
        """What *place* itself holds, nothing standing in; without *keys* nothing is opened.

        The secondary takes its own passphrase in any case, to look under the outer envelope.
        """
        if place not in ("primary", "secondary"):
            raise UsageError(f"no storage is called {place!r}", hint="primary or secondary.")
        if keys:
            return self.open_primary() if place == "primary" else self.open_secondary()
        return ClosedRepository(
            self.storage() if place == "primary" else self.open_secondary_view()
        )

    def safety_database(self, dsn: str, name: str) -> str:
        """The label for safety backups of database *name* on the server of *dsn*.

        The source's own label where it is the source, else one of its own, so that backups
        of two databases never mix.
        """
        target, source = ConnInfo.parse(dsn).with_dbname(name), self._source_as_written()
        if target.redacted() == source.redacted():
            return self.database
        return slug(f"{default_label(target)}-at-{target.host}")

    def open_primary(self) -> Repository:
        """The primary's repository. Raises RepositoryNotFound, WrongKey, StorageError …"""
        with self._naming("primary"):
            return Repository.open(self.storage("primary"), self.secret("primary"))

    def open_owned(self, place: Place) -> Repository:
        """The repository that *place* itself is, with its own key slots. Raises as open_primary."""
        if place == "secondary" and not self.has_secondary:
            raise UsageError(
                "no secondary storage is configured",
                hint="Set url under [secondary] in aurora.toml.",
            )
        with self._naming(place):
            return Repository.open(self.storage(place), self.secret(place), role=place)

    def open_secondary_view(self) -> MirrorView:
        """The secondary as a storage without its outer envelope. Raises as open_primary."""
        with self._naming("secondary"):
            return MirrorView.open(self.storage("secondary"), self.secret("secondary"))

    def open_secondary(self, *, sink: EventSink = discard) -> Repository:
        """The repository as the secondary holds it: for when the primary is gone or damaged."""
        return Repository.open(self.open_secondary_view(), self.secret("primary"), sink=sink)

    @contextmanager
    def _naming(self, place: Place) -> Iterator[None]:
        """Let a wrong key say on which storage."""
        try:
            yield
        except WrongKey as error:
            message = f"{error.message} on the {place} storage {self.storage(place).url}"
            raise WrongKey(message, hint=error.hint, context=error.context) from error

    def _secret_unasked(self, place: Place) -> Secret:
        with self._lock:
            code = code_reference(place)
            if code is None and place not in self._passphrases:
                self._passphrases[place] = self._find_passphrase(place, nobody)
        return self.secret(place)

    def _secondary_unasked(self) -> Storage:
        self._secret_unasked("secondary")
        return self.open_secondary_view()

    def _source_as_written(self) -> ConnInfo:
        if not self.settings.source.dsn:
            raise UsageError(
                "no source is configured",
                hint="Set dsn under [source] in aurora.toml, or AURORA_SOURCE_DSN.",
            )
        return ConnInfo.parse(self.settings.source.dsn)

    def _with_password(self, info: ConnInfo) -> ConnInfo:
        reference = password_reference(self.settings)
        if reference is not None:
            password = reference.resolve("the source's password", base=self.settings.base)
            return info.with_password(password)
        if info.settled().password or self._ask is nobody or not needs_password(info):
            # libpq looks into PGPASSWORD and ~/.pgpass by itself.
            return info
        answer = self._ask(f"Password of {info.redacted()}")
        return info.with_password(answer) if answer else info

    def _find_passphrase(self, place: Place, ask: Ask) -> str:
        prefix = f"{PREFIX[place]}_PASSPHRASE"
        reference = passphrase_reference(place, self._storage_settings(place))
        name = f"the {place} passphrase"
        if reference is not None:
            return reference.resolve(name, base=self.settings.base)
        answer = ask(f"Passphrase of the {place} repository")
        if answer:
            return answer
        raise UsageError(
            f"{name} is not given",
            hint=f"Give it by {prefix}_FILE, {prefix}_COMMAND, {prefix}, or passphrase under "
            f"[{place}] in aurora.toml; on a terminal it is asked for.",
        )

    def _storage_settings(self, place: Place) -> StorageSettings:
        settings = self.settings.primary if place == "primary" else self.settings.secondary
        if settings is None or not settings.url:
            raise UsageError(
                f"no {place} storage is configured",
                hint=f"Set url under [{place}] in aurora.toml.",
            )
        return settings

    def _credentials(self, place: Place, settings: StorageSettings) -> dict[str, str]:
        return self._resolved(credential_references(place, settings), f"{place}.credentials")

    def _resolved(self, references: Mapping[str, SecretRef | str], table: str) -> dict[str, str]:
        return {
            key: value.resolve(f"[{table}] {key}", base=self.settings.base, lines=True)
            if isinstance(value, SecretRef)
            else value
            for key, value in references.items()
        }


def default_label(info: ConnInfo) -> str:
    """A label for a source: its database's name, a Supabase project's reference first.

    Every Supabase database is called postgres, which tells no two apart.
    """
    return slug(supabase_project(info) or info.dbname)


def _tell_absence(error: AuroraError, sink: EventSink) -> None:
    """Of the secondary, which would stand in. That its secret is not given needs no words."""
    if not isinstance(error, UsageError):
        sink(
            Warned(
                "secondary-not-asked",
                f"the secondary cannot stand in: {error.message}",
                "What is whole on the primary is read from there. Mend the secondary afterwards.",
            )
        )
