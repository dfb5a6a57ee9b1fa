"""The report of a restore: JSON for programs, Markdown for people, kept beside aurora.toml."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aurora.units import format_duration, format_size, plural


@dataclass(frozen=True, slots=True)
class TableResult:
    """One table's check: rows of the backup and rows found."""

    table: str
    rows_expected: int
    rows_found: int | None
    same: bool


@dataclass(frozen=True, slots=True)
class PartResult:
    """What became of one part of a Supabase project."""

    part: str
    outcome: str  # restored, skipped, left to you
    detail: str


@dataclass(slots=True)
class ObjectsRestored:
    """What a restore of objects did."""

    backup_id: str
    target: str
    objects: int = 0  # that were to be there
    bytes: int = 0
    uploaded: int = 0
    uploaded_bytes: int = 0
    already_right: int = 0
    buckets_made: list[str] = field(default_factory=list)
    rows_set: int = 0  # owner, times and user metadata set in the database
    lost: list[str] = field(default_factory=list)  # the backup has no bytes for them
    newer: list[str] = field(default_factory=list)  # the bytes are later than the snapshot
    failed: list[str] = field(default_factory=list)
    rows_without_bytes: list[str] = field(default_factory=list)
    bytes_without_rows: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: str = ""  # why some or all were not tried
    seconds: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether every object is there as the backup's snapshot had it."""
        return not (
            self.lost or self.failed or self.rows_without_bytes or self.newer or self.left_out
        )

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}

    def told(self) -> list[str]:
        """What it did, in lines."""
        lines = [f"note: {note}" for note in self.notes]
        for what, names in (
            ("NOT restored", self.failed),
            ("NOT in the backup", self.lost),
            ("row without bytes", self.rows_without_bytes),
            ("restored, of another version than the row", self.newer),
            ("left out, no row", self.bytes_without_rows),
            ("NOT restored", [self.left_out] if self.left_out else []),
        ):
            lines += [f"{what}: {name}" for name in names]
        made = f", {plural(len(self.buckets_made), 'bucket')} made" if self.buckets_made else ""
        return [
            *lines,
            f"{plural(self.objects, 'object')} ({format_size(self.bytes)}): {self.uploaded} "
            f"uploaded, {self.already_right} right already{made}, to {self.target} in "
            f"{format_duration(self.seconds)}",
        ]


@dataclass(slots=True)
class RestoreReport:
    """What a restore did, and what it found when it checked."""

    restore_id: str
    backup_id: str
    kind: str  # restore, restore-full, restore-table
    target: str
    state_of: str  # the moment that was restored
    begun_at: str
    recovered_to: str = ""  # the recovery target, where rows came out of the change log
    ended_at: str = ""
    outcome: str = "unfinished"
    database: str = ""
    table: str = ""
    restored_as: str = ""
    rows: int = 0
    bytes: int = 0
    bytes_fetched: int = 0
    seconds: float = 0.0
    safety_backup: str = ""
    old_database: str = ""
    tables: list[TableResult] = field(default_factory=list)
    sequences: int = 0
    positions: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """Of sequences: last value, and whether it was given out. For a recovery: later backups may
    have read newer ones for the same moment."""
    problems: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parts: list[PartResult] = field(default_factory=list)  # of a Supabase project
    objects: ObjectsRestored | None = None  # of the Storage, where they are part of the restore
    path: str = ""  # of the Markdown file, once written

    def document(self) -> dict[str, Any]:
        """For ``--json`` and the JSON file."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}

    @property
    def is_complete(self) -> bool:
        """Whether nothing was refused, and nothing of the Storage is lacking."""
        return not self.refusals and (self.objects is None or self.objects.is_complete)

    @property
    def equal_to(self) -> str:
        """What the check compared with, in words; what a merge gives is known by count only."""
        return "as expected" if self.recovered_to else "equal to the backup"

    def markdown(self) -> str:
        """For people."""
        same = sum(1 for table in self.tables if table.same)
        lines = [
            f"# Restore {self.restore_id}: {self.outcome}",
            "",
            f"- backup: `{self.backup_id}`, state of {self.state_of}",
            f"- target: `{self.target}`" + (f", table `{self.table}`" if self.table else ""),
            f"- begun {self.begun_at}, {format_duration(self.seconds)}",
            f"- {self.rows:,} rows, {format_size(self.bytes)}",
            f"- checked: {same} of {len(self.tables)} tables {self.equal_to} "
            f"(rows and checksums), {self.sequences} sequences",
        ]
        if self.recovered_to:
            lines.append(f"- recovered to: {self.recovered_to}")
        if self.restored_as:
            lines.append(f"- restored as `{self.restored_as}`")
        if self.safety_backup:
            lines.append(f"- safety backup taken first: `{self.safety_backup}`")
        if self.old_database:
            lines.append(f"- the replaced database stays as `{self.old_database}`")
        for title, found in (
            ("Problems", self.problems),
            ("Refused by the target", self.refusals),
            ("Notes", self.notes),
        ):
            if found:
                lines += ["", f"## {title}", "", *(f"- {line}" for line in found)]
        if self.objects is not None:
            lines += ["", "## Storage objects", "", *(f"- {line}" for line in self.objects.told())]
        if self.parts:
            lines += ["", "## The project", "", "| part | outcome | detail |", "|---|---|---|"]
            lines += [f"| {p.part} | {p.outcome} | {p.detail} |" for p in self.parts]
        if self.tables:
            lines += ["", "## Tables", "", "| table | rows in the backup | rows found | same |",
                      "|---|---|---|---|"]  # fmt: skip
            lines += [
                f"| {t.table} | {t.rows_expected} | "
                f"{'missing' if t.rows_found is None else t.rows_found} | "
                f"{'yes' if t.same else 'NO'} |"
                for t in self.tables
            ]
        return "\n".join(lines) + "\n"


def write_report(report: RestoreReport, directory: Path) -> Path:
    """Write both forms; the Markdown file's path. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / f"{report.kind}-{report.restore_id}"
    for suffix, text in (
        (".json", json.dumps(report.document(), indent=2) + "\n"),
        (".md", report.markdown()),
    ):
        path = stem.with_suffix(suffix)
        temporary = path.with_suffix(suffix + ".new")
        temporary.write_text(text)
        temporary.replace(path)
    return stem.with_suffix(".md")
