"""The story of the demo, act by act, with the real commands and the demo's own checks.

Each act is one method: it says what happens, runs the command as a user would, and looks
whether it did what it should. What must be equal is compared with :mod:`aurora.demo.fingerprint`,
taken before anything was backed up; what moves while the backup is made must still add up.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg

from aurora import clock
from aurora.demo import sample
from aurora.demo.emergency import Emergency
from aurora.demo.fingerprint import Fingerprint, differences, fingerprints
from aurora.demo.narrator import Act, Narrator
from aurora.demo.stage import ROLE, CommandFailed, Stage
from aurora.demo.writers import WRITTEN_TABLES, Ledger, Writers, read_ledger
from aurora.units import format_count, format_size

RESTORED = "shop_restored"
DROPPED = "public.orders"
_DROP = "drop table public.orders cascade"
_SETTINGS = """
[stream]
enabled = true
interval = "2 s"

[schedule]
incremental = "* * * * *"
prune = false

[metrics]
listen = "off"

[objects]
include = false
"""


class Story:
    """Tells it once, on a :class:`Stage` that is ready. Errors of an act end the story."""

    def __init__(self, stage: Stage, narrator: Narrator, *, megabytes: float) -> None:
        self.acts: list[Act] = []
        self._stage = stage
        self._narrator = narrator
        self._megabytes = megabytes
        self._writers = Writers(stage.dsn(), pause=0.01)
        self._frozen: dict[str, Fingerprint] = {}
        self._emergency = Emergency(
            stage, narrator, self._writers, lambda table: self._wrong(stage.dsn()).get(table, "")
        )

    def tell(self) -> None:
        """All acts in order. Raises CommandFailed, psycopg.Error, UsageError."""
        under_writers: tuple[Callable[[Act], None], ...] = (
            self._init,
            self._doctor,
            self._schedule,
            self._look,
            self._emergency.accident,
            self._emergency.stop_writes,
            self._emergency.assess,
            self._emergency.recover,
            self._emergency.resume,
            self._emergency.close,
            self._restore_dropped,
            self._restore_all,
        )
        self._play(self._load)
        with self._writers:
            for act in under_writers:
                self._play(act)
        self._play(self._writers_end)

    def _play(self, act: Callable[[Act], None]) -> None:
        line = Act(title="")
        self.acts.append(line)
        act(line)

    def _load(self, act: Act) -> None:
        act.title = "load the sample"
        version = self._stage.server.tools.version
        self._narrator.act(
            "A database to lose",
            f"A PostgreSQL {version} server of the demo's own gets a sample application: a web"
            " shop with a forum, shaped like a Supabase project.",
        )
        loaded = sample.load(self._stage.dsn(), megabytes=self._megabytes)
        self._frozen = fingerprints(self._stage.dsn())
        rows = sum(table.rows for table in self._frozen.values())
        act.seconds = loaded.seconds
        act.facts = (
            f"{format_size(loaded.table_bytes)} in {len(self._frozen)} tables,"
            f" {format_count(rows)} rows"
        )
        act.good = True
        self._narrator.verdict(f"{act.facts}, loaded by {ROLE}, who is no superuser", good=True)
        self._narrator.note(
            "From now on three writers keep inserting, updating, deleting, and moving money from"
            " account to account: the sum of all balances must never change."
        )

    def _init(self, act: Act) -> None:
        act.title = "aurora init"
        self._narrator.act(
            "Set up",
            "Two storages (here two directories; else S3, GCS, Azure) are checked and get an"
            " encrypted repository each; aurora.toml holds no secret.",
        )
        self._writers.wait_for(20)
        act.seconds = self._stage.aurora(
            *("init", "--source", self._stage.shown_dsn()),
            *("--primary", self._stage.primary.as_uri()),
            *("--secondary", self._stage.secondary.as_uri(), "--yes"),
        )
        text = (self._stage.directory / "aurora.toml").read_text()
        secrets = [_secret_in(path) for path in self._stage.environment.values()]
        act.good = not any(secret in text for secret in secrets)
        act.facts = "two repositories, recovery codes printed"
        self._narrator.verdict("aurora.toml holds none of the secrets", good=act.good)

    def _doctor(self, act: Act) -> None:
        act.title = "aurora doctor"
        self._narrator.act("Is everything fit?", "Each line is a check; a finding says what to do.")
        act.seconds = self._stage.aurora("doctor")
        act.facts = "source, privileges, storages, keys, clocks"
        act.good = True

    def _schedule(self, act: Act) -> None:
        act.title = "backups by themselves"
        self._narrator.act(
            "Backups by themselves",
            "The source gets a slot for its change log. The daemon makes what is due: a full"
            " backup at once, then the changes as they are committed, and an incremental each"
            " minute (an hour, in the field).",
        )
        act.seconds = self._stage.aurora("source", "prepare", "--yes")
        self._stage.configure(_SETTINGS)
        self._narrator.note("aurora.toml gets [schedule] and [stream].")
        began = time.monotonic()
        self._stage.begin("run")
        seen = self._wait_for_backups({"full", "incremental"}, timeout=180)
        act.seconds += time.monotonic() - began
        primary, secondary = self._stage.stored()
        act.facts = f"{', '.join(sorted(seen))}; {format_size(primary)}"
        act.good = primary > 0 and secondary > 0
        self._narrator.verdict(
            f"the primary holds {format_size(primary)}, the secondary {format_size(secondary)}",
            good=act.good,
        )

    def _wait_for_backups(self, wanted: set[str], *, timeout: float) -> set[str]:
        deadline = time.monotonic() + timeout
        while True:
            listed = self._stage.told("backup", "list").get("backups", [])
            seen = {str(one["type"]) for one in listed}
            if wanted <= seen:
                return seen
            if time.monotonic() > deadline:
                raise CommandFailed(
                    f"the daemon made {', '.join(sorted(seen)) or 'nothing'} in {timeout:g} s",
                    hint=f"What it said is in {self._stage.directory / 'daemon.log'}.",
                )
            time.sleep(0.5)

    def _look(self, act: Act) -> None:
        act.title = "list and verify"
        self._narrator.act(
            "Is it good?",
            "Every object of the latest backup is fetched, decrypted and checked.",
        )
        act.seconds = self._stage.aurora("backup", "list")
        act.seconds += self._stage.aurora("backup", "verify", "latest:full")
        act.facts = "every object read and decrypted"
        act.good = True

    def _restore_dropped(self, act: Act) -> None:
        act.title = "restore a dropped table"
        self._narrator.act(
            "Another day: a table is dropped",
            "Only this table's part of the backup is read; it comes back with its indexes,"
            " constraints, policies and grants.",
        )
        self._narrator.sql(f"{_DROP};")
        with psycopg.connect(self._stage.dsn(), autocommit=True) as connection:
            connection.execute(_DROP)
        fallen = DROPPED in self._wrong(self._stage.dsn())
        act.seconds = self._stage.aurora("backup", "restore-table", DROPPED, "latest:full", "--yes")
        self._check_table(act, DROPPED)
        act.good = act.good and fallen

    def _restore_all(self, act: Act) -> None:
        act.title = "everything, to now"
        self._narrator.act(
            "Everything, to the last second, into a new database",
            "A full and the change log after it: schema, rows, indexes, keys, triggers,"
            " sequences, large objects. The live database is left alone.",
        )
        self._narrator.sql(f"create database {RESTORED};")
        self._stage.make_database(RESTORED)
        self._stage.aurora("backup", "create")  # of the schema as it is after the accident
        before = read_ledger(self._stage.dsn())
        self._wait_for_the_log(clock.isoformat(clock.now()))
        act.seconds = self._stage.aurora(
            *("backup", "restore-point", "--latest"),
            *("--target", self._stage.shown_dsn(RESTORED), "--yes"),
        )
        after = read_ledger(self._stage.dsn())
        # With the live one: a name of a table that was dropped and came back is another's now.
        wrong = self._wrong(self._stage.dsn(RESTORED), fingerprints(self._stage.dsn()))
        still = len(self._frozen.keys() - WRITTEN_TABLES)
        self._narrator.verdict(
            "; ".join(wrong.values())
            or f"{still} tables that nobody wrote to are equal, row for row and to the checksum",
            good=not wrong,
        )
        ledger = read_ledger(self._stage.dsn(RESTORED))
        moment = ledger.holds and before.transfers <= ledger.transfers <= after.transfers
        self._narrator.verdict(
            f"{_books(ledger)}: a moment after {before.transfers} and before {after.transfers}",
            good=moment,
        )
        act.seconds += self._stage.aurora("backup", "validate")
        act.good = moment and not wrong
        act.facts = f"{still} tables equal, and the books balance"

    def _wait_for_the_log(self, since: str, *, timeout: float = 60) -> None:
        """Until the daemon has stored what the writers committed after *since*."""
        deadline = time.monotonic() + timeout
        while not self._stage.told("log", "show", "--from", since).get("transactions"):
            if time.monotonic() > deadline:
                raise CommandFailed(
                    f"the change log does not reach {since} after {timeout:g} s",
                    hint=f"What the daemon said is in {self._stage.directory / 'daemon.log'}.",
                )
            time.sleep(0.5)

    def _writers_end(self, act: Act) -> None:
        act.title = "writers, all the while"
        self._narrator.act(
            "And the shop?", "It was open from the first backup to the last restore."
        )
        ledger = read_ledger(self._stage.dsn())
        act.facts = (
            f"{format_count(self._writers.committed)} transactions, {self._writers.failed} lost"
        )
        code = self._stage.end()
        act.seconds = sum(line.seconds for line in self.acts[1:-1])
        act.good = ledger.holds and self._writers.failed == 0 and code == 0
        self._narrator.verdict(
            f"{act.facts}; {_books(ledger)}",
            good=act.good,
        )
        if self._writers.refusal:
            self._narrator.note(f"the last refusal was: {self._writers.refusal}")

    def _check_table(self, act: Act, table: str) -> None:
        wrong = self._wrong(self._stage.dsn()).get(table, "")
        act.good = not wrong
        rows = format_count(self._frozen[table].rows)
        act.facts = f"{rows} rows"
        self._narrator.verdict(
            wrong or f"{table} has its {rows} rows again, equal to the checksum", good=act.good
        )

    def _wrong(self, dsn: str, expected: Mapping[str, Fingerprint] | None = None) -> dict[str, str]:
        """By table, how it differs from what is expected: what was before the writers began."""
        now = fingerprints(dsn)
        return {
            name: line[0]
            for name, was in (expected or self._frozen).items()
            if name not in WRITTEN_TABLES and (line := differences({name: was}, now))
        }


def _books(ledger: Ledger) -> str:
    """The ledger in words."""
    if ledger.total != ledger.expected:
        return f"{ledger.total - ledger.expected} cents came from nowhere"
    if ledger.unexplained:
        return f"{ledger.unexplained} balances do not agree with the transfers"
    return (
        f"not one of {format_count(ledger.total)} cents is lost, and every balance agrees with"
        f" the {format_count(ledger.transfers)} transfers"
    )


def _secret_in(path: str) -> str:
    """The secret in a file of the stage: its last word."""
    return Path(path).read_text(encoding="utf-8").strip().split(":")[-1]
