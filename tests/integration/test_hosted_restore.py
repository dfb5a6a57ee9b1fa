"""A project goes from one hosted server to a fresh project on another, with hosted rights."""

from typing import Any

import psycopg
import pytest

from aurora.demo import sample
from aurora.errors import CheckFailed, TargetNotEmpty, TargetRefused, TargetUnfit
from aurora.events import discard
from aurora.operations.reports import RestoreReport
from aurora.testing.hosted import HostedServer, as_role
from tests.fixtures.changelog import full, incremental, prepare
from tests.fixtures.hosted import HostedServers, NewProject
from tests.fixtures.hosted_app import fill_app, make_app, password, user_id
from tests.fixtures.looks import look, run_sql
from tests.fixtures.postgres import DEFAULT_MAJOR
from tests.fixtures.projects import LABEL, Project

pytest_plugins = ["tests.fixtures.backups"]

# Rows that the report names as skipped or left: nothing else may differ.
_TOLD = {
    "auth.schema_migrations", "storage.migrations", "realtime.schema_migrations", "vault.secrets",
    "vault_root_key.key", "cron.job", "storage.s3_multipart_uploads",
    "realtime.subscription",
}  # fmt: skip


def differences(source: str, target: str) -> str:
    """How two projects differ, as their superusers see them, but for what reports tell."""
    one, other = (look(as_role(dsn, "supabase_admin")) for dsn in (source, target))
    for found in (one, other):
        for table in _TOLD | {name for name in found.rows if name.startswith("realtime.")}:
            found.rows.pop(table, None)
    return one.differences(other)


def as_caller(dsn: str, role: str, query: str, user: int | None = None) -> list[tuple[Any, ...]]:
    """What the Data API would answer to *query* of a caller."""
    with psycopg.connect(as_role(dsn, "authenticator")) as conn:
        conn.execute(f"SET LOCAL ROLE {role}".encode())
        if user is not None:
            claims = f'{{"sub": "{user_id(user)}", "role": "{role}"}}'
            conn.execute("SELECT set_config('request.jwt.claims', %s, true)", [claims])
        return conn.execute(query.encode()).fetchall()


