-- Extensions that no PostgreSQL of ours ships are rows of the catalog, so that pg_dump and
-- pg_restore treat their objects as an extension's. Dropped when the project is made.

-- part: pretend
create schema hosted;
create function hosted.pretend_extension(
    name text, version text, in_schema text, members text[], configured text[]
) returns void
    language plpgsql
    as $$
declare
    member text;
begin
    insert into pg_catalog.pg_extension
        (oid, extname, extowner, extnamespace, extrelocatable, extversion, extconfig, extcondition)
    values (
        pg_catalog.pg_nextoid('pg_catalog.pg_extension', 'oid', 'pg_catalog.pg_extension_oid_index'),
        name, current_user::regrole, in_schema::regnamespace, false, version,
        (select array_agg(c::regclass::oid) from unnest(configured) c),
        (select array_agg(''::text) from unnest(configured))
    );
    foreach member in array members loop
        execute format('alter extension %I add %s', name, member);
    end loop;
end
$$;
