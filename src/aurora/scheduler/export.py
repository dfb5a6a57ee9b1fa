"""The schedule for those who have a scheduler: units and manifests ready to be installed.

Each runs ``aurora schedule run JOB``, which brings claims, retries, notices, pings and
retention along, as the daemon does. No secret is written: systemd gets an EnvironmentFile,
Kubernetes a Secret by name, GitHub the names of its secrets.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aurora.schedule import DAYS, Rule
from aurora.scheduler.jobs import BY_NAME, in_order

KINDS = ("systemd", "cron", "kubernetes", "github-actions")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_HARDENING = """\
NoNewPrivileges=yes
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
"""
_LONGEST = {"source": 24, "storage": 12, "test": 24}  # hours: a run that hangs ends some day


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the units name. ``variables``: of the environment, with secrets."""

    database: str
    program: str  # path of aurora
    config: str  # path of aurora.toml
    user: str
    environment_file: str
    image: str
    secret: str  # name of the Kubernetes Secret
    variables: Sequence[str]


def export(kind: str, rules: Mapping[str, Rule], options: ExportOptions) -> dict[str, str]:
    """File name -> text. Jobs that are off are left out."""
    jobs = [(name, rules[name]) for name in in_order(rules) if rules[name].is_on]
    if kind == "systemd":
        return dict(_systemd(jobs, options))
    if kind == "cron":
        return {f"aurora-{options.database}.cron": _cron(jobs, options)}
    if kind == "kubernetes":
        return {f"aurora-{options.database}.yaml": _kubernetes(jobs, options)}
    return {f"aurora-{options.database}.yml": _github(jobs, options)}


def on_calendar(cron: str) -> list[str]:
    """systemd's calendar expressions for a cron line; two where days of month or week are due."""
    minute, hour, day, month, weekday = cron.split()
    time = f"{_calendar(hour)}:{_calendar(minute)}:00 UTC"
    months = _calendar(_numbered(month, _MONTHS, 1))
    days = _weekdays(weekday)
    found = []
    if day != "*" or not days:
        found.append(f"*-{months}-{_calendar(day)} {time}")
    if days:
        found.append(f"{days} *-{months}-* {time}")
    return found


def _calendar(field: str) -> str:
    """One field of cron in systemd's form: ``*/5`` -> ``00/5``, ``1-5`` -> ``1..5``."""
    parts = []
    for part in field.split(","):
        span, _, step = part.partition("/")
        if span == "*":
            parts.append(f"0/{step}" if step else "*")
        else:
            first, _, last = span.partition("-")
            shown = f"{int(first):02d}" + (f"..{int(last):02d}" if last else "")
            parts.append(f"{shown}/{step}" if step else shown)
    return ",".join(parts)


def _numbered(field: str, names: Sequence[str], first: int) -> str:
    return re.sub(r"[a-z]+", lambda found: str(names.index(found[0][:3]) + first), field.lower())


def _weekdays(field: str) -> str:
    if field == "*":
        return ""
    names = [name[:3] for name in DAYS]
    numbered = _numbered(field, names, 0)
    days: set[int] = set()
    for part in numbered.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-") if span != "*" else ("0", "", "6")
        end = int(last or (6 if step else first))
        start = int(first)
        days.update(one % 7 for one in range(start, (end or 7) + 1 if end < start else end + 1,
                                             int(step or 1)))  # fmt: skip
    return ",".join(names[one].capitalize() for one in sorted(days))


def numeric(cron: str) -> str:
    """A cron line with numbers alone: not every cron knows names."""
    minute, hour, day, month, weekday = cron.split()
    days = _weekdays(weekday)
    numbers = ",".join(
        str([name[:3].capitalize() for name in DAYS].index(one)) for one in days.split(",") if one
    )
    return f"{minute} {hour} {day} {_numbered(month, _MONTHS, 1)} {numbers or '*'}"


def _systemd(jobs: Iterable[tuple[str, Rule]], options: ExportOptions) -> Iterable[tuple[str, str]]:
    daemon = " ".join(map(_systemd_word, (options.program, "--config", options.config, "run")))
    yield (
        f"aurora-{options.database}.service",
        f"""\
# The daemon. Use either this or the timers beside it:
#   systemctl enable --now aurora-{options.database}.service
[Unit]
Description=Aurora: backups of {options.database}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User={options.user}
# Holds the secrets that aurora.toml refers to by {{env = …}}; mode 0600. May be absent.
EnvironmentFile=-{options.environment_file}
ExecStart={daemon}
Restart=on-failure
RestartSec=30
# It stops its jobs itself, in order.
KillMode=mixed
TimeoutStopSec=5min
{_HARDENING}
[Install]
WantedBy=multi-user.target
""",
    )
    for name, rule in jobs:
        job = BY_NAME[name]
        unit = f"aurora-{options.database}-{job.shown}"
        words = (options.program, "--config", options.config, "schedule", "run", job.shown)
        command = " ".join(map(_systemd_word, words))
        yield (
            f"{unit}.service",
            f"""\
# Install below /etc/systemd/system, then: systemctl daemon-reload
[Unit]
Description=Aurora: {job.label} of {options.database}
Documentation=man:systemd.service(5)
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
User={options.user}
# Holds the secrets that aurora.toml refers to by {{env = …}}; mode 0600. May be absent.
EnvironmentFile=-{options.environment_file}
ExecStart={command}
TimeoutStartSec={_LONGEST[job.lane]}h
TimeoutStopSec=3min
# 3: done, but a part of it is not, which is told by notices and by `aurora backup status`.
SuccessExitStatus=3
{_HARDENING}""",
        )
        calendar = "\n".join(f"OnCalendar={one}" for one in on_calendar(rule.cron))
        yield (
            f"{unit}.timer",
            f"""\
# Enable: systemctl enable --now {unit}.timer
[Unit]
Description=Aurora: {job.label} of {options.database}, {rule.words()} (UTC)

[Timer]
{calendar}
# A run that was missed is caught up once.
Persistent=yes
AccuracySec=1s

[Install]
WantedBy=timers.target
""",
        )