def logs_in(dsn: str, user: int, secret: str) -> bool:
    """Whether the Auth service would let the user in: its bcrypt check, by pgcrypto."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "SELECT encrypted_password = extensions.crypt(%s, encrypted_password)"
            " FROM auth.users u JOIN auth.identities i ON i.user_id = u.id"
            " WHERE u.id = %s AND i.provider = 'email' AND u.confirmed_at IS NOT NULL",
            [secret, user_id(user)],
        ).fetchone()
    return bool(row and row[0])


def outcomes(report: RestoreReport, outcome: str) -> dict[str, str]:
    """The parts of a report with one outcome."""
    return {part.part: part.detail for part in report.parts if part.outcome == outcome}


@pytest.mark.pg_majors(15, 17)
def test_round_trip_of_a_whole_project(
    hosted_servers: HostedServers, pg_major: int, new_project: NewProject, project: Project
) -> None:
    """Users log in, policies answer alike, secrets and jobs are back, the dumps are equal."""
    here = hosted_servers.get(pg_major, "a", supautils=True)
    there = hosted_servers.get(pg_major, "b", supautils=True)
    source, target = new_project(here, cron=True), new_project(there, cron=True)
    make_app(source, policies=True)
    run_sql(
        source,
        "SELECT cron.schedule('nightly', '0 3 * * *', 'SELECT 1')",
        "SELECT cron.alter_job(cron.schedule('5 * * * *', 'SELECT 2'), active => false)",
        "GRANT SELECT ON auth.users TO reporting",
        "UPDATE public.orders SET note = 'late' WHERE id = 1",
        "REFRESH MATERIALIZED VIEW public.paid",
    )
    project.backup(source)
    report = project.restore(target, with_roles=True)
    assert report.outcome == "restored", report.refusals
    assert all(table.same for table in report.tables)
    assert differences(source, target) == ""

    assert all(logs_in(target, n, password(n)) for n in (1, 7, 20))
    assert not logs_in(target, 1, "something else")
    assert run_sql(target, "SELECT count(*) FROM auth.mfa_factors WHERE secret <> ''") == [(10,)]
    for query in (
        "SELECT id, total FROM public.orders ORDER BY id",
        "SELECT id FROM public.profiles ORDER BY id",
        "SELECT id FROM storage.objects ORDER BY id",
        "SELECT id FROM storage.buckets ORDER BY id",
        "SELECT sku FROM shop.products ORDER BY sku",
    ):
        for role, user in (("anon", None), ("authenticated", 3), ("service_role", None)):
            try:
                wanted: object = as_caller(source, role, query, user)
            except psycopg.errors.InsufficientPrivilege:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    as_caller(target, role, query, user)
                continue
            assert as_caller(target, role, query, user) == wanted
    assert len(as_caller(target, "authenticated", "SELECT * FROM public.orders", 3)) == 5
    assert len(as_caller(target, "anon", "SELECT * FROM storage.objects")) == 15

    secrets = "SELECT name, description, decrypted_secret FROM vault.decrypted_secrets"
    assert run_sql(target, secrets) == [("payment key 1", "of the shop", "sk_live_1")]
    jobs = "SELECT jobname, schedule, command, active, username FROM cron.job ORDER BY 2"
    assert run_sql(target, jobs) == run_sql(source, jobs)
    published = "SELECT tablename FROM pg_publication_tables WHERE pubname = 'supabase_realtime'"
    assert run_sql(target, published) == [("orders",)]
    # A new user gets a profile: the trigger on auth.users is back and enabled.
    with psycopg.connect(target, autocommit=True) as conn:
        fill_app(conn, users=1, objects=1, first=900)
    assert run_sql(target, "SELECT handle FROM public.profiles WHERE handle = 'user900'")


@pytest.mark.pg_majors(15, 17)
def test_report_says_what_became_of_every_part(
    new_project: NewProject, elsewhere: HostedServer, project: Project
) -> None:
    """Restored, skipped and left to the user, in JSON and in Markdown."""
    source, target = new_project(cron=True), new_project(elsewhere, cron=True)
    make_app(source)
    run_sql(source, "SELECT cron.schedule('nightly', '0 3 * * *', 'SELECT 1')")
    project.backup(source)
    plan = project.plan(target, with_roles=True)
    told = dict(plan.facts())
    assert "Supabase project" in told["project"]
    report = project.restore(target, with_roles=True)
    restored = outcomes(report, "restored")
    assert restored["auth.users"] == "20 rows"
    assert restored["vault secrets"].startswith("1 made anew")
    assert restored["cron jobs"].startswith("1:")
    assert "TRIGGER on auth.users: on_auth_user_created" in restored
    assert "migrations" in outcomes(report, "skipped")["auth.schema_migrations"]
    left = outcomes(report, "left to you")
    for part in ("JWT secret and API keys", "edge functions and their secrets",
                 "passwords of custom roles", "vault's root key", "DNS and custom domains",
                 "files in Storage"):  # fmt: skip
        assert part in left
    document = report.document()
    assert {"part", "outcome", "detail"} == set(document["parts"][0])
    assert "| auth.users | restored | 20 rows |" in report.markdown()
    assert "sk_live" not in report.markdown() + str(document)


def test_policies_that_may_not_be_made_are_known_before(
    hosted_servers: HostedServers, pg_major: int, new_project: NewProject, project: Project
) -> None:
    """Nothing is changed; with --accept-refusals the rest is restored and they are named."""
    here = hosted_servers.get(pg_major, "a", supautils=True)
    source, target = new_project(here), new_project(hosted_servers.get(pg_major, "c"))
    make_app(source, policies=True)
    project.backup(source)
    before = look(as_role(target, "supabase_admin"))
    with pytest.raises(TargetUnfit, match="policies on the services' tables") as told:
        project.restore(target, with_roles=True)
    assert "storage.objects" in told.value.hint
    assert before.differences(look(as_role(target, "supabase_admin"))) == ""
    report = project.restore(target, with_roles=True, accept_refusals=True)
    assert report.outcome == "restored with refusals"
    assert sum("POLICY on " in refusal for refusal in report.refusals) == 3
    assert any("policies" in part for part in outcomes(report, "skipped"))
    assert logs_in(target, 2, password(2))


def test_roles_that_are_missing_are_known_before(
    new_project: NewProject, elsewhere: HostedServer, project: Project
) -> None:
    """A plain restore says that restore-full makes them."""
    source, target = new_project(), new_project(elsewhere)
    make_app(source)
    project.backup(source)
    with pytest.raises(TargetUnfit, match="reporting") as told:
        project.restore(target)
    assert "restore-full" in told.value.hint
    report = project.restore(target, accept_refusals=True)
    assert any("reporting" in refusal for refusal in report.refusals)
    assert all(table.same for table in report.tables)


def test_a_project_in_use_is_refused(new_project: NewProject, project: Project) -> None:
    """In place too, with the reason and what to do instead."""
    source, target = new_project(), new_project()
    make_app(source)
    project.backup(source)
    run_sql(target, "CREATE TABLE public.mine (a int)", "INSERT INTO public.mine VALUES (1)")
    for in_place in (False, True):
        with pytest.raises(TargetNotEmpty, match=r"not fresh.*table public\.mine") as told:
            project.restore(target, in_place=in_place)
        assert "new project" in told.value.hint
    assert run_sql(target, "SELECT a FROM public.mine") == [(1,)]
    with pytest.raises(TargetNotEmpty):
        project.restore(source)  # over itself


def test_a_restored_project_is_not_fresh(new_project: NewProject, project: Project) -> None:
    """A second restore over the first is refused: rows would be doubled."""
    source, target = new_project(), new_project()
    make_app(source)
    project.backup(source)
    project.restore(target)
    assert differences(source, target) == ""
    with pytest.raises(TargetNotEmpty):
        project.restore(target)
    assert differences(source, target) == ""


def test_columns_that_an_older_service_lacks_are_named(
    new_project: NewProject, project: Project
) -> None:
    """Nothing is changed; accepted, the rows come without them and the report says so."""
    source, target = new_project(), new_project(older=True)
    make_app(source)
    run_sql(source, "UPDATE auth.sessions SET scopes = 'all'")
    project.backup(source)
    with pytest.raises(TargetUnfit, match=r"auth\.sessions") as told:
        project.restore(target)
    assert "refresh_token_hmac_key" in told.value.hint
    assert "scopes" in told.value.hint
    assert run_sql(target, "SELECT count(*) FROM auth.users") == [(0,)]
    report = project.restore(target, accept_refusals=True)
    assert outcomes(report, "restored")["auth.sessions"] == "10 rows"
    assert any("scopes" in detail for detail in outcomes(report, "skipped").values())
    ids = "SELECT id, user_id, aal::text FROM auth.sessions ORDER BY 1"
    assert run_sql(target, ids) == run_sql(source, ids)


def test_a_newer_service_fills_its_own_columns(new_project: NewProject, project: Project) -> None:
    """The usual case: the backup is older than the project."""
    source, target = new_project(older=True), new_project()
    make_app(source)
    project.backup(source)
    report = project.restore(target)
    assert report.outcome == "restored", report.refusals
    assert all(logs_in(target, n, password(n)) for n in range(1, 21))


def test_extensions_that_are_missing_are_named(new_project: NewProject, project: Project) -> None:
    """pg_cron in the source, not in the target, where it cannot be made."""
    source, target = new_project(cron=True), new_project()
    make_app(source)
    run_sql(source, "SELECT cron.schedule('nightly', '0 3 * * *', 'SELECT 1')")
    project.backup(source)
    with pytest.raises(TargetUnfit, match="pg_cron"):
        project.restore(target)
    report = project.restore(target, accept_refusals=True)
    assert any("pg_cron" in refusal for refusal in report.refusals)
    assert logs_in(target, 5, password(5))


def test_a_backup_of_a_project_into_a_plain_server_is_told(
    new_project: NewProject, project: Project, new_database: Any
) -> None:
    """The roles of a project are not there; the hint says what the backup is."""
    source = new_project()
    make_app(source)
    project.backup(source)
    with pytest.raises(TargetUnfit) as told:
        project.restore(new_database(), accept_refusals=True)
    assert "roles that own objects of the backup are not on the target" in told.value.message
    assert "supabase_" in told.value.message
    assert "Supabase project" in told.value.hint


def test_colliding_users_leave_the_project_as_it_was(
    new_project: NewProject, project: Project
) -> None:
    """An email that another user of the target has: refused, and everything is taken back."""
    source, target = new_project(), new_project()
    make_app(source)
    project.backup(source)
    run_sql(
        target,
        "INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'user3@example.com')",
    )
    before = look(as_role(target, "supabase_admin"))
    told = dict(project.plan(target).facts())
    assert "auth.users" in told["note"]
    with pytest.raises(TargetRefused, match=r"auth\.users .* collide"):
        project.restore(target)
    assert before.differences(look(as_role(target, "supabase_admin"))) == ""


def test_rows_of_a_used_service_stay_and_same_keys_are_the_backups(
    new_project: NewProject, project: Project
) -> None:
    """A bucket of the same id is as in the backup; a user of another email stays."""
    source, target = new_project(), new_project()
    make_app(source)
    project.backup(source)
    run_sql(
        target,
        "INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'other@example.com')",
        "INSERT INTO storage.buckets (id, name, public) VALUES ('avatars', 'avatars', false)",
    )
    report = project.restore(target)
    assert "1 row of the project's own stay" in outcomes(report, "restored")["auth.users"]
    assert run_sql(target, "SELECT public FROM storage.buckets WHERE id = 'avatars'") == [(True,)]
    assert run_sql(target, "SELECT count(*) FROM auth.users") == [(21,)]


def test_rows_changed_on_their_way_are_noticed(
    hosted: HostedServer, new_project: NewProject, project: Project
) -> None:
    """A trigger that always fires changes users: nothing of the services is kept."""
    source, target = new_project(), new_project()
    make_app(source)
    project.backup(source)
    run_sql(
        as_role(target, "supabase_admin"),
        "CREATE FUNCTION auth.spoil() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN new.email = 'x' || new.email; RETURN new; END $$",
        "CREATE TRIGGER spoil BEFORE INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION"
        " auth.spoil()",
        "ALTER TABLE auth.users ENABLE ALWAYS TRIGGER spoil",
    )
    with pytest.raises(CheckFailed, match=r"auth\.users"):
        project.restore(target)
    assert run_sql(target, "SELECT count(*) FROM auth.users") == [(0,)]


def test_large_objects_views_and_odd_things(new_project: NewProject, project: Project) -> None:
    """What people have besides tables: all of it on both sides alike."""
    source, target = new_project(), new_project()
    make_app(source)
    run_sql(
        source,
        'CREATE SCHEMA "auth\'s odd schema"',
        'CREATE TABLE "auth\'s odd schema"."a ""table""" (id serial PRIMARY KEY, "x; y" text)',
        'INSERT INTO "auth\'s odd schema"."a ""table""" ("x; y") VALUES (\'one\'), (\'two\')',
        "SELECT lo_from_bytea(0, 'bytes')",
        "CREATE SCHEMA etl CREATE TABLE runs (id int PRIMARY KEY)",  # the platform's word, mine
        "INSERT INTO etl.runs VALUES (1)",
        "CREATE MATERIALIZED VIEW public.emails AS SELECT id, email FROM auth.users",
        "CREATE VIEW public.with_factor AS SELECT e.* FROM public.emails e"
        " JOIN auth.mfa_factors f ON f.user_id = e.id",
        "CREATE FUNCTION extensions.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE PUBLICATION of_mine FOR TABLE public.profiles",
        "COMMENT ON CONSTRAINT profiles_id_fkey ON public.profiles IS 'to auth'",
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
        "CREATE EXTENSION hstore SCHEMA extensions",
        "CREATE TABLE public.labels (id int PRIMARY KEY, l extensions.hstore)",
        "INSERT INTO public.labels VALUES (1, 'a=>1')",
        "GRANT USAGE ON SCHEMA public TO reporting",
    )
    project.backup(source)
    report = project.restore(target)
    assert report.outcome == "restored", report.refusals
    assert differences(source, target) == ""
    assert run_sql(target, "SELECT count(*) FROM public.emails") == [(20,)]


