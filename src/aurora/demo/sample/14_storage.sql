-- Schema storage: what Supabase Storage remembers of buckets and objects.

-- part: tables; needs: own services
create table storage.buckets (
    id text not null,
    name text not null,
    owner uuid,
    public boolean default false,
    avif_autodetection boolean default false,
    file_size_limit bigint,
    allowed_mime_types text[],
    owner_id text,
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);
comment on column storage.buckets.owner is 'Old; owner_id is used instead';

create table storage.objects (
    id uuid not null default gen_random_uuid(),
    bucket_id text,
    name text collate "C",
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

create table storage.s3_multipart_uploads (
    id text not null,
    in_progress_size bigint not null default 0,
    upload_signature text not null,
    bucket_id text not null,
    key text not null collate "C",
    version text not null,
    created_at timestamptz not null default now()
);

create table storage.migrations (
    id integer not null,
    name varchar(100) not null,
    hash varchar(40) not null,
    executed_at timestamp default current_timestamp
);

-- part: functions; needs: own services
create function storage.foldername(name text) returns text[]
    language plpgsql immutable
    as $$
declare
    parts text[] := string_to_array(name, '/');
begin
    return parts[1:array_length(parts, 1) - 1];
end
$$;

create function storage.filename(name text) returns text
    language sql immutable
    as $$ select (string_to_array(name, '/'))[array_length(string_to_array(name, '/'), 1)] $$;

create function storage.keep_objects() returns trigger
    language plpgsql
    as $$
begin
    if coalesce(current_setting('storage.allow_delete_query', true), 'false') <> 'true' then
        raise exception 'delete objects with the Storage API, not with SQL' using errcode = '42501';
    end if;
    return null;
end
$$;
