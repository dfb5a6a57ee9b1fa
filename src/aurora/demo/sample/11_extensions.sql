-- Extensions sit in a schema of their own, as on Supabase. Each is optional: a build of
-- PostgreSQL without it simply gets a smaller sample.

-- part: schema
create schema if not exists extensions;
grant usage on schema extensions to anon, authenticated, service_role;

-- part: citext; needs: available citext
create extension if not exists citext with schema extensions;

-- part: pg_trgm; needs: available pg_trgm
create extension if not exists pg_trgm with schema extensions;

-- part: btree_gist; needs: available btree_gist
create extension if not exists btree_gist with schema extensions;

-- part: hstore; needs: available hstore
create extension if not exists hstore with schema extensions;

-- part: uuid-ossp; needs: available uuid-ossp
create extension if not exists "uuid-ossp" with schema extensions;

-- part: postgres_fdw; needs: available postgres_fdw
create extension if not exists postgres_fdw with schema extensions;