def test_the_sample_application_with_all_that_postgresql_has(
    hosted_servers: HostedServers, new_project: NewProject, project: Project
) -> None:
    """The demo's shop: types, domains, collations, odd names, partitions, rules, casts, …"""
    source = new_project(hosted_servers.get(DEFAULT_MAJOR, "a", supautils=True))
    target = new_project(hosted_servers.get(DEFAULT_MAJOR, "b", supautils=True))
    loaded = sample.load(source, megabytes=2)
    assert not any("policy on files" in part for part in loaded.skipped)
    project.backup(source)
    report = project.restore(target, with_roles=True)
    assert report.outcome == "restored", report.refusals
    assert differences(source, target) == ""


def test_a_project_moves_to_a_newer_major(
    hosted_servers: HostedServers, new_project: NewProject, project: Project
) -> None:
    """From 15 to 17: rows are equal, and nothing is refused."""
    source = new_project(hosted_servers.get(15, "a", supautils=True))
    target = new_project(hosted_servers.get(17, "b", supautils=True))
    make_app(source, policies=True)
    project.backup(source)
    report = project.restore(target, with_roles=True)
    assert (report.outcome, report.problems) == ("restored", []), report.refusals
    assert all(logs_in(target, n, password(n)) for n in range(1, 21))
    project.backup(target, accept_new_source=True)
    older = new_project(hosted_servers.get(15, "a", supautils=True))
    with pytest.raises(TargetUnfit, match="runs 15"):
        project.restore(older)


