-- Views, and materialized views that depend on each other.

-- part: views
create view public.order_overview as
select o.id, o.status, o.placed_at, p.handle, public.one_line(o.ship_to) as address,
    count(i.line) as lines, sum(i.amount) as amount
from public.orders o
join public.profiles p on p.id = o.profile_id
left join public.order_items i on i.order_id = o.id
group by o.id, p.handle;
comment on view public.order_overview is 'Groups by a primary key, so the key must be there before the view';

create view public.open_orders with (security_barrier) as
select id, profile_id, status, placed_at, note from public.orders where status in ('placed', 'paid')
with cascaded check option;
alter view public.open_orders alter column status set default 'placed';

create recursive view public.category_tree (id, name, depth) as
select id, name, 0 from public.categories where parent_id is null
union all
select c.id, c.name, t.depth + 1 from public.categories c join category_tree t on t.id = c.parent_id;

create view "Odd Schema"."a ""view""" as
select "Id" as "ID", "naïve ключ 鍵 🔑" as "ключ" from "Odd Schema"."Mixed Case";

create function public.order_overview_of(wanted bigint) returns public.order_overview
    language sql stable
    as $$ select v from public.order_overview v where v.id = wanted $$;

create function public.change_note() returns trigger
    language plpgsql
    as $$
begin
    update public.event_notes set note = new.note where event_id = new.event_id;
    return new;
end
$$;
create view public.notes as select event_id, note from public.event_notes where note is not null;
create trigger change_note instead of update on public.notes for each row execute function public.change_note();

-- part: view of the caller; needs: server 15
create view public.my_documents with (security_invoker = true) as
select id, title, changed_at from public.documents where owner_id = auth.uid();

-- part: materialized views
create materialized view public.sales_by_day as
select (o.placed_at at time zone 'UTC')::date as day, o.status, count(*) as orders, sum(o.total) as amount
from public.orders o group by 1, 2;
create unique index sales_by_day_key on public.sales_by_day (day, status);
create materialized view public.sales_by_month with (fillfactor = 70) as
select date_trunc('month', day::timestamp)::date as month, sum(orders) as orders, sum(amount) as amount
from public.sales_by_day group by 1;
comment on materialized view public.sales_by_month is 'Made from another materialized view';
create view public.best_month as
select month, amount from public.sales_by_month order by amount desc nulls last limit 1;
create materialized view public.best_month_kept as select * from public.best_month;
create materialized view "Odd Schema"."never filled" as select 1 as one with no data;
