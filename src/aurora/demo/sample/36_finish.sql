-- Statistics for the planner, and settings of the database, which no copy of a database by
-- CREATE DATABASE ... TEMPLATE takes along.

-- part: analyze
analyze;

-- part: database settings
do $settings$
begin
    execute format('alter database %I set work_mem = ''5MB''', current_database());
    execute format('comment on database %I is %L', current_database(), 'The sample shop''s database');
    execute format('grant connect, temporary on database %I to authenticator', current_database());
exception when insufficient_privilege then
    raise notice 'settings of the database were not made: %', sqlerrm;
end
$settings$;

-- part: own settings of the application; needs: superuser
do $settings$
begin
    execute format('alter database %I set "app.settings.jwt_exp" = ''3600''', current_database());
end
$settings$;

-- part: role settings in this database
do $settings$
begin
    execute format('alter role authenticated in database %I set search_path = public, extensions', current_database());
exception when insufficient_privilege then
    raise notice 'settings of roles in this database were not made: %', sqlerrm;
end
$settings$;