def test_the_services_tables_are_replaced_one_by_one(
    new_project: NewProject, project: Project
) -> None:
    """Users and objects' rows, although others own them: no trigger fires, keys are looked at."""
    source = new_project()
    make_app(source)
    project.backup(source)
    before = run_sql(source, "SELECT * FROM auth.users ORDER BY id")
    objects = run_sql(source, "SELECT * FROM storage.objects ORDER BY id")
    run_sql(
        source,
        "UPDATE auth.users SET encrypted_password = 'spoilt'",
        "SET session_replication_role = replica; DELETE FROM storage.objects WHERE version < '8'",
        f"DELETE FROM auth.identities WHERE user_id = '{user_id(3)}'",
    )
    for table in ("auth.users", "storage.objects", "auth.identities"):
        assert project.restore_table(source, table, replace=True).outcome == "restored"
    assert run_sql(source, "SELECT * FROM auth.users ORDER BY id") == before
    assert run_sql(source, "SELECT * FROM storage.objects ORDER BY id") == objects
    assert logs_in(source, 3, password(3))
    # A user who came later, with a profile: the key of profiles would not hold.
    with psycopg.connect(source, autocommit=True) as conn:
        fill_app(conn, users=1, objects=1, first=800)
    with pytest.raises(TargetRefused, match=r"without what is referred to in auth\.users"):
        project.restore_table(source, "auth.users", replace=True)
    assert logs_in(source, 800, password(800))


