-- Publications: only tables whose updates and deletes can be identified.

-- part: realtime; needs: own services
create publication supabase_realtime for table public.messages, public.threads;

-- part: realtime of a project; needs: project
alter publication supabase_realtime add table public.messages, public.threads;

-- part: publications
create publication "odd one" with (publish = 'insert, truncate', publish_via_partition_root = true);
alter publication "odd one" add table public.events;

-- part: row filters and column lists; needs: server 15
create publication paid_orders for table public.orders (id, status, total) where (id > 100)
    with (publish = 'insert');

-- part: whole schema; needs: superuser, server 15
create publication odd_schema for tables in schema "Odd Schema" with (publish = 'insert');
comment on publication odd_schema is 'All tables of a schema, inserts only';
