"""The hosted-like test server: what its ``postgres`` may and may not do."""

import psycopg
import pytest

from aurora.testing.hosted import HostedServer, as_role
from tests.fixtures.hosted import NewProject

pytestmark = [pytest.mark.pg_majors(15, 17), pytest.mark.usefixtures("hosted")]


def test_postgres_may_not_do_what_hosted_refuses(new_project: NewProject) -> None:
    """The limits that a restore has to live with are really there."""
    refused = [
        "CREATE TABLE auth.mine ()",
        "ALTER TABLE auth.users ADD COLUMN mine int",
        "DROP TABLE storage.objects",
        "INSERT INTO auth.schema_migrations VALUES ('1')",
        "INSERT INTO storage.migrations VALUES (99, 'a', 'b')",
        "INSERT INTO vault.secrets (secret) VALUES ('x')",
        "UPDATE vault.secrets SET name = 'x'",
        "SET ROLE supabase_auth_admin",
        "ALTER SYSTEM SET work_mem = '5MB'",
        "DELETE FROM storage.objects",
    ]
    with psycopg.connect(new_project(), autocommit=True) as conn:
        for statement in refused:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())


def test_postgres_may_do_what_hosted_allows(new_project: NewProject) -> None:
    """Reading everything, writing users and buckets, setting the replica role."""
    with psycopg.connect(new_project(cron=True), autocommit=True) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute("INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'a@b.c')")
        conn.execute("INSERT INTO storage.buckets (id, name) VALUES ('a', 'a')")
        conn.execute("SELECT vault.create_secret('a secret', 'name')")
        conn.execute("SELECT cron.schedule('nightly', '0 3 * * *', 'SELECT 1')")
        conn.execute("CREATE TABLE public.mine (id uuid REFERENCES auth.users)")
        conn.execute("ALTER PUBLICATION supabase_realtime ADD TABLE public.mine")
        for table in ("auth.schema_migrations", "storage.migrations", "realtime.schema_migrations"):
            found = conn.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
            assert found is not None
            assert found[0] > 0
        decrypted = conn.execute("SELECT decrypted_secret FROM vault.decrypted_secrets").fetchone()
        assert decrypted == ("a secret",)


def test_services_connect_as_themselves(new_project: NewProject, hosted: HostedServer) -> None:
    """The Storage service's role may change the tables that postgres may not."""
    dsn = new_project()
    with psycopg.connect(as_role(dsn, "supabase_storage_admin"), autocommit=True) as conn:
        conn.execute("ALTER TABLE storage.objects ADD COLUMN later int")
    with psycopg.connect(as_role(dsn, "authenticator"), autocommit=True) as conn:
        conn.execute("SET ROLE anon")
        assert conn.execute("SELECT auth.uid()").fetchone() == (None,)
