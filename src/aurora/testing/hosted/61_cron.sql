-- Schema cron: a stand-in of pg_cron that keeps jobs and never runs them.

-- part: tables
create schema cron;
create sequence cron.jobid_seq;
create table cron.job (
    jobid bigint primary key default nextval('cron.jobid_seq'),
    schedule text not null,
    command text not null,
    nodename text not null default 'localhost',
    nodeport integer not null default inet_server_port(),
    database text not null default current_database(),
    username text not null default current_user,
    active boolean not null default true,
    jobname text,
    constraint jobname_username_uniq unique (jobname, username)
);
alter table cron.job enable row level security;
create policy cron_job_policy on cron.job using (username = current_user);
create sequence cron.runid_seq;
create table cron.job_run_details (
    jobid bigint,
    runid bigint primary key default nextval('cron.runid_seq'),
    job_pid integer,
    database text,
    username text,
    command text,
    status text,
    return_message text,
    start_time timestamptz,
    end_time timestamptz
);
alter table cron.job_run_details enable row level security;
create policy cron_job_run_details_policy on cron.job_run_details using (username = current_user);

-- part: functions
create function cron.schedule(job_name text, schedule text, command text) returns bigint
    language plpgsql security definer set search_path = ''
    as $$
declare
    made bigint;
begin
    insert into cron.job as j (jobname, schedule, command, username)
    values (job_name, schedule, command, session_user)
    on conflict on constraint jobname_username_uniq
    do update set schedule = excluded.schedule, command = excluded.command
    returning jobid into made;
    return made;
end
$$;
create function cron.schedule(schedule text, command text) returns bigint
    language sql security definer set search_path = ''
    as $$ insert into cron.job (schedule, command, username)
          values (schedule, command, session_user) returning jobid $$;
create function cron.alter_job(
    job_id bigint, schedule text default null, command text default null,
    database text default null, username text default null, active boolean default null
) returns void
    language sql security definer set search_path = ''
    as $$
    update cron.job j set
        schedule = coalesce(alter_job.schedule, j.schedule),
        command = coalesce(alter_job.command, j.command),
        database = coalesce(alter_job.database, j.database),
        active = coalesce(alter_job.active, j.active)
    where j.jobid = job_id and j.username = session_user
    $$;
create function cron.unschedule(job_id bigint) returns boolean
    language sql security definer set search_path = ''
    as $$ with gone as (delete from cron.job where jobid = job_id returning 1)
          select exists (select from gone) $$;
grant usage on schema cron to postgres with grant option;
grant all on all functions in schema cron to postgres with grant option;
grant select on cron.job to postgres with grant option;
grant select, insert, update, delete, truncate, references on cron.job_run_details
    to postgres with grant option;
grant all on all sequences in schema cron to postgres;

-- part: pg_cron
select hosted.pretend_extension('pg_cron', '1.6.4', 'pg_catalog', array[
    'schema cron', 'sequence cron.jobid_seq', 'sequence cron.runid_seq', 'table cron.job',
    'table cron.job_run_details', 'function cron.schedule(text, text, text)',
    'function cron.schedule(text, text)', 'function cron.unschedule(bigint)',
    'function cron.alter_job(bigint, text, text, text, text, boolean)'
], array['cron.job', 'cron.jobid_seq']);
