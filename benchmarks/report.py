"""The results as tables for a terminal, as RESULTS.md and as results.json."""

import json
from collections.abc import Iterator
from pathlib import Path

from measure import Phase, Run
from results import ROWS, Results, Target
from rich.table import Table

_BASES = {
    "received": ("received", "incremental", "pgbackrest_incr"),
    "replay": ("base", "point", "replay", "pgbackrest_point"),
    "pg_restore": ("pg_restore", "restore", "pgbackrest_restore", "restic_restore"),
}


def tables(results: Results) -> Iterator[Table]:
    """For a terminal."""
    timed = Table("what", "best s", "all", "CPU client", "server", "peak MiB", "ratio",
                  title="Seconds")  # fmt: skip
    for column in timed.columns[1:]:
        column.justify = "right"
    for cells in _timed(results):
        timed.add_row(*cells)
    yield timed
    sizes = Table("stored", "MB", "over pg_dump", title="Sizes")
    for cells in _sizes(results):
        sizes.add_row(*cells)
    yield sizes
    targets = Table("target", "limit", "measured", "", title="Targets")
    for target in results.targets():
        style = {True: "green", False: "bold red", None: "dim"}[target.met]
        targets.add_row(*_target(target), style=style)
    yield targets
    if results.gone:
        gone = Table("not measured", "why")
        for name, reason in results.gone.items():
            gone.add_row(name, reason)
        yield gone


def markdown(results: Results, directory: Path, name: str) -> Path:
    """Write ``<name>.md`` and its JSON; the path of the first."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.md"
    path.write_text("\n".join(_lines(results)) + "\n")
    json_path = directory / f"{name.lower()}.json"
    json_path.write_text(json.dumps(results.document(), indent=1) + "\n")
    return path


def _lines(results: Results) -> Iterator[str]:
    facts = results.database
    yield "# Results\n\nWritten by `benchmarks/run.py`; what the rows mean is in README.md.\n"
    yield from (f"- {name}: {value}" for name, value in results.machine.items())
    yield (
        f"- database: {facts['table_bytes'] / 1e9:.2f} GB in {facts['tables']} tables, "
        f"{facts['largest_share']:.0%} of it in one; {facts['database_bytes'] / 1e9:.2f} GB with "
        f"indexes; {facts['copy_text_bytes'] / 1e9:.2f} GB as COPY text"
    )
    yield from (f"\n**{note}**" for note in results.notes)
    yield "\n## Targets\n"
    yield from _table(("target", "limit", "measured", ""), map(_target, results.targets()))
    yield "\n## Seconds\n"
    yield (
        "Best of all runs by wall time; CPU seconds and peak memory are of that run. Ratio: to "
        "bare COPY for backups, to pg_restore for restores.\n"
    )
    head = ("what", "best s", "all", "CPU client", "CPU server", "peak MiB", "ratio")
    yield from _table(head, _timed(results))
    yield "\n## Sizes\n"
    yield from _table(("stored", "MB", "over pg_dump"), _sizes(results))
    if results.figures:
        yield "\n## Streaming and redo\n"
        facts = results.database
        yield (
            f"{facts.get('transactions', 0):,} transactions, {facts.get('changes', 0):,} changes "
            "of rows between the full and the point.\n"
        )
        rows = ((name, f"{value:,.2f}") for name, value in results.figures.items())
        yield from _table(("what", ""), rows)
    if results.gone:
        yield "\n## Not measured\n"
        yield from (f"- {name}: {reason}" for name, reason in results.gone.items())
    yield from _profile(results)


def _profile(results: Results) -> Iterator[str]:
    yield "\n## Where the time goes\n"
    missed = [target.name for target in results.targets() if target.met is False]
    yield f"Missed: {'; '.join(missed)}.\n" if missed else "No target was missed.\n"
    for row in ("full", "second", "restore", "restore_table"):
        run = results.best(row)
        if run and run.phases:
            yield f"\n{ROWS[row]}, by phase:\n"
            yield from _table(
                ("phase", "wall s", "CPU client", "CPU server"),
                (
                    (p.name, f"{p.wall:.2f}", f"{p.client_cpu:.2f}", f"{p.server_cpu:.2f}")
                    for p in (*run.phases, _ending(run))
                ),
            )
    if results.parts:
        yield (
            "\nA first full's steps, each measured alone on the same rows (CPU seconds, scaled "
            "to the whole COPY text). A second full has the server's COPY, receive and id alone:\n"
        )
        steps = ((name, f"{seconds:.2f}") for name, seconds in results.parts.items())
        yield from _table(("step", "CPU s"), steps)


def _ending(run: Run) -> Phase:
    """What of a run its phases do not cover."""
    return Phase(
        "the end of the process",
        run.wall - sum(phase.wall for phase in run.phases),
        run.client_cpu - sum(phase.client_cpu for phase in run.phases),
        run.server_cpu - sum(phase.server_cpu for phase in run.phases),
    )


def _timed(results: Results) -> Iterator[tuple[str, ...]]:
    for row, name in ROWS.items():
        best = results.best(row)
        if best is None:
            continue
        base = next((base for base, rows in _BASES.items() if row in rows), "floor")
        base = "restore" if row == "restore_table" else base
        told = name
        ratio = results.ratio(row, base) if row != "memory_large" else None
        if row == "memory_large":
            told = f"{name} at {results.database['large_gigabytes']:g} GB"
        yield (
            told, f"{best.wall:.2f}", " ".join(f"{run.wall:.2f}" for run in results.runs[row]),
            f"{best.client_cpu:.2f}", f"{best.server_cpu:.2f}", f"{best.max_rss >> 20}",
            "" if ratio is None else f"{ratio:.2f} x {_short(base)}",
        )  # fmt: skip


def _short(base: str) -> str:
    return {"floor": "COPY"}.get(base, base)


def _sizes(results: Results) -> Iterator[tuple[str, ...]]:
    dump = results.sizes.get("pg_dump", 0)
    for name, size in results.sizes.items():
        yield name, f"{size / 1e6:.1f}", f"{size / dump:.3f}" if dump else ""


def _target(target: Target) -> tuple[str, ...]:
    digits = 0 if target.unit.strip() == "MiB" else 2
    measured = "-" if target.measured is None else f"{target.measured:.{digits}f}{target.unit}"
    word = {True: "met", False: "MISSED", None: "not measured"}[target.met]
    return target.name, f"≤ {target.limit:g}{target.unit}", measured, word


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "|".join("---" if not n else "---:" for n in range(len(head))) + "|"
    for cells in rows:
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