def test_a_table_that_the_role_may_not_change_is_known_before(
    new_project: NewProject, project: Project
) -> None:
    """Refused by the plan: no safety backup is made first."""
    source = new_project()
    make_app(source)
    made = project.backup(source)
    for table in ("vault.secrets", "auth.schema_migrations", "storage.migrations"):
        with pytest.raises(TargetUnfit, match="may not change rows") as told:
            project.restore_table(source, table, replace=True)
        assert "--as" in told.value.hint
    assert project.repository.resolve("latest", LABEL).id == made.backup_id


@pytest.mark.pg_majors(15, 17)
def test_recovery_to_a_point_into_a_fresh_project(
    hosted_servers: HostedServers, pg_major: int, new_project: NewProject, project: Project
) -> None:
    """Changes of the log, of users too, are in the target."""
    here = hosted_servers.get(pg_major, "a", supautils=True)
    source, target = new_project(here), new_project(here)
    make_app(source)
    prepare(source)
    full(project, source)
    with psycopg.connect(source, autocommit=True) as conn:
        fill_app(conn, users=3, objects=4, first=500)
        conn.execute("UPDATE auth.users SET raw_user_meta_data = '{}' WHERE id = %s", [user_id(2)])
        conn.execute("DELETE FROM public.orders WHERE owner = %s", [user_id(2)])
    incremental(project, source)
    run_sql(source, "REFRESH MATERIALIZED VIEW public.paid")
    report = recover(project, target)
    assert report.outcome == "restored", report.refusals
    assert logs_in(target, 501, password(501))
    run_sql(source, "DROP PUBLICATION aurora_app_keyed", "DROP PUBLICATION aurora_app_unkeyed")
    assert differences(source, target) == ""


def recover(project: Project, target: str) -> RestoreReport:
    """To the end of the log, into *target*."""
    from aurora.engines.logical.targets import Target
    from aurora.operations.recover import plan_recovery, run_recovery
    from aurora.operations.restore_plan import RestoreOptions

    plan = plan_recovery(
        project.repository, LABEL, Target(latest=True), target, RestoreOptions(), sink=discard
    )
    return run_recovery(plan, make_safety_backup=None, sink=discard)


def test_a_source_of_hosted_rights_streams_what_it_owns(
    new_project: NewProject, project: Project
) -> None:
    """Without supautils the services' tables are read again, and that is known beforehand."""
    source, target = new_project(), new_project()
    make_app(source)
    plan = prepare(source)
    streamed = {one.shown for one in plan.streamed}
    assert "public.orders" in streamed
    assert "auth.users" not in streamed
    why = {one.shown: one.why for one in plan.read_again}
    assert why["auth.users"].startswith("it belongs to supabase_auth_admin")
    assert any(why["auth.users"] in one.message for one in plan.obstacles)
    full(project, source)
    with psycopg.connect(source, autocommit=True) as conn:
        fill_app(conn, users=2, objects=2, first=700)
    made = incremental(project, source)
    assert made.type == "incremental"
    report = recover(project, target)
    assert report.outcome == "restored", report.refusals
    assert logs_in(target, 701, password(701))
