-- The schemas of a fresh project and what they stand on.

-- part: schemas
create schema extensions authorization postgres;
create schema auth;
create schema storage;
create schema realtime;
create schema vault;
create schema graphql;
create schema graphql_public;
create schema pgbouncer authorization pgbouncer;
grant usage on schema extensions to anon, authenticated, service_role;
grant all on schema extensions to dashboard_user;
grant usage on schema public to postgres, anon, authenticated, service_role;
grant usage on schema auth to anon, authenticated, service_role, postgres;
grant all on schema auth to supabase_auth_admin, dashboard_user;
grant usage on schema storage to anon, authenticated, service_role;
grant usage on schema storage to postgres with grant option;
grant all on schema storage to supabase_storage_admin with grant option;
grant all on schema storage to dashboard_user;
grant usage on schema realtime to anon, authenticated, service_role, postgres;
grant all on schema realtime to supabase_realtime_admin;
grant usage on schema vault to postgres with grant option;
grant usage on schema vault to service_role;
grant usage on schema graphql, graphql_public to anon, authenticated, service_role, postgres;

-- part: default privileges of what postgres makes
alter default privileges for role postgres in schema public
    grant all on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    grant all on sequences to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    grant all on functions to anon, authenticated, service_role;

-- part: default privileges of what supabase_admin makes
alter default privileges for role supabase_admin in schema public
    grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
    grant all on sequences to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema public
    grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges for role supabase_admin in schema extensions
    grant all on functions to postgres with grant option;

-- part: pgcrypto; needs: available pgcrypto
create extension if not exists pgcrypto with schema extensions;

-- part: uuid-ossp; needs: available uuid-ossp
create extension if not exists "uuid-ossp" with schema extensions;

-- part: pg_stat_statements; needs: available pg_stat_statements
create extension if not exists pg_stat_statements with schema extensions;

-- part: pooler
create function pgbouncer.get_auth(wanted text) returns table (username text, password text)
    language sql security definer set search_path = ''
    as $$ select rolname::text, rolpassword::text from pg_catalog.pg_authid
          where rolname = wanted and rolcanlogin $$;
revoke all on function pgbouncer.get_auth(text) from public, postgres;
grant execute on function pgbouncer.get_auth(text) to pgbouncer;
