-- Functions, procedures, triggers and rules.

-- part: functions
create function public.order_total(wanted bigint) returns numeric
    language sql stable parallel safe
    begin atomic
        select coalesce(sum(i.amount), 0) from public.order_items i where i.order_id = wanted;
    end;
comment on function public.order_total(bigint) is 'Depends on the table by its body, which is parsed when created';

create function public.top_products(how_many integer default 10, variadic of_categories smallint[] default '{}')
    returns table (product_id integer, sold bigint, amount numeric)
    language sql stable rows 10 cost 5000
    as $$
        select i.product_id, sum(i.quantity), sum(i.amount)
        from public.order_items i join public.products p on p.id = i.product_id
        where of_categories = '{}' or p.category_id = any (of_categories)
        group by i.product_id order by 3 desc limit how_many
    $$;

create function public.my_orders() returns setof public.orders
    language sql stable security definer set search_path = ''
    as $$ select * from public.orders where profile_id = auth.uid() $$;
revoke all on function public.my_orders() from public;
grant execute on function public.my_orders() to authenticated, service_role;

create function public.transfer(from_id integer, to_id integer, cents bigint, who text default null)
    returns bigint
    language plpgsql security definer set search_path = pg_catalog, public set lock_timeout = '5s'
    as $$
declare
    made bigint;
begin
    -- always the smaller id first: two transfers never wait for each other in a circle
    perform from public.accounts where id in (from_id, to_id) order by id for update;
    update public.accounts set balance = balance - cents where id = from_id;
    update public.accounts set balance = balance + cents where id = to_id;
    insert into public.transfers (from_account, to_account, amount, made_by)
    values (from_id, to_id, cents, who) returning id into made;
    return made;
end
$$;

create procedure public.close_threads(before_id integer, inout closed integer default 0)
    language plpgsql
    as $$
begin
    update public.threads set locked = b'1' where id < before_id;
    get diagnostics closed = row_count;
end
$$;

create function "Odd Schema"."It's a ""function"""("an argument" integer, out "first" integer, out "the second" text)
    language plpgsql strict immutable
    as $body$
begin
    "first" := "an argument";
    "the second" := $$a '$' and a \ and $quoted$ text$$;
end
$body$;

-- part: leakproof; needs: superuser
alter function "Odd Schema"."It's a ""function"""(integer) leakproof;

-- part: event trigger; needs: superuser
create function public.note_command() returns event_trigger
    language plpgsql
    as $$ begin raise debug 'command %', tg_tag; end $$;
create event trigger note_commands on ddl_command_end
    when tag in ('CREATE TABLE', 'ALTER TABLE') execute function public.note_command();
comment on event trigger note_commands is 'Says each command at level debug';

-- part: triggers
create function public.touch() returns trigger
    language plpgsql
    as $$
begin
    new.changed_at := clock_timestamp();
    return new;
end
$$;
create trigger touch before update on public.documents
    for each row when (old.content is distinct from new.content) execute function public.touch();
create trigger touch before update of contents on public.carts
    for each row execute function public.touch();

create table public.order_log (
    at timestamptz not null default clock_timestamp(),
    what text,
    rows_touched bigint,
    note text collate "C" default session_user
);
create function public.log_orders() returns trigger
    language plpgsql
    as $$
begin
    insert into public.order_log (what, rows_touched) select tg_op || ' ' || tg_argv[0], count(*) from changed;
    return null;
end
$$;
create trigger log_inserts after insert on public.orders referencing new table as changed
    for each statement execute function public.log_orders('of orders');
create trigger log_deletes after delete on public.orders referencing old table as changed
    for each statement execute function public.log_orders('with ''quotes'' and \ ');

create function public.check_team() returns trigger
    language plpgsql
    as $$
begin
    if not exists (select from public.members m where m.team_id = new.id) then
        raise exception 'team % has no member', new.name;
    end if;
    return null;
end
$$;
create constraint trigger team_has_members after insert or update on public.teams
    deferrable initially deferred for each row execute function public.check_team();

create function public.count_events() returns trigger
    language plpgsql
    as $$ begin return null; end $$;
create trigger count_events after insert on public.events for each row execute function public.count_events();
alter table public.events_2026_05 disable trigger count_events;
create trigger never_runs before insert on public.threads for each row execute function public.touch();
alter table public.threads disable trigger never_runs;
create trigger always_runs after truncate on public.page_cache execute function public.count_events();
alter table public.page_cache enable always trigger always_runs;

create function public.new_user() returns trigger
    language plpgsql security definer set search_path = ''
    as $$
begin
    insert into public.profiles (id, handle) values (new.id, 'new-' || new.id);
    return new;
end
$$;
create trigger on_auth_user_created after insert on auth.users
    for each row execute function public.new_user();

-- part: trigger of the services; needs: own services
create trigger protect_delete before delete on storage.objects
    for each statement execute function storage.keep_objects();

-- part: rule
create rule no_empty_notes as on insert to public.event_notes where new.note = '' do instead nothing;
comment on rule no_empty_notes on public.event_notes is 'An empty note is not kept';
