-- What the platform adds around the services: publications, and event triggers of the superuser.

-- part: publications
create publication supabase_realtime;
alter publication supabase_realtime owner to postgres;
create publication supabase_realtime_messages_publication;
alter publication supabase_realtime_messages_publication add table realtime.messages;

-- part: event triggers
create function extensions.pgrst_ddl_watch() returns event_trigger
    language plpgsql
    as $$ begin notify pgrst, 'reload schema'; end $$;
create function extensions.pgrst_drop_watch() returns event_trigger
    language plpgsql
    as $$ begin notify pgrst, 'reload schema'; end $$;
create function extensions.grant_pg_cron_access() returns event_trigger
    language plpgsql
    as $$
begin
    if exists (select from pg_event_trigger_ddl_commands() c join pg_extension e on c.objid = e.oid
               where e.extname = 'pg_cron') then
        grant usage on schema cron to postgres with grant option;
        grant select on cron.job to postgres with grant option;
    end if;
end
$$;
create function extensions.set_graphql_placeholder() returns event_trigger
    language plpgsql
    as $$ begin raise debug 'pg_graphql was dropped'; end $$;
create event trigger pgrst_ddl_watch on ddl_command_end execute function extensions.pgrst_ddl_watch();
create event trigger pgrst_drop_watch on sql_drop execute function extensions.pgrst_drop_watch();
create event trigger issue_pg_cron_access on ddl_command_end when tag in ('CREATE EXTENSION')
    execute function extensions.grant_pg_cron_access();
create event trigger issue_graphql_placeholder on sql_drop when tag in ('DROP EXTENSION')
    execute function extensions.set_graphql_placeholder();
