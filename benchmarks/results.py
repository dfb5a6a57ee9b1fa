"""What a benchmark found: runs by row, sizes, and how they stand against the targets."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from measure import BenchFailed, Run

ROWS: dict[str, str] = {
    "floor": "the same rows by bare COPY, 2 psql, to /dev/null",
    "pg_dump": "pg_dump -Fd -j2 -Z1",
    "full": "aurora backup create, first full",
    "second": "aurora backup create, nothing changed",
    "replicated": "aurora backup create, first full, on two storages",
    "pgbackrest": "pgBackRest backup --type=full (zst 1, encrypted)",
    "restic": "pg_dump | restic backup --stdin, first",
    "restic_again": "pg_dump | restic backup --stdin, nothing changed",
    "pg_restore": "pg_restore -j2 (neither checks nor ANALYZEs)",
    "restore": "aurora backup restore, every row checked",
    "pgbackrest_restore": "pgBackRest restore, until the server answers",
    "restic_restore": "restic dump | psql",
    "restore_table": "aurora backup restore-table, 1 % of the rows",
    "received": "pg_recvlogical of what pgbench changed, to /dev/null",
    "incremental": "aurora backup create --type incremental, of the same",
    "pgbackrest_incr": "pgBackRest backup --type=incr, of the same",
    "base": "aurora backup restore of the full before the changes",
    "point": "aurora backup restore-point --latest, full and changes",
    "replay": "the same changes row by row, pipelined, 1,000 transactions a commit",
    "pgbackrest_point": "pgBackRest restore to the same point, until the server answers",
    "memory_large": "aurora backup create, first full, memory",
}
"""All rows in the order of the report."""


@dataclass(frozen=True, slots=True)
class Target:
    """One target of the project, and what was measured. None: not measured in this run."""

    name: str
    limit: float
    measured: float | None
    unit: str = " x"

    @property
    def met(self) -> bool | None:
        return None if self.measured is None else self.measured <= self.limit


@dataclass(slots=True)
class Results:
    """Everything that a run found."""

    machine: dict[str, str] = field(default_factory=dict)
    database: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # bytes
    figures: dict[str, float] = field(default_factory=dict)  # named, of changes.py
    parts: dict[str, float] = field(default_factory=dict)  # CPU seconds, see parts.py
    gone: dict[str, str] = field(default_factory=dict)  # what was not measured, and why
    notes: list[str] = field(default_factory=list)
    failed: bool = False  # a row of Aurora, or one that its targets stand on
    told: Callable[[str], None] = print

    def add(self, row: str, run: Run) -> Run:
        """Keep a run, and tell of it."""
        self.runs.setdefault(row, []).append(run)
        self.told(
            f"{ROWS[row]}: {run.wall:.2f} s, CPU {run.client_cpu:.2f} s + server "
            f"{run.server_cpu:.2f} s, {run.max_rss >> 20} MiB"
        )
        return run

    def attempt(self, row: str, measure: Callable[[], Run]) -> Run | None:
        """Measure and keep; what fails is told and leaves the other rows alone."""
        try:
            return self.add(row, measure())
        except BenchFailed as error:
            self.failed = True
            self.missing(ROWS[row], str(error))
            return None

    def missing(self, name: str, reason: str) -> None:
        """Say that something was not measured."""
        self.gone[name] = reason
        self.told(f"MISSING: {name}: {reason}")

    def best(self, row: str) -> Run | None:
        """The fastest run of a row."""
        return min(self.runs.get(row, []), key=lambda run: run.wall, default=None)

    def ratio(self, row: str, base: str) -> float | None:
        """Best wall seconds of *row* over those of *base*."""
        ours, theirs = self.best(row), self.best(base)
        return ours.wall / theirs.wall if ours and theirs else None

    def change_targets(self) -> list[Target]:
        """The targets of the change log."""
        ours, theirs = map(self.sizes.get, ("aurora, incremental", "pgbackrest, incremental"))
        alone, beside = map(
            self.figures.get,
            ("pgbench -c4 alone, transactions a second", "the same beside aurora stream"),
        )
        point, base, replay = map(self.best, ("point", "base", "replay"))
        change = point.wall - base.wall if point and base else None
        redo = self.figures.get("seconds of pgBackRest's restore that were redo")
        return [
            Target("incremental over pgBackRest incr", 0.5,
                   self.ratio("incremental", "pgbackrest_incr")),
            Target("incremental over pg_recvlogical", 1.5, self.ratio("incremental", "received")),
            Target("its size over pgBackRest incr", 0.2,
                   ours / theirs if ours and theirs else None),
            Target("transactions lost beside the stream", 0.15,
                   1 - beside / alone if alone and beside else None, ""),
            Target("changes recovered over their replay", 0.2,
                   change / replay.wall if change and replay else None),
            Target("changes recovered over their redo", 1.5,
                   change / redo if change and redo else None),
        ]  # fmt: skip

    def targets(self) -> list[Target]:
        """The targets of the project."""
        ours, dump = self.sizes.get("aurora"), self.sizes.get("pg_dump")
        small, both, large = map(self._rss, ("full", "replicated", "memory_large"))
        return [
            Target("first full over pg_dump -j2 -Z1", 0.7, self.ratio("full", "pg_dump")),
            Target("first full over bare COPY", 1.6, self.ratio("full", "floor")),
            Target("second full over bare COPY", 1.2, self.ratio("second", "floor")),
            Target("restore over pg_restore -j2", 0.8, self.ratio("restore", "pg_restore")),
            Target("1 % table over restore", 0.05, self.ratio("restore_table", "restore")),
            Target("stored size over pg_dump -Z1", 1.05, ours / dump if ours and dump else None),
            Target("peak memory of a full", 300, small and small / 2**20, " MiB"),
            Target("peak memory, two storages", 300, both and both / 2**20, " MiB"),
            Target(
                f"peak memory at {self.database.get('large_gigabytes', 0):g} GB over that",
                1.1,
                large / small if large and small else None,
            ),
            *self.change_targets(),
        ]

    def _rss(self, row: str) -> int | None:
        return max((run.max_rss for run in self.runs.get(row, [])), default=None)

    def document(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "machine": self.machine,
            "database": self.database,
            "runs": {
                row: {"name": ROWS[row], "runs": [asdict(run) for run in runs]}
                for row, runs in self.runs.items()
            },
            "sizes": self.sizes,
            "figures": self.figures,
            "parts_cpu_seconds": self.parts,
            "not_measured": self.gone,
            "notes": self.notes,
            "targets": [{**asdict(target), "met": target.met} for target in self.targets()],
        }
