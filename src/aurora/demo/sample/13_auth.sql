-- Schema auth: users, the ways they sign in, and what the services keep beside them.

-- part: tables; needs: own services
create table auth.users (
    instance_id uuid,
    id uuid not null,
    aud varchar(255),
    role varchar(255),
    email varchar(255),
    encrypted_password varchar(255),
    email_confirmed_at timestamptz,
    confirmation_token varchar(255) default '',
    last_sign_in_at timestamptz,
    raw_app_meta_data jsonb,
    raw_user_meta_data jsonb,
    is_super_admin boolean,
    created_at timestamptz not null default now(),
    updated_at timestamptz,
    phone text,
    phone_confirmed_at timestamptz,
    email_change varchar(255) default '',
    email_change_confirm_status smallint default 0 check (email_change_confirm_status between 0 and 2),
    confirmed_at timestamptz generated always as (least(email_confirmed_at, phone_confirmed_at)) stored,
    banned_until timestamptz,
    deleted_at timestamptz,
    is_sso_user boolean not null default false,
    is_anonymous boolean not null default false
);
comment on table auth.users is 'Who may sign in';
comment on column auth.users.is_sso_user is 'Such an account may share its email address with another';

create table auth.identities (
    id uuid not null default gen_random_uuid(),
    provider_id text not null,
    user_id uuid not null,
    identity_data jsonb not null,
    provider text not null,
    last_sign_in_at timestamptz,
    created_at timestamptz,
    updated_at timestamptz,
    email text generated always as (lower(identity_data ->> 'email')) stored
);

create table auth.sessions (
    id uuid not null,
    user_id uuid not null,
    factor_id uuid,
    aal auth.aal_level,
    ip inet,
    user_agent text,
    created_at timestamptz,
    not_after timestamptz
);

create table auth.refresh_tokens (
    id bigserial not null,
    token varchar(255),
    session_id uuid,
    parent varchar(255),
    revoked boolean,
    created_at timestamptz,
    updated_at timestamptz
);

create table auth.mfa_factors (
    id uuid not null,
    user_id uuid not null,
    factor_type auth.factor_type not null,
    friendly_name text,
    secret text,
    last_challenged_at timestamptz
);

create table auth.audit_log_entries (
    id uuid not null,
    payload json,
    created_at timestamptz,
    ip_address varchar(64) not null default ''
);

create table auth.schema_migrations (version varchar(255) not null);

-- part: functions; needs: own services
create function auth.jwt() returns jsonb
    language sql stable
    as $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;

create function auth.uid() returns uuid
    language sql stable
    as $$ select (auth.jwt() ->> 'sub')::uuid $$;

create function auth.role() returns text
    language sql stable
    as $$ select coalesce(auth.jwt() ->> 'role', current_user::text) $$;
comment on function auth.uid() is 'Who is calling';
