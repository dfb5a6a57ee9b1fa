"""`aurora schedule …`: show it, run one job of it, or hand it to another scheduler."""

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from aurora import clock
from aurora.cli import context as run_context
from aurora.cli.render import surface, table
from aurora.cli.run import has_command
from aurora.config.secrets import SecretRef
from aurora.config.settings import Settings
from aurora.errors import AuroraError, Incomplete, UsageError
from aurora.operations.configuration import write_new
from aurora.operations.status import shown_moment
from aurora.units import format_duration, plural
from aurora.wiring import HASTY

schedule = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]


@schedule.callback()
def group() -> None:
    """Backups, tests, verification and retention by the clock. All times are UTC."""


@schedule.command("show")
def show(context: typer.Context, json: Json = False) -> None:
    """Show what is due when: in words, as cron, and the next three times."""
    from aurora.scheduler.jobs import BY_NAME, in_order  # noqa: PLC0415 - slow to import
    from aurora.scheduler.setup import rules_of  # noqa: PLC0415
    from aurora.scheduler.state import State  # noqa: PLC0415

    with surface(json) as shown:
        aurora = run_context.load(context)
        rules, now = rules_of(aurora), clock.now()
        state = State(aurora.settings.base / "aurora.state")
        rows, documents = [], []
        for name in in_order(rules):
            rule, past = rules[name], state[name]
            coming = rule.upcoming(now, 3)
            words = rule.words() if rule.is_on else rule.text
            last = past.outcome and f"{past.outcome} {shown_moment(past.ended_at or now)}"
            times = ", ".join(f"{one:%a %d %b %H:%M}" for one in coming) or "-"
            rows.append((BY_NAME[name].shown, words, rule.cron or "-", times, last or "-"))
            documents.append(
                {"job": name, "due": words, "cron": rule.cron, "next": coming, **asdict(past)}
            )
        shown.print(table(("job", "due (UTC)", "cron", "next three", "last"), rows))
        shown.summary(
            {"operation": "schedule show", "now": now, "jobs": documents},
            [f"now it is {shown_moment(now)}; `aurora run` runs all of this"],
        )


@schedule.command("run")
def run_job(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job's name, as `schedule show` lists it.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also where it is not due, or was done already.")
    ] = False,
    json: Json = False,
) -> None:
    """Run one job if it is due and no other host has done it: for a scheduler of your own.

    Retries, notices, pings and retention come with it. Exit code: that of the job's command; 0
    where there was nothing to do.
    """
    from aurora.scheduler.once import run_once  # noqa: PLC0415 - slow to import
    from aurora.scheduler.setup import LongLived, check_secrets, set_up  # noqa: PLC0415

    with surface(json) as shown:
        path = run_context.config_path(context)
        aurora = LongLived.load(path, sink=shown.sink, patience=HASTY)
        check_secrets(aurora)
        daemon = set_up(aurora, path, has_command, shown.sink)
        done = run_once(daemon, job, force=force)
        shown.summary(
            {"operation": "schedule run", "job": done.job, "ran": done.ran, **asdict(done.state)},
            [f"{done.job}: {done.told} ({format_duration(done.state.seconds)})" if done.ran
             else f"{done.job}: {done.told}"],
        )  # fmt: skip
    if done.ran and done.state.outcome == "partly":
        raise typer.Exit(Incomplete.exit_code)
    if done.ran and done.state.outcome == "failed":
        error = AuroraError(f"{done.job} failed: {done.state.message}", hint=done.state.hint)
        code = done.state.exit_code or 0
        error.exit_code = code if code > 0 else 1
        raise error


@schedule.command("export")
def export_units(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="systemd, cron, kubernetes or github-actions.")],
    to: Annotated[
        Path | None, typer.Option(help="Directory to write the files to; shown without it.")
    ] = None,
    user: Annotated[str, typer.Option(help="User to run as (systemd, cron).")] = "aurora",
    environment_file: Annotated[
        str, typer.Option(help="File with the secrets' variables (systemd, cron).")
    ] = "/etc/aurora/environment",
    image: Annotated[str, typer.Option(help="Container image (kubernetes).")] = "aurora:latest",
    secret_name: Annotated[
        str, typer.Option("--secret", help="Name of the Secret with the variables (kubernetes).")
    ] = "aurora-secrets",  # noqa: S107 - the name of a secret is none
    json: Json = False,
) -> None:
    """Write ready units for a scheduler that you have. They name secrets, and hold none."""
    from aurora.scheduler import export as exporting  # noqa: PLC0415 - slow to import
    from aurora.scheduler.setup import rules_of  # noqa: PLC0415

    if kind not in exporting.KINDS:
        raise UsageError(f"nothing is known of {kind[:30]}",
                         hint=f"Use {', '.join(exporting.KINDS)}.")  # fmt: skip
    with surface(json) as shown:
        aurora = run_context.load(context)
        options = exporting.ExportOptions(
            database=aurora.database.replace("_", "-").replace(".", "-"),
            program=shutil.which("aurora") or str(Path(sys.argv[0]).absolute()),
            config=str(run_context.config_path(context).absolute()),
            user=user,
            environment_file=environment_file,
            image=image,
            secret=secret_name,
            variables=variables_of(aurora.settings),
        )
        files = exporting.export(kind, rules_of(aurora), options)
        if to is not None:
            to.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                write_new(to / name, text)
        for name, text in files.items() if to is None else ():
            shown.print(f"# --- {name}", text)
        where = f"in {to}" if to else "shown"
        shown.summary(
            {"operation": "schedule export", "kind": kind, "files": dict(files),
             "directory": None if to is None else str(to)},
            [f"{plural(len(files), 'file')} {where}; secrets go to the variables "
             f"{', '.join(options.variables)}"],
        )  # fmt: skip


def variables_of(settings: Settings) -> list[str]:
    """The variables of the environment that this configuration takes secrets from."""
    found = {"AURORA_PASSPHRASE"} if settings.primary.passphrase is None else set()
    if settings.secondary is not None and settings.secondary.passphrase is None:
        found.add("AURORA_SECONDARY_PASSPHRASE")
    if settings.source.password is None:
        found.add("AURORA_SOURCE_PASSWORD")
    references: list[object] = [settings.source.password]
    for storage in (settings.primary, settings.secondary):
        if storage is not None:
            references += [storage.passphrase, *storage.credentials.values()]
    references += [one.url for one in settings.notify.targets]
    references += [getattr(settings.ping, name) for name in type(settings.ping).model_fields]
    found |= {one.env for one in references if isinstance(one, SecretRef) and one.env}
    return sorted(found)
