"""Who may write the documents of a repository: its id and the key of its MACs."""

from dataclasses import dataclass, field

from aurora.repository import signed
from aurora.repository.layout import FORMAT


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs and proves documents that belong to one repository."""

    repository_id: bytes
    mac_key: bytes = field(repr=False)

    def clear(self, kind: str, name: str, members: signed.Document) -> bytes:
        """The stored bytes of a clear document *name*."""
        document = {**members, **self._common(kind)}
        return signed.write_clear(
            document, name=name, repository_id=self.repository_id, mac_key=self.mac_key
        )

    def prove(self, kind: str, name: str, stored: bytes) -> signed.Document:
        """The clear document in *stored*. Raises ObjectDamaged unless it is this signer's."""
        document = signed.read_clear(stored, name=name)
        signed.prove_clear(
            document, name=name, repository_id=self.repository_id, mac_key=self.mac_key
        )
        return signed.of_kind(document, kind, name)

    def packed(self, kind: str, name: str, members: signed.Document) -> bytes:
        """The stored bytes of a packed document *name*."""
        document = {**members, **self._common(kind)}
        return signed.write_packed(
            document, name=name, repository_id=self.repository_id, mac_key=self.mac_key
        )

    def unpack(self, kind: str, name: str, stored: bytes) -> signed.Document:
        """The packed document in *stored*. Raises ObjectDamaged unless it is this signer's."""
        text = signed.read_packed(
            stored, name=name, repository_id=self.repository_id, mac_key=self.mac_key
        )
        return signed.of_kind(signed.loads(text, name), kind, name)

    def _common(self, kind: str) -> signed.Document:
        return {"format": FORMAT, "kind": kind, "repository": self.repository_id.hex()}
