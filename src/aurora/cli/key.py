"""`aurora key …`: which secrets open the backups, and taking care of them."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from aurora import api
from aurora.cli import context as run
from aurora.cli.prompts import ask_new_secret, ask_secret, confirm
from aurora.cli.render import Surface, recovery_code, surface, table
from aurora.config.secrets import reference_from_environment
from aurora.errors import UsageError
from aurora.operations.configuration import write_new
from aurora.operations.keys import CHANGED, KeySlot, Place, unproven
from aurora.repository.keys import KeyFile, Passphrase, RecoveryCode, Secret
from aurora.units import plural

key = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]
Storage = Annotated[str, typer.Option(help="Whose key slots: primary or secondary.")]
Kind = Literal["passphrase", "recovery-code", "key-file"]
CodeFile = Annotated[
    Path | None,
    typer.Option(help="Write a new recovery code there (mode 0600), show none."),
]
_NEW = "AURORA_NEW_PASSPHRASE"


@key.callback()
def group() -> None:
    """Key slots, recovery sheet, identities of sealed backups."""


@key.command("list")
def list_keys(context: typer.Context, json: Json = False) -> None:
    """List the key slots of both storages, and which were seen to open."""
    with surface(json) as shown:
        slots = api.list_keys(run.load(context))
        rows = [
            (
                one.place,
                one.id,
                one.kind if one.genuine else "NOT OURS",
                one.label,
                f"{one.created_at:%Y-%m-%d}" if one.created_at else "",
                one.proven_at[:16].replace("T", " ") or "never",
            )
            for one in slots
        ]
        shown.print(table(("storage", "slot", "kind", "label", "made", "last proven (UTC)"), rows))
        shown.summary(
            {"operation": "key list", "slots": [one.document() for one in slots]},
            [
                *_warnings(slots),
                f"{plural(len(slots), 'key slot')}",
            ],
        )


def _warnings(slots: list[KeySlot]) -> list[str]:
    lines = [
        f"warning: {one.kind} slot {one.id} of the {one.place} was never proven: "
        "`aurora key test` proves it"
        for one in unproven(slots)
    ]
    return lines + [
        f"warning: slot {one.id} of the {one.place} was not made by an owner of the key"
        for one in slots
        if not one.genuine
    ]


@key.command("add")
def add(
    context: typer.Context,
    kind: Annotated[Kind, typer.Argument(help="passphrase, recovery-code or key-file.")],
    storage: Storage = "primary",
    key_file: Annotated[Path | None, typer.Option(help="The key file, 32 bytes or more.")] = None,
    label: Annotated[str, typer.Option(help="What `key list` calls it.")] = "",
    recovery_code_file: CodeFile = None,
    json: Json = False,
) -> None:
    """Add a way to open the backups of one storage; the ones that are there stay."""
    with surface(json) as shown:
        place = _place(storage)
        secret: Passphrase | KeyFile | None = None
        if kind == "passphrase":
            secret = _new_passphrase(place)
        elif kind == "key-file":
            secret = _key_file(key_file)
        codes: list[str] = []

        def reveal(code: str) -> None:
            codes.append(code)
            _reveal(shown, place, code, recovery_code_file)

        slot_id = api.add_key(
            run.load(context), secret, storage=place, label=label or kind.replace("-", " "),
            reveal=reveal, sink=shown.sink,
        )  # fmt: skip
        shown.summary(
            {
                "operation": "key add",
                "storage": place,
                "slot": slot_id,
                "kind": kind,
                **_told_code(codes, recovery_code_file),
            },
            [f"{kind} slot {slot_id} added to the {place}, and proven"],
        )


@key.command("remove")
def remove(
    context: typer.Context,
    slot: Annotated[str, typer.Argument(help="A slot's id, or a unique beginning of it.")],
    storage: Storage = "primary",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove a key slot. Never the last one."""
    with surface(json) as shown:
        place = _place(storage)
        aurora = run.load(context)
        confirm(f"Remove the key slot {slot} of the {place}?", action="remove a key slot", yes=yes)
        api.remove_key(aurora, slot, storage=place, sink=shown.sink)
        shown.summary(
            {"operation": "key remove", "storage": place, "slot": slot},
            [*CHANGED, f"slot {slot} removed from the {place}"],
        )


