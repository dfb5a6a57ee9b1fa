-- Schema vault. The extension supabase_vault encrypts with a root key that each project has
-- for itself and that no dump carries; here the key is a row of a schema beside it.

-- part: root key; needs: available pgcrypto
create schema vault_root_key;
revoke all on schema vault_root_key from public;
create table vault_root_key.key as
    select extensions.gen_random_bytes(32) as key;
create function vault_root_key.seal(message text, nonce bytea) returns text
    language sql security definer set search_path = ''
    as $$ select encode(extensions.encrypt_iv(convert_to('vault:' || message, 'utf8'), key, nonce, 'aes'), 'base64')
          from vault_root_key.key $$;
create function vault_root_key.unseal(secret text, nonce bytea) returns text
    language plpgsql security definer set search_path = ''
    as $$
declare
    clear text;
begin
    clear := convert_from(extensions.decrypt_iv(decode(secret, 'base64'),
        (select key from vault_root_key.key), nonce, 'aes'), 'utf8');
    if not starts_with(clear, 'vault:') then
        raise exception 'invalid ciphertext';
    end if;
    return substr(clear, 7);
exception when others then
    raise exception 'vault_crypto_aead_det_decrypt_by_id: invalid ciphertext' using errcode = '22000';
end
$$;
revoke all on all functions in schema vault_root_key from public;

-- part: secrets; needs: available pgcrypto
create table vault.secrets (
    id uuid primary key default gen_random_uuid(),
    name text,
    description text not null default '',
    secret text not null,
    key_id uuid,
    nonce bytea default extensions.gen_random_bytes(16),
    created_at timestamptz not null default current_timestamp,
    updated_at timestamptz not null default current_timestamp
);
create unique index on vault.secrets (name) where name is not null;
create function vault.decrypted(secret text, nonce bytea) returns text
    language sql security definer set search_path = ''
    as $$ select vault_root_key.unseal(secret, nonce) $$;
create view vault.decrypted_secrets as
    select id, name, description, secret, vault.decrypted(secret, nonce) as decrypted_secret,
           key_id, nonce, created_at, updated_at
    from vault.secrets;
create function vault.create_secret(
    new_secret text, new_name text default null, new_description text default '',
    new_key_id uuid default null
) returns uuid
    language plpgsql security definer set search_path = ''
    as $$
declare
    made record;
begin
    insert into vault.secrets (secret, name, description, key_id)
    values ('', new_name, new_description, new_key_id) returning * into made;
    update vault.secrets set secret = vault_root_key.seal(new_secret, made.nonce) where id = made.id;
    return made.id;
end
$$;
create function vault.update_secret(
    secret_id uuid, new_secret text default null, new_name text default null,
    new_description text default null, new_key_id uuid default null
) returns void
    language sql security definer set search_path = ''
    as $$
    update vault.secrets s set
        secret = case when new_secret is null then s.secret
                      else vault_root_key.seal(new_secret, s.nonce) end,
        name = coalesce(new_name, s.name),
        description = coalesce(new_description, s.description),
        key_id = coalesce(new_key_id, s.key_id),
        updated_at = now()
    where s.id = secret_id
    $$;
revoke all on vault.secrets, vault.decrypted_secrets from public, anon, authenticated;
grant select, delete on vault.secrets, vault.decrypted_secrets to postgres with grant option;
grant select, delete on vault.secrets, vault.decrypted_secrets to service_role;
revoke all on all functions in schema vault from public;
grant execute on all functions in schema vault to postgres with grant option;
grant execute on all functions in schema vault to service_role;

-- part: supabase_vault; needs: available pgcrypto
select hosted.pretend_extension('supabase_vault', '0.3.1', 'vault', array[
    'schema vault_root_key', 'table vault_root_key.key', 'function vault_root_key.seal(text, bytea)',
    'function vault_root_key.unseal(text, bytea)', 'table vault.secrets', 'view vault.decrypted_secrets',
    'function vault.decrypted(text, bytea)', 'function vault.create_secret(text, text, text, uuid)',
    'function vault.update_secret(uuid, text, text, text, uuid)'
], array['vault.secrets']);
