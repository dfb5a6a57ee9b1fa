"""The program in docs/format.md restores a backup without a line of Aurora."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aurora import clock
from aurora.repository.door import BackupEntry, Ref, Repository
from aurora.repository.ids import new_backup_id
from aurora.repository.keys import WEAK_KDF_FOR_TESTS, Passphrase
from aurora.repository.layout import ObjectType
from aurora.repository.mirror import MirrorView, replicate
from aurora.storage.local import LocalStorage

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "format.md"
PASSPHRASE, OUTER_PASSPHRASE = "correct hörse", "outer"
ROWS = b"1\talpha\n2\tbeta\n" * 5000
FEW = b"x\ty\n"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text block of the document, as a file."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) == 1
    path = tmp_path_factory.mktemp("hand") / "restore_by_hand.py"
    path.write_text(blocks[0])
    assert "import aurora" not in blocks[0]
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository in a directory."""
    storage = LocalStorage(tmp_path / "primary")
    return Repository.create(storage, passphrase=PASSPHRASE, kdf=WEAK_KDF_FOR_TESTS)[0]


def _backup(repository: Repository) -> BackupEntry:
    """A backup as the logical engine describes one: two tables, one in an object of its own."""
    with repository.write("production") as writer:
        used: list[Ref] = []

        def put(payload: bytes, kind: ObjectType = ObjectType.CHUNK) -> dict[str, Any]:
            used.append(writer.put(kind, payload))
            return {"name": used[-1].name, "raw": used[-1].raw}

        long = {
            "oid": 7,
            "extents": [put(ROWS), put(b"zz" + FEW) | {"offset": 2, "length": len(FEW)}],
        }
        manifest = {
            "snapshot": {
                "archive": {"pieces": [put(b"PGDMP one"), put(b" two")]},
                "globals": [put(b"create role x;\n")],
                "tables": [
                    {"oid": 7, "schema": "public", "name": 'a "b"', "columns": [
                        {"name": "id"}, {"name": "sum", "generated": True}, {"name": "v"}]},
                    {"oid": 8, "schema": "app", "name": "few", "columns": [{"name": "v"}]},
                ],
            },
            "data": [{"oid": 8, "extents": [put(FEW)]}, {"oid": 7, "extents": []}],
            "objects": [put(json.dumps(long).encode(), ObjectType.TABLE)],
        }  # fmt: skip
        moment = clock.now()
        return writer.commit(
            backup_id=new_backup_id("full", moment),
            type="full",
            created_at=moment,
            manifest=manifest,
            uses=used,
        )


def _run(program: Path, *arguments: object) -> None:
    # Isolated and elsewhere, so that nothing of the source tree can be imported.
    subprocess.run(
        [sys.executable, "-I", "-W", "error", program, *map(str, arguments)],
        check=True,
        cwd=program.parent,
        timeout=60,
    )


def _check(out: Path) -> None:
    assert (out / "schema.dump").read_bytes() == b"PGDMP one two"
    assert (out / "globals.sql").read_bytes() == b"create role x;\n"
    assert (out / "tables" / "7.copy").read_bytes() == ROWS + FEW
    assert (out / "tables" / "8.copy").read_bytes() == FEW
    load = (out / "load.sql").read_text()
    assert '\\copy "public"."a ""b""" ("id", "v") from \'tables/7.copy\'\n' in load
    assert json.loads((out / "manifest.json").read_text())["commit"]["sequence"] == 1


def test_from_the_primary(program: Path, repository: Repository, tmp_path: Path) -> None:
    """Directory, passphrase and the beginning of a backup's id."""
    entry = _backup(repository)
    out = tmp_path / "out"
    _run(program, tmp_path / "primary", PASSPHRASE, entry.id[:16], out)
    _check(out)


def test_from_the_secondary(program: Path, repository: Repository, tmp_path: Path) -> None:
    """Unwrapped first; what comes out is the primary, which Aurora opens too."""
    entry = _backup(repository)
    storage = LocalStorage(tmp_path / "secondary")
    mirror, _ = MirrorView.create(storage, OUTER_PASSPHRASE, kdf=WEAK_KDF_FOR_TESTS)
    assert replicate(repository.storage, mirror).is_complete
    again = tmp_path / "again"
    _run(program, "--secondary", tmp_path / "secondary", OUTER_PASSPHRASE, again)
    opened = Repository.open(LocalStorage(again), Passphrase(PASSPHRASE))
    assert opened.manifest(opened.resolve(entry.id)) == repository.manifest(entry)
    out = tmp_path / "out"
    _run(program, again, PASSPHRASE, entry.id, out)
    _check(out)


def test_it_refuses_damage(program: Path, repository: Repository, tmp_path: Path) -> None:
    """A flipped bit ends it, as everywhere."""
    entry = _backup(repository)
    path = next((tmp_path / "primary" / "chunks").rglob("*-*"))
    stored = bytearray(path.read_bytes())
    stored[-1] ^= 1
    path.write_bytes(stored)
    with pytest.raises(subprocess.CalledProcessError):
        _run(program, tmp_path / "primary", PASSPHRASE, entry.id, tmp_path / "out")
