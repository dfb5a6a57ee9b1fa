"""Whether the objects of the source's Storage can be backed up: asked before a backup needs it."""

from collections.abc import Iterator

from aurora.engines.supabase import rows
from aurora.errors import StorageError
from aurora.operations.findings import Finding, failed, good, warning
from aurora.operations.objects import SourceObjects
from aurora.postgres.server import open_control
from aurora.units import format_size, listed, plural


def check_objects(dsn: str, source: SourceObjects) -> Iterator[Finding]:
    """Key, buckets and rows of the Storage; nothing where the source has none.

    Raises SourceError.
    """
    with open_control(dsn) as conn:
        if not rows.has_storage(conn):
            return
        count, size = rows.count_objects(conn)
        buckets = rows.read_buckets(conn)
        more = rows.uncovered(conn)
    told = f"{plural(count, 'object')} ({format_size(size)}) in {plural(len(buckets), 'bucket')}"
    if not source.wanted:
        yield warning(
            "storage-left-out",
            f"the source's Storage has {told}, and they are left out on request",
            "Set include = true under [objects] to back them up.",
        )
        return
    if source.client is None:
        if count:
            yield warning(
                "storage-no-key",
                f"the source's Storage has {told}, and no key to read them is configured",
                "Give it by AURORA_SOURCE_STORAGE_KEY_FILE or storage_key under [source]: the "
                "project's service_role or secret key. See docs/storage-objects.md.",
            )
        return
    try:
        seen = {str(bucket.get("id")) for bucket in source.client.buckets()}
    except StorageError as error:
        yield failed("storage-refused", f"the source's Storage: {error.message}", error.hint)
        return
    taken, left = rows.chosen_buckets(buckets, source.skip, source.own)
    if hidden := sorted(set(taken) - seen):
        yield failed(
            "storage-other-project",
            f"the Storage at {source.client.url} does not have the source's buckets "
            f"{listed(hidden)}",
            "It is another project's, or the key may not see them: check storage_url and the key.",
        )
        return
    yield good("storage-reads", f"the source's Storage at {source.client.url}: {told}")
    for what in (*left, *more):
        yield warning(
            "bucket-skipped", f"not backed up: bucket {what}", "Nothing else backs it up either."
        )