def _systemd_word(word: str) -> str:
    """One word of ExecStart: % and $ mean something there."""
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return plain if re.fullmatch(r"[\w@%+=:,./$-]+", plain) else f'"{plain}"'


def _cron(jobs: Iterable[tuple[str, Rule]], options: ExportOptions) -> str:
    lines = [
        f"# Aurora's schedule of {options.database}. Install as /etc/cron.d/aurora-"
        f"{options.database} (without a dot).",
        "# CRON_TZ is known to cronie; with another cron the machine's zone has to be UTC.",
        f"# Secrets: {options.environment_file}, mode 0600, lines NAME=value.",
        "CRON_TZ=UTC",
        "SHELL=/bin/sh",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "",
    ]
    secrets = shlex.quote(options.environment_file)
    for name, rule in jobs:
        job = BY_NAME[name]
        command = (
            f"set -a; [ ! -r {secrets} ] || . {secrets}; "
            f"exec {shlex.quote(options.program)} --config {shlex.quote(options.config)} "
            f"schedule run {job.shown}"
        ).replace("%", "\\%")  # cron would end the command there
        lines += [f"# {job.label}: {rule.words()}",
                  f"{numeric(rule.cron)} {options.user} {command}"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _kubernetes(jobs: Iterable[tuple[str, Rule]], options: ExportOptions) -> str:
    documents = [
        f"""\
# Aurora's schedule of {options.database}. Before it:
#   kubectl create configmap aurora-{options.database} --from-file=aurora.toml
#   kubectl create secret generic {options.secret} --from-env-file=FILE   (NAME=value lines)
# What this host remembers (aurora.state) goes to a volume of its own; losing it loses history.
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: aurora-{options.database}-state
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests:
      storage: 1Gi
"""
    ]
    for name, rule in jobs:
        job = BY_NAME[name]
        documents.append(f"""\
# {job.label}: {rule.words()}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: aurora-{options.database}-{job.shown}
spec:
  schedule: "{numeric(rule.cron)}"
  timeZone: Etc/UTC
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  successfulJobsHistoryLimit: 1
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      backoffLimit: 0
      activeDeadlineSeconds: {_LONGEST[job.lane] * 3600}
      template:
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 180
          containers:
            - name: aurora
              image: "{options.image}"
              workingDir: /aurora
              args: ["--config", "/aurora/aurora.toml", "schedule", "run", "{job.shown}"]
              envFrom:
                - secretRef:
                    name: {options.secret}
              volumeMounts:
                - name: config
                  mountPath: /aurora/aurora.toml
                  subPath: aurora.toml
                  readOnly: true
                - name: state
                  mountPath: /aurora/aurora.state
          volumes:
            - name: config
              configMap:
                name: aurora-{options.database}
            - name: state
              persistentVolumeClaim:
                claimName: aurora-{options.database}-state
""")
    return "---\n".join(documents)


def _github(jobs: Iterable[tuple[str, Rule]], options: ExportOptions) -> str:
    known = list(jobs)
    crons: dict[str, list[str]] = {}
    for name, rule in known:
        crons.setdefault(numeric(rule.cron), []).append(BY_NAME[name].shown)
    times = "\n".join(
        f'    - cron: "{cron}" # {", ".join(names)}: {_words(known, cron)}'
        for cron, names in crons.items()
    )
    cases = "\n".join(
        f"            '{cron}') jobs='{' '.join(names)}' ;;" for cron, names in crons.items()
    )
    env = "\n".join(f"  {name}: ${{{{ secrets.{name} }}}}" for name in options.variables)
    choices = ", ".join(BY_NAME[name].shown for name, _ in known)
    return f"""\
# Aurora's schedule of {options.database}: put it below .github/workflows/ beside aurora.toml.
# GitHub starts scheduled runs late under load and may leave one out: for an RPO of an hour or
# less use `aurora run`. Secrets of the repository or its environment: see env below.
name: Aurora {options.database}
on:
  schedule:
{times}
  workflow_dispatch:
    inputs:
      job:
        description: "One of: {choices}"
        required: true
permissions:
  contents: read
concurrency:
  group: aurora-{options.database}
  cancel-in-progress: false
env:
{env}
jobs:
  aurora:
    runs-on: ubuntu-latest
    timeout-minutes: 350
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - name: Install
        run: pip install aurora-backup
      - name: Run
        env:
          CRON: ${{{{ github.event.schedule }}}}
          CHOSEN: ${{{{ inputs.job }}}}
        run: |
          case "$CRON" in
{cases}
            *) jobs="$CHOSEN" ;;
          esac
          code=0
          for job in $jobs; do
            aurora schedule run "$job" || code=$?
          done
          exit "$code"
"""


def _words(jobs: Iterable[tuple[str, Rule]], cron: str) -> str:
    return next(rule.words() for _, rule in jobs if numeric(rule.cron) == cron)