@key.command("rotate")
def rotate(
    context: typer.Context,
    kind: Annotated[
        Literal["passphrase", "recovery-code"], typer.Argument(help="What to replace.")
    ],
    storage: Storage = "primary",
    recovery_code_file: CodeFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Replace the passphrase in use, or all recovery codes, by a new one.

    The new slot is proven before the old one goes. The new passphrase comes from
    AURORA_NEW_PASSPHRASE_FILE (_COMMAND), or is asked for.
    """
    with surface(json) as shown:
        place = _place(storage)
        aurora = run.load(context)
        new = _new_passphrase(place) if kind == "passphrase" else None
        confirm(f"Replace the {kind} of the {place}?", action=f"replace the {kind}", yes=yes)
        codes: list[str] = []

        def reveal(code: str) -> None:
            codes.append(code)
            _reveal(shown, place, code, recovery_code_file)

        done = api.rotate_key(aurora, new, storage=place, reveal=reveal, sink=shown.sink)
        shown.summary(
            {
                "operation": "key rotate",
                "storage": place,
                "kind": kind,
                "added": done.added,
                "removed": done.removed,
                **_told_code(codes, recovery_code_file),
            },
            [
                *CHANGED,
                f"{kind} of the {place} replaced: slot {done.added} added and proven, "
                f"{plural(len(done.removed), 'old slot')} removed",
                *(
                    ["put the new passphrase where Aurora reads it, before the next run"]
                    if kind == "passphrase"
                    else []
                ),
            ],
        )


@key.command("test")
def prove(
    context: typer.Context,
    kind: Annotated[
        Kind, typer.Argument(help="passphrase, recovery-code or key-file.")
    ] = "recovery-code",
    storage: Storage = "primary",
    key_file: Annotated[Path | None, typer.Option(help="The key file.")] = None,
    json: Json = False,
) -> None:
    """Prove that a secret kept elsewhere opens the backups, before the day it must.

    A recovery code comes from AURORA_RECOVERY_CODE_FILE (AURORA_SECONDARY_…), or is asked
    for. Exit code 12 when it does not open.
    """
    with surface(json) as shown:
        place = _place(storage)
        secret = _secret(kind, place, key_file)
        found = api.prove_key(run.load(context), secret, storage=place)
        shown.summary(
            {"operation": "key test", "storage": place, "kind": kind, "slots": found},
            [f"this {kind.replace('-', ' ')} opens the {place}: slot {', '.join(found)}"],
        )


@key.command("sheet")
def sheet(
    context: typer.Context,
    output: Annotated[
        Path | None, typer.Option(help="Write it there (mode 0600); else to standard output.")
    ] = None,
    new_codes: Annotated[
        bool, typer.Option("--new-codes", help="Make new recovery codes and print them on it.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the recovery sheet: all that a recovery needs, to keep offline."""
    with surface(json) as shown:
        if json and output is None:
            raise UsageError("with --json the sheet needs a place", hint="Give --output FILE.")
        text = api.recovery_sheet_of(run.load(context), new_codes=new_codes, sink=shown.sink)
        if output is None:
            shown.print(text)
        else:
            write_new(output, text, mode=0o600)
        shown.summary(
            {"operation": "key sheet", "output": str(output) if output else None},
            [f"the recovery sheet is in {output}: print it, and take the file off this machine"]
            if output
            else [],
        )


@key.command("new-identity")
def new_identity(
    file: Annotated[Path, typer.Argument(help="The file to make.")], json: Json = False
) -> None:
    """Make an identity for sealed backups. Do this on a machine that is not the backup host."""
    with surface(json) as shown:
        public = api.new_identity(file)
        shown.summary(
            {"operation": "key new-identity", "file": str(file), "recipient": public},
            [
                f"{file} opens sealed backups: keep it offline, in two places",
                "for aurora.toml on the backup host, [sealed] recipients:",
                public,
            ],
        )


def _place(storage: str) -> Place:
    if storage not in ("primary", "secondary"):
        raise UsageError(f"no storage is called {storage[:40]!r}", hint="primary or secondary.")
    return cast("Place", storage)


def _new_passphrase(place: Place) -> Passphrase:
    reference = reference_from_environment(_NEW)
    text = (
        reference.resolve("the new passphrase")
        if reference is not None
        else ask_new_secret(f"New passphrase of the {place}")
    )
    if not text:
        raise UsageError(
            "the new passphrase is not given",
            hint=f"Give it by {_NEW}_FILE or {_NEW}_COMMAND; on a terminal it is asked for.",
        )
    return Passphrase(text)


def _key_file(path: Path | None) -> KeyFile:
    if path is None:
        raise UsageError("which key file?", hint="Give --key-file PATH.")
    return KeyFile.read(path)


def _secret(kind: Kind, place: Place, key_file: Path | None) -> Secret:
    if kind == "key-file":
        return _key_file(key_file)
    prefix = "AURORA" if place == "primary" else "AURORA_SECONDARY"
    words, variable = kind.replace("-", " "), f"{prefix}_{kind.replace('-', '_').upper()}"
    reference = reference_from_environment(variable)
    name = f"the {place} {words}"
    text = (
        reference.resolve(name)
        if reference is not None
        else ask_secret(f"{words.capitalize()} of the {place}, as it is kept")
    )
    if not text:
        raise UsageError(
            f"{name} is not given",
            hint=f"Give it by {variable}_FILE; on a terminal it is asked for.",
        )
    return Passphrase(text) if kind == "passphrase" else RecoveryCode(text)


def _reveal(shown: Surface, place: Place, code: str, file: Path | None) -> None:
    if file is None:
        shown.print(*recovery_code(place, code))
    else:
        write_new(file, f"{place}: {code}\n", mode=0o600)


def _told_code(codes: list[str], file: Path | None) -> dict[str, str]:
    if not codes:
        return {}
    return {"recovery_code_file": str(file)} if file else {"recovery_code": codes[0]}
