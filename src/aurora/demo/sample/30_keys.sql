-- Keys, foreign keys and other constraints, after the rows as pg_restore does it.

-- part: primary keys of the services; needs: own services
alter table auth.users add primary key (id);
alter table auth.identities add primary key (id), add unique (provider_id, provider);
alter table auth.sessions add primary key (id);
alter table auth.refresh_tokens add primary key (id), add constraint refresh_tokens_token_unique unique (token);
alter table auth.mfa_factors add primary key (id);
alter table auth.audit_log_entries add primary key (id);
alter table auth.schema_migrations add primary key (version);
alter table storage.buckets add primary key (id);
alter table storage.objects add primary key (id);
alter table storage.s3_multipart_uploads add primary key (id);
alter table storage.migrations add primary key (id), add unique (name);

-- part: primary keys
alter table public.profiles add primary key (id);
alter table public.teams add primary key (id);
alter table public.members add primary key (id);
alter table public.categories add primary key (id);
alter table public.products add primary key (id), add constraint products_sku_key unique (sku) deferrable;
alter table public.orders add primary key (id);
alter table public.order_items add primary key (order_id, line);
alter table public.carts add primary key (id);
alter table public.accounts add primary key (id);
alter table public.transfers add primary key (id);
alter table public.threads add primary key (id);
alter table public.messages add primary key (id);
alter table public.documents add primary key (id);
alter table public.events add primary key (id, happened_at, kind);
alter table public.buckets_of_rows add primary key (key);
alter table public.type_zoo add primary key (id);
alter table "Odd Schema"."Mixed Case" add constraint "Mixed Case: the key" primary key ("Id");
alter table "Odd Schema"."naïve ключ 鍵" add primary key (id);
alter table "Odd Schema".cars add primary key (id);

-- part: foreign keys of the services; needs: own services
alter table auth.identities add foreign key (user_id) references auth.users on delete cascade;
alter table auth.sessions add foreign key (user_id) references auth.users on delete cascade;
alter table auth.refresh_tokens add foreign key (session_id) references auth.sessions on delete cascade;
alter table auth.mfa_factors add foreign key (user_id) references auth.users on delete cascade;
alter table storage.objects add constraint "objects_bucketId_fkey" foreign key (bucket_id) references storage.buckets;
alter table storage.s3_multipart_uploads add foreign key (bucket_id) references storage.buckets;

-- part: foreign keys
alter table public.profiles
    add foreign key (id) references auth.users on delete cascade,
    add foreign key (invited_by) references public.profiles on delete set null;
alter table public.teams
    add constraint teams_lead_fkey foreign key (lead_id) references public.members deferrable initially deferred;
alter table public.members
    add constraint members_team_fkey foreign key (team_id) references public.teams deferrable initially immediate,
    add foreign key (profile_id) references public.profiles on delete set null;
alter table public.categories add foreign key (parent_id) references public.categories on update cascade;
alter table public.products add foreign key (category_id) references public.categories on delete set default;
alter table public.price_history add foreign key (product_id) references public.products on delete cascade;
alter table public.orders add foreign key (profile_id) references public.profiles;
alter table public.order_items
    add foreign key (order_id) references public.orders on delete cascade,
    add foreign key (product_id) references public.products;
alter table public.transfers
    add foreign key (from_account) references public.accounts,
    add foreign key (to_account) references public.accounts;
alter table public.threads add foreign key (author_id) references public.profiles on delete set null;
alter table public.messages
    add foreign key (thread_id) references public.threads,
    add foreign key (author_id) references public.profiles on delete set null,
    add constraint messages_reply_fkey foreign key (reply_to) references public.messages deferrable;
alter table public.documents add foreign key (owner_id) references public.profiles not valid;

create table public.event_notes (
    event_id bigint not null,
    event_at timestamptz not null,
    event_kind text not null,
    note text,
    primary key (event_id, event_at, event_kind),
    foreign key (event_id, event_at, event_kind) references public.events on delete cascade
);
insert into public.event_notes
select id, happened_at, kind, 'seen' from public.events where id % 5000 = 1;

-- part: checks and exclusion
alter table public.orders add constraint orders_note_length check (length(note) < 4000) not valid;
alter table public.order_items add constraint small_lines check (amount < 1000000);
alter table public.products
    add constraint sane_rating check (rating is null or rating between 0 and 5) no inherit;
alter table public.members
    add constraint one_stay_at_a_time exclude using gist (stays with &&) where (stays is not null and team_id < 0)
    deferrable initially deferred;

-- part: exclusion with btree_gist; needs: extension btree_gist
alter table public.price_history
    add constraint one_price_at_a_time exclude using gist (product_id with =, valid with &&);

-- part: newer nulls; needs: server 15
alter table "Odd Schema"."no rows" add constraint one_null unique nulls not distinct (id, text);

-- part: newer keys; needs: server 18, extension btree_gist
alter table public.bookings
    add constraint bookings_key primary key (room, during without overlaps);
alter table public.readings add constraint readings_sensor check (sensor < 1000) not enforced;
alter table public.page_cache add constraint page_cache_dated not null cached_at not valid;
