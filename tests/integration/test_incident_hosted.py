"""Stopping writes with the rights of a hosted Supabase project, against its API's own way."""

from pathlib import Path

import psycopg
import pytest

from aurora.events import discard
from aurora.operations.incident import resume, stop, stop_plan
from aurora.operations.incident.stop_plan import StopOptions
from aurora.operations.incident.undo import UNDO, read_undo
from tests.fixtures.hosted import NewProject
from tests.fixtures.looks import run_script, run_sql

pytest_plugins = ["tests.fixtures.hosted"]

_ACLS = """
SELECT n.nspname, c.relname, c.relacl::text FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') ORDER BY 1, 2
"""


def sign(text: bytes) -> str:
    return f"{sum(text):064x}"


def as_the_api(dsn: str, role: str, statement: str) -> None:
    """As PostgREST writes: READ WRITE on purpose, then the role."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("BEGIN READ WRITE")
        conn.execute(f"SET LOCAL ROLE {role}".encode())
        conn.execute(statement.encode())
        conn.execute("COMMIT")


def test_the_api_is_stopped_and_what_is_not_covered_is_named(
    new_project: NewProject, tmp_path: Path
) -> None:
    dsn = new_project()
    run_script(dsn, "CREATE TABLE public.todos (id int PRIMARY KEY, what text);"
               "GRANT ALL ON public.todos TO anon, authenticated, service_role")  # fmt: skip
    before = run_sql(dsn, _ACLS)
    as_the_api(dsn, "service_role", "INSERT INTO public.todos VALUES (1, 'before')")
    plan = stop_plan.plan_stop(
        dsn, "i-hosted", tmp_path, StopOptions(grace=0.2, watch=0), by="t", sign=sign
    )
    told = " | ".join(plan.uncovered)
    assert "supabase_auth_admin" in told
    assert "supabase_storage_admin" in told
    report = stop.run_stop(plan, tmp_path, sign=sign, sink=discard)
    assert "public.todos" in report.fenced
    tried = {one.role for one in report.proof.attempts if one.table == "public.todos"}
    assert {"", "anon", "authenticated", "service_role"} <= tried
    for role in ("anon", "service_role"):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            as_the_api(dsn, role, "INSERT INTO public.todos VALUES (2, 'no')")
    undo = read_undo(tmp_path / UNDO, sign)
    assert resume.run_resume(resume.plan_resume(dsn, undo), sink=discard).exact
    assert run_sql(dsn, _ACLS) == before
    as_the_api(dsn, "service_role", "INSERT INTO public.todos VALUES (3, 'after')")
