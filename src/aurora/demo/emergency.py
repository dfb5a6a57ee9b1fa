"""The worst moment of the demo's story: a DELETE without WHERE, and the way back.

Each method is an act. What the incident's commands say is looked at once more by the demo's
own means: a write that must be refused, rows that must be back, the report that must be there.
"""

import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from aurora.demo.narrator import Act, Narrator
from aurora.demo.stage import Stage
from aurora.demo.writers import Writers
from aurora.units import format_count

EMPTIED = "public.documents"
_STATEMENT = "delete from public.documents"
_CULPRIT = "a hurried colleague"


class Emergency:
    """Tells what happens from the accident to the report.

    Args:
        wrong: how the live database differs from what it was, in words, for a table.
    """

    def __init__(
        self, stage: Stage, narrator: Narrator, writers: Writers, wrong: Callable[[str], str]
    ) -> None:
        self._stage = stage
        self._narrator = narrator
        self._writers = writers
        self._wrong = wrong
        self._lost = 0

    def accident(self, act: Act) -> None:
        act.title = "the accident"
        self._narrator.act(
            "The accident",
            "A colleague means one document and forgets the WHERE. The shop stays open.",
        )
        self._narrator.sql(f"{_STATEMENT};")
        began = time.monotonic()
        with psycopg.connect(
            self._stage.dsn(), autocommit=True, application_name=_CULPRIT
        ) as connection:
            self._lost = connection.execute(_STATEMENT).rowcount
        act.seconds = time.monotonic() - began
        act.facts = f"{format_count(self._lost)} rows lost"
        act.good = bool(self._wrong(EMPTIED))
        self._narrator.note(act.facts)

    def stop_writes(self, act: Act) -> None:
        act.title = "stop the writes"
        self._narrator.act(
            "First, stop the writes",
            "An incident is opened. Everything is written down first, then every table gets a"
            " fence; each role's write is tried and refused, and the change log falls silent.",
        )
        act.seconds = self._stage.aurora(
            *("incident", "start", "documents are gone", "--severity", "major", "--by", "demo")
        )
        act.seconds += self._stage.aurora("incident", "stop-writes", "--yes", "--watch", "2s")
        refused = self._refusal()
        act.good = bool(refused) and self._writers.held_back > 0
        act.facts = "no role can write, and that is proven"
        self._narrator.verdict(
            f"the demo's own write: {refused or 'it went through'}", good=act.good
        )

    def assess(self, act: Act) -> None:
        act.title = "what happened"
        self._narrator.act(
            "What happened?",
            "The change log is read once. What does not look like this database's ordinary life is"
            " ranked, and the point just before it is named by its transaction.",
        )
        act.seconds = self._stage.aurora("incident", "assess")
        act.seconds += self._stage.aurora("incident", "recovery-point")
        act.facts = "found among all transactions"
        act.good = True

    def recover(self, act: Act) -> None:
        act.title = "only the damage undone"
        self._narrator.act(
            "The rows back, and nothing else",
            "The deleted rows are taken from just before the transaction and put back; what others"
            " wrote since stays.",
        )
        act.seconds = self._stage.aurora("incident", "recover", "--yes")
        wrong = self._wrong(EMPTIED)
        act.good = not wrong
        act.facts = f"{format_count(self._lost)} rows"
        self._narrator.verdict(
            wrong or f"{EMPTIED} has its {act.facts} again, equal to the checksum", good=act.good
        )

    def resume(self, act: Act) -> None:
        act.title = "resume the writes"
        self._narrator.act(
            "Writes go on", "The fence is taken away; grants and settings are as they were."
        )
        act.seconds = self._stage.aurora("incident", "resume-writes", "--yes")
        refused = self._refusal()
        before = self._writers.committed
        self._writers.wait_for(before + 10)
        act.good = not refused
        act.facts = f"the shop writes again, held back {self._writers.held_back} times"
        self._narrator.verdict(refused or "the shop's writers go on", good=act.good)

    def close(self, act: Act) -> None:
        act.title = "the report"
        self._narrator.act(
            "The report", "What happened when, what was lost and recovered, and how long it took."
        )
        act.seconds = self._stage.aurora("incident", "close", "--by", "demo")
        report = max(self._reports(), key=lambda path: path.stat().st_mtime, default=None)
        act.good = report is not None
        if report is not None:
            act.facts = str(report.relative_to(self._stage.directory))
            lines = report.read_text(encoding="utf-8").splitlines()
            self._narrator.note("It begins:")
            self._narrator.page(lines[:40])
        self._narrator.verdict(act.facts or "there is no report", good=act.good)

    def _reports(self) -> list[Path]:
        found = self._stage.directory.glob("aurora.reports/incident-*.md")
        return [*found, *self._stage.directory.glob("aurora.state/incidents/*/report.md")]

    def _refusal(self) -> str:
        """What the server says to a write; "" where it takes it."""
        with psycopg.connect(self._stage.dsn(), autocommit=True) as connection:
            try:
                with connection.transaction(force_rollback=True):
                    connection.execute("set transaction read write")
                    connection.execute(
                        "insert into public.messages (thread_id, body) values (1, '')"
                    )
            except psycopg.errors.ReadOnlySqlTransaction as error:
                return str(error.diag.message_primary)
        return ""
