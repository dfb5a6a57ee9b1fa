"""Measure Aurora against its targets and its peers, all in one run on this machine.

    python benchmarks/run.py [--gigabytes 1] [--quick] [--memory-at 5]

A PostgreSQL server of its own is started in a temporary directory, filled, measured and
removed. The result: a table here, RESULTS.md and results.json beside this file. ``--quick``
(100 MB, each row once, about a minute) tries the script; its numbers mean nothing, and go to
the temporary directory.
"""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import gettempdir

import data
import peers
import psycopg
from changes import measure_changes
from measure import BenchFailed, Command, disk_usage
from parts import half_queries, measure_parts, psql
from report import markdown, tables
from results import Results
from rich.console import Console
from stage import DATABASE, AuroraHere, Stage

from aurora.errors import AuroraError
from aurora.postgres.unprivileged import scratch_directory

HERE = Path(__file__).resolve().parent
_ROOM = 7  # bytes of disk for each byte of table data: database twice, dumps, archives


def main() -> int:
    """Run, print, write. Returns the exit status: 1 where a row failed.

    A missed target is no failure.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="table data; default 1")
    parser.add_argument("--quick", action="store_true", help="100 MB, each row once")
    parser.add_argument("--memory-at", type=float, default=0.0, metavar="GB",
                        help="also measure a full backup's memory at this size")  # fmt: skip
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=60, help="that pgbench writes; default 60")
    parser.add_argument("--output", type=Path, help="where the reports go")
    options = parser.parse_args()
    if options.quick:
        options.gigabytes, options.repetitions = 0.1, 1
    directory_of_reports = options.output or (Path(gettempdir()) if options.quick else HERE)
    console = Console(width=max(120, Console().width))
    results = Results(told=lambda text: console.print(f"  {text}", style="dim", highlight=False))
    if options.quick:
        results.notes.append("A --quick run: too small and too short to conclude anything.")
    with _scratch(max(options.gigabytes, options.memory_at)) as directory:
        with Stage(directory) as stage:
            _describe(stage, results, options.gigabytes)
            _fill(stage, results, options.gigabytes)
            for number in range(options.repetitions):
                _backups(stage, results, number)
            _restores(stage, results, options.repetitions)
            measure_parts(stage, results, int(results.database["copy_text_bytes"]))
            peers.measure_peers(stage, results, options.repetitions)
            if shutil.which("pgbackrest"):
                seconds = 5 if options.quick else options.seconds
                _guarded(results, "the change log", partial(measure_changes, stage, results,
                         seconds, options.repetitions))  # fmt: skip
            else:
                results.missing("the change log", "pgbackrest is not installed")
            if options.memory_at:
                _memory(stage, results, options.gigabytes, options.memory_at)
    console.print(*tables(results), sep="\n")
    name = "aurora-bench-quick" if options.quick else "RESULTS"
    written = markdown(results, directory_of_reports, name)
    console.print(f"written: {written}")
    return 1 if results.failed else 0


@contextmanager
def _scratch(gigabytes: float) -> Iterator[Path]:
    directory = scratch_directory("bench")
    try:
        free = shutil.disk_usage(directory).free
        if free < gigabytes * 1e9 * _ROOM:
            gigabytes_free = f"{free / 1e9:.0f} GB free"
            raise SystemExit(f"{directory} has {gigabytes_free}; set TMPDIR to a larger disk")
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _describe(stage: Stage, results: Results, gigabytes: float) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    load = os.getloadavg()[0]
    results.machine = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processors": f"{len(os.sched_getaffinity(0))} x {_processor()}",
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "PostgreSQL": f"{stage.server.tools.version}, data checksums, fsync on, "
        f"{', '.join(f'{k} {v}' for k, v in stage.server.settings.items())}; over TCP, without TLS",
        "Python": platform.python_version(),
        "load at the start": f"{load:.2f}",
        **peers.versions(),
    }
    results.database["gigabytes"] = gigabytes
    if load > 0.5:
        results.notes.append(
            f"The machine was not idle (load {load:.1f} at the start): trust CPU seconds more "
            "than wall time."
        )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _fill(stage: Stage, results: Results, gigabytes: float) -> None:
    results.told(f"making {gigabytes:g} GB of rows")
    stage.fresh_database(DATABASE)
    data.build(stage.dsn(), data.shape(round(gigabytes * 1e9)))
    sizes = data.table_bytes(stage.dsn())
    with psycopg.connect(stage.dsn()) as conn:
        row = conn.execute("SELECT pg_database_size(current_database())").fetchone()
    total = sum(sizes.values())
    results.database |= {
        "table_bytes": total,
        "database_bytes": int(row[0]) if row else 0,
        "largest_share": max(sizes.values()) / total,
        "one_percent_share": sizes["sessions"] / total,
        "tables": len(sizes),
    }


def _backups(stage: Stage, results: Results, number: int) -> None:
    """One round of everything that reads; rounds alternate, so that drift falls on all."""
    copies = half_queries(stage, "COPY (SELECT * FROM {source}) TO STDOUT")
    if number == 0:
        stage.run(*[psql(stage, query) for query in copies])  # warms the caches; not counted
    results.attempt("floor", lambda: stage.run(*[psql(stage, query) for query in copies]))
    dump = stage.scratch / "dump"
    shutil.rmtree(dump, ignore_errors=True)
    dumping = ["-Fd", "-j2", "-Z1", "-f", str(dump), "-d", stage.dsn()]
    results.attempt("pg_dump", lambda: stage.run(Command([stage.program("pg_dump"), *dumping])))
    results.sizes["pg_dump"] = disk_usage(dump)
    here = AuroraHere(stage, "aurora").begin()
    first = results.attempt("full", lambda: here.run(["backup", "create"]))
    results.sizes["aurora"] = disk_usage(here.repository)
    results.database["copy_text_bytes"] = first.facts["bytes_read"] if first else 0
    results.attempt("second", lambda: here.run(["backup", "create"]))
    results.sizes["aurora, two fulls"] = disk_usage(here.repository)
    both = AuroraHere(stage, "both").begin(secondary=True)
    results.attempt("replicated", lambda: both.run(["backup", "create"]))
    both.remove()


def _guarded(results: Results, name: str, measure: Callable[[], None]) -> None:
    try:
        measure()
    except (BenchFailed, AuroraError, psycopg.Error, OSError) as error:
        results.failed = True
        results.missing(name, f"it failed here: {error}")


def _restores(stage: Stage, results: Results, repetitions: int) -> None:
    here = AuroraHere(stage, "aurora")  # with its two fulls
    for _ in range(repetitions):
        stage.fresh_database("restored")
        loading = ["-j2", "-d", stage.dsn("restored"), str(stage.scratch / "dump")]
        command = Command([stage.program("pg_restore"), *loading])
        results.attempt("pg_restore", partial(stage.run, command))
        stage.drop("restored")
        target = ["latest", "--target", stage.dsn("restored"), "--yes"]
        results.attempt("restore", partial(here.run, ["backup", "restore", *target]))
        stage.fresh_database("restored")
        one = ["backup", "restore-table", "sessions", *target]
        results.attempt("restore_table", partial(here.run, one))
        stage.drop("restored")
    shutil.rmtree(stage.scratch / "dump", ignore_errors=True)
    here.remove()


def _memory(stage: Stage, results: Results, small: float, large: float) -> None:
    """A first full of a database *large* GB: the small one's rows, again with other keys."""
    results.told(f"making {large:g} GB of rows")
    data.multiply(stage.dsn(), max(1, round(large / small)))
    sizes = data.table_bytes(stage.dsn())
    results.database |= {"large_gigabytes": large, "large_table_bytes": sum(sizes.values())}
    here = AuroraHere(stage, "memory").begin()
    results.attempt("memory_large", lambda: here.run(["backup", "create"]))
    here.remove()


if __name__ == "__main__":
    sys.exit(main())
