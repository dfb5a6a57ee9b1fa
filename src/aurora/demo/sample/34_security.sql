-- Row security, grants and default privileges.

-- part: row security of the services; needs: own services
alter table auth.users enable row level security;
alter table auth.identities enable row level security;
alter table storage.objects enable row level security;
alter table storage.buckets enable row level security;

-- part: row security
alter table public.profiles enable row level security;
alter table public.orders enable row level security;
alter table public.order_items enable row level security;
alter table public.documents enable row level security;
alter table public.documents force row level security;

create policy "Anyone sees profiles" on public.profiles for select using (true);
create policy "Users change their own profile" on public.profiles for update to authenticated
    using ((select auth.uid()) = id) with check ((select auth.uid()) = id);
create policy "Own orders" on public.orders to authenticated using (profile_id = auth.uid());
create policy "Own lines" on public.order_items for select to authenticated
    using (exists (select from public.orders o where o.id = order_items.order_id and o.profile_id = auth.uid()));
create policy "Own documents" on public.documents for all to authenticated, service_role
    using (owner_id = auth.uid()) with check (owner_id = auth.uid());
create policy "Not at night" on public.documents as restrictive for insert to authenticated
    with check (extract(hour from now()) between 6 and 22);
comment on policy "Own documents" on public.documents is 'By owner_id';

-- part: policy on files; needs: files' policies
create policy "Give anon users access to ""avatars""" on storage.objects for select to anon
    using (bucket_id = 'avatars' and storage.foldername(name) <> '{}');

-- part: grants
grant usage on schema public, "Odd Schema" to anon, authenticated, service_role;
revoke create on schema public from public;
grant all on all tables in schema public to service_role;
grant select, insert, update, delete on all tables in schema public to authenticated;
grant select on public.products, public.categories, public.profiles, public.threads to anon;
revoke all on public.accounts, public.transfers from authenticated;
grant select (id, owner_name) on public.accounts to authenticated;
grant insert (body, thread_id), update (body) on public.messages to anon;
grant select on "Odd Schema"."Mixed Case" to anon with grant option;
grant usage on all sequences in schema public to authenticated, service_role;
grant usage, select, update on sequence public.invoice_number to service_role;
grant usage on type public.order_status to anon;
revoke usage on type public.money_amount from public;
grant usage on type public.money_amount to authenticated;
revoke execute on function public.transfer(integer, integer, bigint, text) from public;

-- part: grants on the services; needs: own services
grant usage on schema auth, storage to anon, authenticated, service_role;
grant execute on function auth.uid(), auth.role(), auth.jwt() to anon, authenticated;
grant all on all tables in schema storage to service_role, authenticated;
grant select on all tables in schema auth to service_role;

-- part: grants in a project; needs: project
grant select on auth.users to service_role;

-- part: default privileges
alter default privileges in schema public grant all on tables to service_role;
alter default privileges in schema public grant select, insert, update, delete on tables to authenticated;
alter default privileges in schema public grant usage on sequences to authenticated, service_role;
alter default privileges in schema public revoke execute on functions from public;
alter default privileges in schema public grant execute on functions to authenticated, service_role;
alter default privileges in schema "Odd Schema" grant usage on types to anon;
alter default privileges revoke execute on functions from public;

-- part: owners; needs: superuser, own services
alter schema auth owner to supabase_auth_admin;
alter table auth.users owner to supabase_auth_admin;
alter table auth.identities owner to supabase_auth_admin;
alter table auth.sessions owner to supabase_auth_admin;
alter table auth.refresh_tokens owner to supabase_auth_admin;
alter table auth.mfa_factors owner to supabase_auth_admin;
alter table auth.audit_log_entries owner to supabase_auth_admin;
alter table auth.schema_migrations owner to supabase_auth_admin;
alter function auth.jwt() owner to supabase_auth_admin;
alter function auth.uid() owner to supabase_auth_admin;
alter function auth.role() owner to supabase_auth_admin;
alter type auth.factor_type owner to supabase_auth_admin;
alter type auth.aal_level owner to supabase_auth_admin;
alter schema storage owner to supabase_storage_admin;
alter table storage.buckets owner to supabase_storage_admin;
alter table storage.objects owner to supabase_storage_admin;
alter table storage.s3_multipart_uploads owner to supabase_storage_admin;
alter table storage.migrations owner to supabase_storage_admin;
alter function storage.foldername(text) owner to supabase_storage_admin;
alter function storage.filename(text) owner to supabase_storage_admin;
alter function storage.keep_objects() owner to supabase_storage_admin;
alter default privileges for role supabase_storage_admin in schema storage grant all on tables to service_role;
