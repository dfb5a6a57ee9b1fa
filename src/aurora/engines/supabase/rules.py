"""Which schemas, roles and tables of a Supabase project belong to the platform.

Source: the lists of the Supabase CLI's ``db dump`` (schemas that it leaves out, reserved
roles), and the grants that hosted projects show.
"""

import re
from collections.abc import Mapping

# Schemas that the platform and its extensions make and keep; people's things are elsewhere.
MANAGED = frozenset({
    "auth", "storage", "realtime", "vault", "cron", "graphql", "graphql_public", "net",
    "pgbouncer", "pgmq", "pgsodium", "pgsodium_masks", "pgtle", "repack", "etl",
    "supabase_functions", "_analytics", "_realtime", "_supavisor", "tiger", "tiger_data",
    "topology",
})  # fmt: skip
# Of these there is never one of people's; the others people may have made themselves.
_CORE = frozenset({"auth", "storage", "realtime", "vault", "cron"})

_RESERVED = re.compile(
    r"anon|authenticated|authenticator|service_role|dashboard_user|pgbouncer|postgres"
    r"|cli_login_.*|supabase_.*|pgsodium_key(?:holder|iduser|maker)|pgtle_admin|pg_.*"
)

# The schema of a restore under way; while it is there the project is unfinished.
STAGING = "aurora_restore"
_PLATFORM_FUNCTION = re.compile(r"(?:grant_pg_\w+|pgrst_\w+|set_graphql_placeholder)\(")

_MIGRATIONS = "the service's own migrations: the target's stay"
_PASSING = "passing messages and subscriptions: clients subscribe again"
_UPLOADS = "uploads that were under way: begin them again"
_HISTORY = "a log of past runs"
_OTHER_BUCKETS = "analytics and vector buckets are not plain objects, and are not backed up"
_SKIPPED = {
    ("auth", "schema_migrations"): _MIGRATIONS,
    ("storage", "migrations"): _MIGRATIONS,
    ("realtime", "schema_migrations"): _MIGRATIONS,
    ("supabase_functions", "migrations"): _MIGRATIONS,
    ("realtime", "subscription"): _PASSING,
    ("realtime", "messages"): _PASSING,
    ("storage", "s3_multipart_uploads"): _UPLOADS,
    ("storage", "s3_multipart_uploads_parts"): _UPLOADS,
    ("cron", "job_run_details"): _HISTORY,
    ("supabase_functions", "hooks"): _HISTORY,
    ("storage", "buckets_analytics"): _OTHER_BUCKETS,
    ("storage", "buckets_vectors"): _OTHER_BUCKETS,
    ("storage", "vector_indexes"): _OTHER_BUCKETS,
}
VAULT = ("vault", "secrets")
CRON = ("cron", "job")


def is_reserved(role: str) -> bool:
    """Whether the platform makes this role and keeps it from its users."""
    return _RESERVED.fullmatch(role) is not None


def is_fresh_owner(owner: str) -> bool:
    """Whether what the role owns is the platform's; people's things are postgres' or their own."""
    return owner not in ("postgres", "pg_database_owner") and is_reserved(owner)


def managed_schemas(owners: Mapping[str, str]) -> frozenset[str]:
    """The platform's schemas, where *owners* are those of the schemas in a dump.

    One that people made themselves under the name of a platform's is theirs.
    """
    return frozenset(
        name
        for name in MANAGED
        if name in _CORE or name not in owners or is_fresh_owner(owners[name])
    )


def is_platform_function(name: str) -> bool:
    """Whether a function in ``extensions`` is one that the platform puts there."""
    return _PLATFORM_FUNCTION.match(name) is not None


def is_passing(schema: str, name: str) -> bool:
    """Whether it is one of Realtime's daily partitions, or something on one."""
    return schema == "realtime" and re.match(r"messages_\d{4}_\d\d_\d\d", name) is not None


def why_skipped(schema: str, name: str) -> str:
    """Why rows of a table in a managed schema are not restored; "" where they are."""
    if schema in ("graphql", "pgsodium", "pgtle", "_realtime", "_analytics", "_supavisor", "net"):
        return "the platform's own"
    if is_passing(schema, name):
        return _PASSING
    return _SKIPPED.get((schema, name), "")
