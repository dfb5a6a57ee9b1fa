"""Measure backups and restores of Supabase Storage objects: rate and memory, by their number.

    python benchmarks/objects.py [--objects 1000 10000 100000] [--bytes 100] [--large 5]

A hosted-like server and the tests' stand-in for the Storage run beside Aurora on this machine,
so rates are a floor: here three programs share the processors. Memory is the largest resident
set of Aurora's process and its children. Rows and bytes are put where the stand-in keeps them;
everything that is measured goes through its HTTP. Nothing stays but what is printed.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the tests' stand-in

from stage import AuroraHere, Stage

from aurora.postgres.unprivileged import scratch_directory
from aurora.storage.supabase_rest import SupabaseRest
from aurora.testing.hosted import HostedServer, as_role
from tests.fixtures.storage_projects import StorageProject
from tests.fixtures.storage_server import StorageServer

GIB = 1 << 30


class ObjectsStage(Stage):
    """A server as Supabase hosts it, with a source and a target project on it."""

    def __init__(self, scratch: Path, bin_dir: Path | None) -> None:
        super().__init__(scratch)
        self.hosted = HostedServer(
            bin_dir=bin_dir, settings={"fsync": "off"}, supautils=True, data_dir=scratch / "hosted"
        )
        self.server = self.hosted.server
        self.made = ExitStack()

    def __enter__(self) -> "ObjectsStage":
        self.hosted.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.made.close()
        self.hosted.close()

    def dsn(self, database: str = "source") -> str:
        return self.hosted.dsn(database)

    def settle(self) -> None:
        """Nothing: the owner of a hosted project may not ask for a checkpoint."""

    def project(self, name: str) -> StorageProject:
        """A fresh project with its Storage, in place of one of the name."""
        dsn = self.hosted.new_project(name)
        blobs = self.scratch / f"blobs-{name}-{time.monotonic_ns()}"
        blobs.mkdir()
        server = StorageServer(as_role(dsn, "supabase_storage_admin"), blobs)
        server.size_limit = 8 * GIB
        self.made.callback(server.close)
        self.made.callback(shutil.rmtree, blobs, ignore_errors=True)
        client = self.made.enter_context(closing(SupabaseRest(server.url, server.service_key)))
        key = self.scratch / f"key-{name}"
        key.write_text(server.secret_key)
        key.chmod(0o600)
        self.env[f"AURORA_{name.upper()}_STORAGE_URL"] = server.url
        self.env[f"AURORA_{name.upper()}_STORAGE_KEY_FILE"] = str(key)
        return StorageProject(dsn, self.hosted.admin_dsn(name), server, client)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--objects", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--bytes", type=int, default=100, help="of each small object")
    parser.add_argument("--large", type=float, nargs="*", default=[], metavar="GIB")
    parser.add_argument("--no-restore", action="store_true", help="backups and verification alone")
    options = parser.parse_args()
    print(f"| objects | command | seconds | {'a second':>10} | CPU seconds | memory, MiB |")
    print("|---|---|---|---|---|---|")
    for count in options.objects:
        with _stage() as stage:
            _measure(stage, f"{count:,} of {options.bytes} bytes", count,
                     lambda source, n=count: source.fill_directly(n, size=options.bytes),
                     options.no_restore)  # fmt: skip
    for gib in options.large:
        with _stage() as stage:
            _measure(stage, f"one of {gib:g} GiB", round(gib * GIB),
                     lambda source, n=gib: put_large(source, round(n * GIB)),
                     options.no_restore)  # fmt: skip
    return 0


@contextmanager
def _stage() -> Iterator[ObjectsStage]:
    directory = scratch_directory("bench")
    bin_dir = Path(__file__).resolve().parent.parent / ".pg" / "17" / "bin"
    try:
        with ObjectsStage(directory, bin_dir if bin_dir.is_dir() else None) as stage:
            yield stage
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _measure(
    stage: ObjectsStage, what: str, units: int, fill: Callable[[StorageProject], Any], brief: bool
) -> None:
    source, target = stage.project("source"), stage.project("target")
    fill(source)
    aurora = AuroraHere(stage, "here").begin()
    restore = ["restore-bucket", "*", "latest", "--target", target.dsn, "--yes"]
    for words in (
        ["create"],
        ["create"],
        ["verify", "latest", "--level", "full"],
        *([restore, restore] if not brief else []),
        ["prune", "--yes"],
    ):
        run = aurora.run(["backup", *words])
        rate = f"{units / run.wall:,.0f}" if units < 1 << 28 else f"{units / run.wall / 1e6:.0f} MB"
        print(f"| {what} | {words[0]} | {run.wall:.1f} | {rate:>10} | {run.client_cpu:.1f} | "
              f"{run.max_rss / 2**20:.0f} |", flush=True)  # fmt: skip
    if not brief:
        _compare(source, target)


def put_large(source: StorageProject, size: int) -> None:
    """An object of *size* bytes, no two mebibytes of it the same."""
    source.bucket("large")
    source.put("large", "huge.bin", b"x")
    version = source.sql("SELECT version FROM storage.objects")[0][0]
    seed = os.urandom(1 << 20)
    with source.server.blob(version).open("wb") as file:
        for number in range(size >> 20):
            file.write(number.to_bytes(8, "big") + seed[8:])
    metadata = {"size": size, "contentLength": size, "eTag": '"made-by-hand"'}
    source.sql("UPDATE storage.objects SET metadata = metadata || %s::jsonb", json.dumps(metadata))


def _compare(source: StorageProject, target: StorageProject) -> None:
    """Every object of the target is the source's, byte for byte."""
    for (name,) in source.sql("SELECT name FROM storage.objects ORDER BY random() LIMIT 2000"):
        sums = []
        for project in (source, target):
            (row,) = project.sql("SELECT version FROM storage.objects WHERE name = %s", name)
            with project.server.blob(row[0]).open("rb") as file:
                sums.append(hashlib.file_digest(file, "sha256").hexdigest())
        if sums[0] != sums[1]:
            raise SystemExit(f"{name} differs")
    counts = [one.sql("SELECT count(*) FROM storage.objects") for one in (source, target)]
    if counts[0] != counts[1]:
        raise SystemExit(f"the projects have {counts} objects")


if __name__ == "__main__":
    sys.exit(main())
