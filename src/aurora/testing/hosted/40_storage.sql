-- Schema storage as the Storage service's own migrations leave it.

-- part: tables
set local role supabase_storage_admin;
create type storage.buckettype as enum ('STANDARD', 'ANALYTICS', 'VECTOR');
create table storage.migrations (
    id integer primary key,
    name varchar(100) not null unique,
    hash varchar(40) not null,
    executed_at timestamp default current_timestamp
);
create table storage.buckets (
    id text primary key,
    name text not null,
    owner uuid,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    public boolean default false,
    avif_autodetection boolean default false,
    file_size_limit bigint,
    allowed_mime_types text[],
    owner_id text,
    type storage.buckettype not null default 'STANDARD'
);
comment on column storage.buckets.owner is 'Field is deprecated, use owner_id instead';
create unique index bname on storage.buckets (name);
create table storage.objects (
    id uuid primary key default gen_random_uuid(),
    bucket_id text constraint "objects_bucketId_fkey" references storage.buckets,
    name text,
    owner uuid,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    last_accessed_at timestamptz default now(),
    metadata jsonb,
    path_tokens text[] generated always as (string_to_array(name, '/')) stored,
    version text,
    owner_id text,
    user_metadata jsonb
);
comment on column storage.objects.owner is 'Field is deprecated, use owner_id instead';
create unique index bucketid_objname on storage.objects (bucket_id, name);
create index name_prefix_search on storage.objects (name text_pattern_ops);
create index idx_objects_bucket_id_name on storage.objects (bucket_id, name collate "C");
create table storage.s3_multipart_uploads (
    id text primary key,
    in_progress_size bigint not null default 0,
    upload_signature text not null,
    bucket_id text not null references storage.buckets,
    key text not null collate "C",
    version text not null,
    owner_id text,
    created_at timestamptz not null default now(),
    user_metadata jsonb
);
create table storage.s3_multipart_uploads_parts (
    id uuid primary key default gen_random_uuid(),
    upload_id text not null references storage.s3_multipart_uploads on delete cascade,
    size bigint not null default 0,
    part_number integer not null,
    bucket_id text not null references storage.buckets,
    key text not null collate "C",
    etag text not null,
    owner_id text,
    version text not null,
    created_at timestamptz not null default now()
);

-- part: newest tables; needs: newest
set local role supabase_storage_admin;
alter table storage.s3_multipart_uploads add metadata jsonb;
create table storage.buckets_analytics (
    name text not null,
    type storage.buckettype not null default 'ANALYTICS',
    format text not null default 'ICEBERG',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    id uuid primary key default gen_random_uuid(),
    deleted_at timestamptz
);
create unique index buckets_analytics_unique_name_idx on storage.buckets_analytics (name)
    where deleted_at is null;
create table storage.buckets_vectors (
    id text primary key,
    type storage.buckettype not null default 'VECTOR',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create table storage.vector_indexes (
    id text primary key default gen_random_uuid(),
    name text not null collate "C",
    bucket_id text not null references storage.buckets_vectors,
    data_type text not null,
    dimension integer not null,
    distance_metric text not null,
    metadata_configuration jsonb,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- part: functions and triggers
set local role supabase_storage_admin;
create function storage.foldername(name text) returns text[]
    language plpgsql immutable
    as $$
declare
    tokens text[] := string_to_array(name, '/');
begin
    return tokens[1:cardinality(tokens) - 1];
end
$$;
create function storage.filename(name text) returns text
    language plpgsql immutable
    as $$
declare
    tokens text[] := string_to_array(name, '/');
begin
    return tokens[cardinality(tokens)];
end
$$;
create function storage.extension(name text) returns text
    language sql immutable
    as $$ select reverse(split_part(reverse(storage.filename(name)), '.', 1)) $$;
create function storage.update_updated_at_column() returns trigger
    language plpgsql
    as $$
begin
    new.updated_at = now();
    return new;
end
$$;
create function storage.protect_delete() returns trigger
    language plpgsql
    as $$
begin
    if coalesce(current_setting('storage.allow_delete_query', true), 'false') <> 'true' then
        raise exception 'Direct deletion from storage tables is not allowed. Use the Storage API instead.'
            using errcode = '42501', hint = 'This prevents accidental loss of objects.';
    end if;
    return null;
end
$$;
create function storage.enforce_bucket_name_length() returns trigger
    language plpgsql
    as $$
begin
    if length(new.name) > 100 then
        raise exception 'bucket name "%" is too long (% characters). Max is 100.', new.name, length(new.name);
    end if;
    return new;
end
$$;
create trigger update_objects_updated_at before update on storage.objects
    for each row execute function storage.update_updated_at_column();
create trigger protect_objects_delete before delete on storage.objects
    for each statement execute function storage.protect_delete();
create trigger protect_buckets_delete before delete on storage.buckets
    for each statement execute function storage.protect_delete();
create trigger enforce_bucket_name_length_trigger before insert or update of name on storage.buckets
    for each row execute function storage.enforce_bucket_name_length();

-- part: row security and grants
set local role supabase_storage_admin;
do $$
declare
    t regclass;
begin
    for t in select oid from pg_class where relnamespace = 'storage'::regnamespace and relkind = 'r' loop
        execute format('alter table %s enable row level security', t);
        if t = 'storage.migrations'::regclass then
            continue;
        end if;
        execute format('grant all on table %s to service_role', t);
        execute format('grant select on table %s to authenticated, anon', t);
    end loop;
end $$;
grant all on table storage.buckets, storage.objects to postgres with grant option;
grant all on table storage.buckets, storage.objects to authenticated, anon;
grant all on table storage.s3_multipart_uploads, storage.s3_multipart_uploads_parts to postgres;
alter default privileges in schema storage
    grant all on tables to postgres, anon, authenticated, service_role;
