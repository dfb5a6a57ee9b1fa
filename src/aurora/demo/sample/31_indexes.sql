-- Indexes of every method, statistics, and what planners and replication are told.

-- part: indexes of the services; needs: own services
create unique index users_email_key on auth.users (lower(email::text)) where is_sso_user = false;
create index refresh_tokens_session on auth.refresh_tokens (session_id, revoked);
create unique index bucketid_objname on storage.objects (bucket_id, name);
create index objects_prefix on storage.objects (name text_pattern_ops);
create index objects_path on storage.objects using gin (path_tokens);

-- part: indexes
create unique index profiles_handle_key on public.profiles (lower(handle) collate "C");
create index profiles_search on public.profiles using gin (search) with (fastupdate = off);
create index profiles_invited on public.profiles using hash (invited_by);
create index orders_profile on public.orders (profile_id, placed_at desc nulls last) include (total);
create index orders_open on public.orders (placed_at) where status in ('placed', 'paid');
create index orders_city on public.orders (((ship_to).city)) where ship_to is not null;
create unique index orders_invoice_key on public.orders (invoice) with (fillfactor = 80);
create index order_items_product on public.order_items (product_id) include (quantity, amount);
create index transfers_from on public.transfers (from_account);
create index transfers_to on public.transfers (to_account);
create index messages_thread on public.messages (thread_id, written_at);
create index messages_unread on public.messages ((reactions[1])) where edited_at is null;
create index documents_content on public.documents using gin (content jsonb_path_ops);
create index products_attributes on public.products using gin (attributes, keywords);
create index products_sold on public.products using gist (sold_during);
create index price_history_valid on public.price_history using spgist (valid);
create index events_happened on public.events using brin (happened_at) with (pages_per_range = 32);
create index events_visitor on only public.events (visitor);
create index events_2026_05_visitor on public.events_2026_05 (visitor);
alter index public.events_visitor attach partition public.events_2026_05_visitor;
create index readings_at on public.readings using brin (at timestamp_minmax_multi_ops, sensor);
create index "Odd index: ""quoted""" on "Odd Schema"."Mixed Case" ("two words" desc, ("select" || ' x'));
alter index public.orders_city alter column 1 set statistics 200;

-- part: trigram indexes; needs: extension pg_trgm
create index profiles_like on public.profiles using gin (display_name extensions.gin_trgm_ops);
create index products_like on public.products using gist (title extensions.gist_trgm_ops (siglen = 32));

-- part: statistics
create statistics public.orders_statistics (ndistinct, dependencies, mcv) on profile_id, status from public.orders;
create statistics "Odd Schema"."by month" on date_trunc('month', placed_at at time zone 'UTC') from public.orders;
alter statistics public.orders_statistics set statistics 300;
comment on statistics public.orders_statistics is 'Status depends on the customer';

-- part: settings of tables
alter table public.orders cluster on orders_pkey;
alter table public.events_later set (autovacuum_enabled = on, parallel_workers = 2);
alter table public.orders alter column profile_id set (n_distinct = -0.1);

-- part: replica identity
alter table public.price_history replica identity full;
alter table public.products alter column sku set not null;
alter table "Odd Schema"."Mixed Case" replica identity nothing;

-- part: replica identity of the services; needs: own services
alter table storage.migrations replica identity using index migrations_name_key;

