-- The roles that every Supabase project has, and the memberships and settings on them.
-- Roles belong to the whole server: each is made only where it is missing.

-- part: roles
do $roles$
declare
    wanted text;
begin
    foreach wanted in array array[
        'anon', 'authenticated', 'service_role', 'supabase_auth_admin', 'supabase_storage_admin'
    ] loop
        if not exists (select from pg_roles where rolname = wanted) then
            begin
                execute format('create role %I nologin noinherit', wanted);
            exception when duplicate_object or unique_violation or insufficient_privilege then
                raise notice 'role % was not created: %', wanted, sqlerrm;
            end;
        end if;
    end loop;
    if not exists (select from pg_roles where rolname = 'authenticator') then
        begin
            create role authenticator login noinherit connection limit 60;
        exception when duplicate_object or unique_violation or insufficient_privilege then
            raise notice 'role authenticator was not created: %', sqlerrm;
        end;
    end if;
end
$roles$;

-- part: memberships
do $memberships$
declare
    wanted text;
begin
    foreach wanted in array array['anon', 'authenticated', 'service_role'] loop
        if not pg_has_role('authenticator', wanted, 'member') then
            begin
                execute format('grant %I to authenticator', wanted);
            exception when insufficient_privilege or unique_violation then
                raise notice '% was not granted to authenticator: %', wanted, sqlerrm;
            end;
        end if;
    end loop;
end
$memberships$;

-- part: role settings
do $settings$
declare
    wanted record;
begin
    for wanted in
        select *
        from (values
            ('anon', 'statement_timeout', '3s'),
            ('authenticated', 'statement_timeout', '8s'),
            ('authenticator', 'statement_timeout', '8s'),
            ('authenticator', 'lock_timeout', '8s'),
            ('supabase_auth_admin', 'search_path', 'auth'),
            ('supabase_auth_admin', 'idle_in_transaction_session_timeout', '60000'),
            ('supabase_storage_admin', 'search_path', 'storage')
        ) as w (role_name, setting, value)
        where not exists (
            select
            from pg_db_role_setting s
            join pg_roles r on r.oid = s.setrole
            where r.rolname = w.role_name and s.setdatabase = 0
              and exists (select from unnest(s.setconfig) c where starts_with(c, w.setting || '='))
        )
    loop
        begin
            execute format('alter role %I set %I = %L', wanted.role_name, wanted.setting, wanted.value);
        exception when insufficient_privilege then
            raise notice '% of % was not set: %', wanted.setting, wanted.role_name, sqlerrm;
        end;
    end loop;
end
$settings$;

-- part: role attributes; needs: superuser
do $attributes$
begin
    if not (select rolbypassrls from pg_roles where rolname = 'service_role') then
        alter role service_role bypassrls;
    end if;
end
$attributes$;
