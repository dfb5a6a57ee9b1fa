"""The objects of a project's Storage: one to a file, one, a bucket or all to a project."""

from collections.abc import Callable, Sequence
from pathlib import Path

from aurora.api.audit import recorded
from aurora.api.common import held, keyed, opened
from aurora.engines.supabase.documents import ObjectEntry
from aurora.errors import UsageError
from aurora.events import EventSink, discard
from aurora.operations import objects_read
from aurora.operations import restore_objects as operation
from aurora.operations.reports import ObjectsRestored
from aurora.operations.restore_objects import ObjectsPlan
from aurora.wiring import Aurora


def save_object(
    aurora: Aurora,
    path: str,
    backup_id: str,
    output: Path,
    *,
    storage: str = "primary",
    identity: Sequence[Path] = (),
    sink: EventSink = discard,
) -> ObjectEntry:
    """Write the object ``bucket/name`` of a backup to a file.

    Raises: see :func:`aurora.operations.objects_read.save_object`.
    """
    repository, backup = opened(aurora, backup_id, storage, sink, identity)
    with (
        recorded(
            aurora, "restore", "backup restore-object", sink,
            backup=backup.entry.id, object=path, output=str(output),
        ) as note,
        held(repository),
    ):  # fmt: skip
        note.repository = keyed(repository)
        entry = objects_read.save_object(backup, path, output)
        note.facts |= {"bytes": entry.size, "sha256": entry.sha256}
    return entry


def restore_objects(
    aurora: Aurora,
    backup_id: str,
    *,
    bucket: str = "",
    path: str = "",
    target: str | None = None,
    storage: str = "primary",
    identity: Sequence[Path] = (),
    confirm: Callable[[ObjectsPlan], None] | None = None,
    sink: EventSink = discard,
) -> ObjectsRestored:
    """Bring objects back to a project: one (*path*), those of a *bucket*, or all.

    Args:
        target: connection string of the project's database; by default the source's.
        confirm: gets the plan before anything is changed, and may raise.

    Raises: see :func:`aurora.operations.restore_objects.run_objects`.
    """
    client = aurora.target_storage(target)
    if client is None:
        raise UsageError(
            "no key of the target's Storage is given",
            hint="Give it by AURORA_TARGET_STORAGE_KEY_FILE (or _COMMAND), with the project's URL "
            "as AURORA_TARGET_STORAGE_URL; for the source itself AURORA_SOURCE_STORAGE_KEY_FILE.",
        )
    repository, backup = opened(aurora, backup_id, storage, sink, identity)
    plan = operation.plan_objects(
        ObjectsPlan(
            backup,
            client,
            bucket=bucket,
            path=path,
            dsn=target or aurora.source_dsn(),
            jobs=aurora.settings.objects.jobs,
            max_rate=aurora.settings.objects.max_rate,
        )
    )
    if confirm is not None:
        confirm(plan)
    verb = "restore-object" if path else "restore-bucket"
    with recorded(aurora, "restore", f"backup {verb}", sink) as note, held(repository):
        note.repository = keyed(repository)
        report = operation.run_objects(plan, sink=sink)
        note.facts |= report.document()
        note.outcome = note.outcome if report.is_complete else "incomplete"
    return report
