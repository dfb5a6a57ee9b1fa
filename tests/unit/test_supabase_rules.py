"""What is the platform's and what is people's, told without a server."""

import pytest

from aurora.engines.base import Table
from aurora.engines.logical.schema import Described, Entry
from aurora.engines.supabase.handover import in_order
from aurora.engines.supabase.rules import is_passing, is_reserved, why_skipped
from aurora.engines.supabase.sorting import belongs_to_user
from aurora.operations.restore_project import roles_of_users

GLOBALS = """--
-- Roles
--

CREATE ROLE anon;
ALTER ROLE anon WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE "my reporting";
ALTER ROLE "my reporting" WITH NOSUPERUSER INHERIT NOLOGIN;
CREATE ROLE postgres;
ALTER ROLE supabase_auth_admin SET search_path TO 'auth';
ALTER ROLE authenticator SET "pgrst.db_aggregates_enabled" TO 'true';
COMMENT ON ROLE "my reporting" IS 'reads; only';
GRANT anon TO authenticator GRANTED BY supabase_admin;
GRANT pg_read_all_data TO postgres WITH ADMIN OPTION GRANTED BY supabase_admin;
GRANT "my reporting" TO postgres WITH ADMIN OPTION GRANTED BY supabase_admin;
GRANT "my reporting" TO authenticator GRANTED BY postgres;
GRANT pg_monitor TO "my reporting" GRANTED BY postgres;
"""


def described(kind: str, name: str, schema: str, owner: str) -> Described:
    """An entry as an archive lists it."""
    return Described(Entry(1, 0, 0, kind, "", ""), name, schema, owner, "")


def table(schema: str, name: str) -> Table:
    """A table of which only the name matters."""
    return Table(1, schema, name, "r", "x", ())


def test_only_roles_of_people_are_restored() -> None:
    """And settings on the API roles, which people may change; and grants of and to their own."""
    assert roles_of_users(GLOBALS).splitlines() == [
        'CREATE ROLE "my reporting";',
        'ALTER ROLE "my reporting" WITH NOSUPERUSER INHERIT NOLOGIN;',
        """ALTER ROLE authenticator SET "pgrst.db_aggregates_enabled" TO 'true';""",
        """COMMENT ON ROLE "my reporting" IS 'reads; only';""",
        'GRANT "my reporting" TO authenticator GRANTED BY postgres;',
        'GRANT pg_monitor TO "my reporting" GRANTED BY postgres;',
    ]


@pytest.mark.parametrize(
    "role, reserved",
    [
        ("anon", True), ("supabase_storage_admin", True), ("cli_login_postgres", True),
        ("pg_read_all_data", True), ("anonymous", False), ("my_supabase_role", False),
    ],
)  # fmt: skip
def test_reserved_roles(role: str, reserved: bool) -> None:
    """By the whole name."""
    assert is_reserved(role) is reserved


def test_what_of_the_services_is_left_out() -> None:
    """Migrations and what passes; people's rows never."""
    assert why_skipped("auth", "schema_migrations")
    assert why_skipped("realtime", "messages_2026_11_25")
    assert is_passing("realtime", "messages_2026_11_25_pkey")
    assert not is_passing("public", "messages_2026_11_25")
    for name in ("users", "identities", "sessions", "refresh_tokens", "mfa_factors"):
        assert why_skipped("auth", name) == ""
    assert why_skipped("storage", "buckets") == ""
    assert why_skipped("storage", "objects") == ""


@pytest.mark.parametrize(
    "kind, name, schema, owner, peoples",
    [
        ("SCHEMA", "shop", "", "postgres", True),
        ("SCHEMA", "auth", "", "supabase_admin", False),
        ("TABLE", "orders", "public", "postgres", True),
        ("TABLE", "old", "public", "supabase_admin", False),
        ("TABLE", "users", "auth", "supabase_auth_admin", False),
        ("POLICY", "objects mine", "storage", "supabase_storage_admin", True),
        ("FUNCTION", "pgrst_ddl_watch()", "extensions", "postgres", False),
        ("FUNCTION", "mine()", "extensions", "postgres", True),
        ("PUBLICATION", "supabase_realtime", "", "postgres", False),
        ("PUBLICATION", "mine", "", "postgres", True),
        ("EXTENSION", "pgcrypto", "", "", False),
        ("ACL", "TABLE orders", "public", "postgres", False),
    ],
)
def test_what_makes_a_project_not_fresh(
    kind: str, name: str, schema: str, owner: str, peoples: bool
) -> None:
    """What a fresh project has is none of people's."""
    assert belongs_to_user(described(kind, name, schema, owner)) is peoples


def test_rows_that_others_refer_to_come_first() -> None:
    """In a circle, in the order given; and nothing is left out."""
    users, identities, sessions, tokens = (
        ("auth", name) for name in ("users", "identities", "sessions", "refresh_tokens")
    )
    refers = {
        identities: frozenset({users}),
        sessions: frozenset({users, sessions}),
        tokens: frozenset({sessions}),
    }
    tables = [table(*name) for name in (tokens, sessions, identities, users)]
    order = [(t.schema, t.name) for t in in_order(tables, refers)]
    assert order.index(users) == 0
    assert order.index(sessions) < order.index(tokens)
    circle = {users: frozenset({tokens}), tokens: frozenset({users})}
    pair = [table(*users), table(*tokens)]
    assert [t.name for t in in_order(pair, circle)] == ["users", "refresh_tokens"]
