"""The config object: the first thing read of a repository, and readable by anybody."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from aurora import clock
from aurora.errors import ObjectMissing, RepositoryNotFound, UnsupportedRepository
from aurora.repository import canonical, signed
from aurora.repository.damage import damaged
from aurora.repository.layout import CONFIG, FORMAT, REPOSITORY_ID_BYTES
from aurora.repository.reader import ObjectReader

Role = Literal["primary", "secondary"]

_ALGORITHMS: dict[Role, dict[str, str]] = {
    "primary": {
        "aead": "aes-256-gcm",
        "compression": "zstd",
        "content_id": "blake3-keyed-256",
        "kdf": "hkdf-sha256",
        "mac": "hmac-sha256",
        "padding": "padme",
    },
    "secondary": {
        "aead": "chacha20-poly1305",
        "kdf": "hkdf-sha256",
        "mac": "hmac-sha256",
        "names": "aes-256-siv",
    },
}


@dataclass(frozen=True, slots=True)
class Config:
    """What the config object says; its MAC is proven only by an opened repository."""

    repository_id: bytes
    role: Role
    created_at: datetime
    document: signed.Document

    def prove(self, mac_key: bytes) -> None:
        """Raise ObjectDamaged unless the config was signed under this master key."""
        signed.prove_clear(
            self.document, name=CONFIG, repository_id=self.repository_id, mac_key=mac_key
        )


def write_config(
    *, repository_id: bytes, role: Role, created_at: datetime, mac_key: bytes
) -> bytes:
    """The stored bytes of a new repository's config."""
    document: signed.Document = {
        "algorithms": _ALGORITHMS[role],
        "created_at": clock.isoformat(created_at),
        "format": FORMAT,
        "kind": "config",
        "repository": repository_id.hex(),
        "role": role,
    }
    return signed.write_clear(document, name=CONFIG, repository_id=repository_id, mac_key=mac_key)


_LOST = (
    "Check the address, or make one with `aurora init`. If there was a primary here and it is "
    "lost, `aurora backup heal all` fills it again from the secondary."
)
MAKE_SECONDARY = "If it is new, or was lost, `aurora init` makes it and copies all backups."


def read_config(reader: ObjectReader, *, role: Role | None = None) -> Config:
    """The repository's config; *role* is what the caller takes the storage for.

    Raises:
        RepositoryNotFound: there is none.
        UnsupportedRepository: a newer format, or the storage has the other role.
        ObjectDamaged: it is not what was written.
    """
    try:
        config = reader.fetch(CONFIG, _parse)
    except ObjectMissing as error:
        raise RepositoryNotFound(
            f"no repository at {reader.storage.url}",
            hint=f"Check the address. {MAKE_SECONDARY}" if role == "secondary" else _LOST,
        ) from error
    if role is not None and config.role != role:
        raise _exchanged(reader.storage.url, config.role, role)
    return config


def _parse(stored: bytes) -> Config:
    _refuse_newer(stored)
    document = signed.read_clear(stored, name=CONFIG)
    try:
        repository_id = bytes.fromhex(document["repository"])
        created_at = clock.parse(document["created_at"])
        role = document["role"]
        algorithms = _ALGORITHMS[role]
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise damaged(CONFIG, "a member is absent or makes no sense") from error
    if len(repository_id) != REPOSITORY_ID_BYTES:
        raise damaged(CONFIG, "a member makes no sense")
    if document.get("format") != FORMAT or document.get("algorithms") != algorithms:
        raise UnsupportedRepository(
            "the repository uses algorithms that this version does not know",
            hint="Nothing was changed. Use the version of Aurora that made it, or a newer one.",
        )
    return Config(repository_id, role, created_at, document)


def _refuse_newer(stored: bytes) -> None:
    # Before anything else is looked at: a newer format may prove its config otherwise.
    try:
        document = canonical.loads(stored)
    except ValueError as error:
        raise damaged(CONFIG, "it is not JSON") from error
    number = document.get("format") if isinstance(document, dict) else None
    if isinstance(number, int) and number > FORMAT:
        raise UnsupportedRepository(
            f"the repository has format {number}, this version reads format {FORMAT}",
            hint="Nothing was changed. Install a newer version of Aurora.",
            context={"format": number, "supported": FORMAT},
        )


def _exchanged(url: str, found: Role, wanted: Role) -> UnsupportedRepository:
    return UnsupportedRepository(
        f"{url} holds a {found} repository, not a {wanted} one",
        hint="Nothing was changed. The two storages look exchanged: in aurora.toml the address "
        "of the primary belongs under [primary], that of the secondary under [secondary]. If "
        "the primary is lost, restore from the secondary instead of renaming it.",
        context={"found": found, "wanted": wanted},
    )
