-- Schema realtime as the Realtime service's own migrations leave it.

-- part: types
create type realtime.equality_op as enum ('eq', 'neq', 'lt', 'lte', 'gt', 'gte', 'in');
create type realtime.action as enum ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'ERROR');
create type realtime.user_defined_filter as (column_name text, op realtime.equality_op, value text);

-- part: tables
create function realtime.to_regrole(role_name text) returns regrole
    language sql immutable
    as $$ select role_name::regrole $$;
create table realtime.schema_migrations (version bigint primary key, inserted_at timestamp(0));
create table realtime.subscription (
    id bigint generated always as identity constraint pk_subscription primary key,
    subscription_id uuid not null,
    entity regclass not null,
    filters realtime.user_defined_filter[] not null default '{}',
    claims jsonb not null,
    claims_role regrole not null generated always as (realtime.to_regrole(claims ->> 'role')) stored,
    created_at timestamp not null default timezone('utc', now())
);
create table realtime.messages (
    topic text not null,
    extension text not null,
    payload jsonb,
    event text,
    private boolean default false,
    updated_at timestamp not null default now(),
    inserted_at timestamp not null default now(),
    id uuid not null default gen_random_uuid(),
    primary key (id, inserted_at)
) partition by range (inserted_at);
alter table realtime.messages owner to supabase_realtime_admin;
alter table realtime.messages enable row level security;
do $$
declare
    day date;
begin
    for day in select d::date from generate_series(current_date - 1, current_date + 2, '1 day') d loop
        execute format('create table realtime.%I partition of realtime.messages for values from (%L) to (%L)',
                       'messages_' || to_char(day, 'YYYY_MM_DD'), day, day + 1);
    end loop;
end $$;
create function realtime.topic() returns text
    language sql stable
    as $$ select nullif(current_setting('realtime.topic', true), '')::text $$;
alter function realtime.topic() owner to supabase_realtime_admin;

-- part: grants
grant select on realtime.subscription to anon, authenticated, service_role;
grant all on realtime.subscription to postgres, dashboard_user;
grant select on realtime.schema_migrations to anon, authenticated, service_role, postgres;
grant all on realtime.messages to postgres, dashboard_user;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;
