-- The rows. Each part stands alone (there are no keys yet), so that two can be made at once;
-- the big ones come first. Times are counted from fixed days: no now() in here.

-- part: events
insert into public.events (id, happened_at, kind, visitor, page, detail, took)
select
    i,
    timestamptz '2026-04-01 00:00+00' + interval '170 days' * (i::float8 / :events)
        + make_interval(secs => (h % 1000) / 1000.0),
    (array['view', 'view', 'view', 'search', 'click', 'click', 'buy', 'pay'])[1 + h % 8],
    (h / 8 % (:users * 3))::integer,
    '/' || sample_maker.word(h / 64) || '/' || sample_maker.word(h / 8192) || '/' || h % 1000,
    case h % 5
        when 0 then null
        when 1 then jsonb_build_object('term', sample_maker.word(h / 32), 'hits', h % 90)
        else jsonb_build_object('ref', sample_maker.word(h / 16), 'ms', h % 2500, 'ok', h % 3 <> 0)
    end,
    case when h % 6 = 0 then make_interval(secs => (h % 100000) / 1000.0) end
from (select i, sample_maker.hash(i, 10) as h from generate_series(1, :events) i) s;
select setval('public.event_number', :events);

-- part: messages
insert into public.messages
    (id, thread_id, author_id, reply_to, body, attachment, reactions, written_at, edited_at)
select
    i, 1 + (h % :threads)::integer,
    case when h % 50 <> 0 then sample_maker.uuid(1 + h / 50 % :users, 1) end,
    case when h % 3 = 0 and i > 20 then i - 1 - h % 19 end,
    initcap(sample_maker.word(h)) || ' ' || sample_maker.word(h / 128) || ' ' || i || '. ' || t.body,
    case when h % 60 = 0 then sample_maker.noise(i, (40 + h % 400)::integer) end,
    array[h % 9, h / 9 % 5, h / 45 % 2]::integer[],
    timestamptz '2026-01-01 00:00+00' + make_interval(secs => i * 600),
    case when h % 10 = 0 then timestamptz '2026-01-01 02:00+00' + make_interval(secs => i * 600) end
from (select i, sample_maker.hash(i, 11) as h from generate_series(1, :messages) i) s
join sample_maker.texts t on t.n = h / 128 % 300;
select setval('public.messages_id_seq', :messages);

-- part: order lines
insert into public.order_items (order_id, line, product_id, quantity, unit_price)
select i, line, 1 + (h % :products)::integer, 1 + (h / 7 % 5)::integer, (1 + h % 20000) / 100.0
from generate_series(1, :orders) i
cross join lateral generate_series(1, 1 + (sample_maker.hash(i, 12) % 5)::integer) line
cross join lateral (select sample_maker.hash(i * 8 + line, 13) as h) s;

-- part: orders
insert into public.orders (id, profile_id, status, placed_at, ship_to, note, total, invoice)
select
    i, sample_maker.uuid(1 + h % :users, 1),
    (enum_range(null::public.order_status))[1 + h % 6],
    timestamptz '2026-01-01 00:00+00' + make_interval(secs => i * 211),
    case when h % 6 <> 0 then row(
        (1 + h % 200) || ' ' || initcap(sample_maker.word(h / 6)) || ' Street',
        initcap(sample_maker.word(h / 1000)), lpad((h % 99999)::text, 5, '0'),
        (array['DE', 'FR', 'US', 'JP', 'BR'])[1 + h % 5]
    )::public.address end,
    case h % 11 when 0 then sample_maker.words(i, 14, 9) when 1 then '' end,
    (h % 50000) / 100.0,
    case when h % 6 > 1 then 20260000 + i end
from (select i, sample_maker.hash(i, 15) as h from generate_series(1, :orders) i) s;
select setval('public.orders_id_seq', :orders), setval('public.invoice_number', 20260001 + :orders);

-- part: documents
insert into public.documents (id, owner_id, title, content, layout, signed_by, changed_at)
select
    sample_maker.uuid(i, 3), sample_maker.uuid(1 + h % :users, 1),
    sample_maker.words(i, 16, 4),
    jsonb_build_object(
        'blocks', (
            select jsonb_agg(jsonb_build_object(
                'id', b, 'text', sample_maker.words(i * 16 + b, 17, 12),
                'style', jsonb_build_array(h % 7, b, null, 1.50), 'bold', b % 2 = 0))
            from generate_series(1, case when h % 20 = 0 then 120 else 2 + h % 14 end) b),
        'version', h % 40, 'empty', '', 'deep', jsonb_build_object('a', jsonb_build_object('b', '[]'::jsonb))),
    (4294967296 + i)::text::xid8,
    case when h % 4 = 0 then array[sample_maker.word(h), null, 'comma, "quote" \ slash'] end,
    timestamptz '2026-02-01 00:00+00' + make_interval(mins => i::integer)
from (select i, sample_maker.hash(i, 18) as h from generate_series(1, :documents) i) s;

-- part: readings
insert into public.readings (sensor, at, value, quality)
select
    h % 40, timestamp '2026-05-01 00:00' + make_interval(secs => i / 40 * 10),
    case h % 1000 when 0 then 'NaN' when 1 then 'Infinity' when 2 then null else sin(i / 5000.0) * 20 + h % 100 / 7.0 end,
    (array['g', 'g', 'b', null])[1 + h % 4]::"char"
from (select i, sample_maker.hash(i, 19) as h from generate_series(1, :readings) i) s;
insert into public.readings select * from public.readings limit 50;

-- part: users
insert into auth.users
    (instance_id, id, aud, role, email, encrypted_password, email_confirmed_at, last_sign_in_at,
     raw_app_meta_data, raw_user_meta_data, created_at, updated_at, phone, is_anonymous)
select
    '00000000-0000-0000-0000-000000000000', sample_maker.uuid(i, 1), 'authenticated', 'authenticated',
    sample_maker.word(h % 110) || '.' || i || '@example.org',
    '$2a$10$' || left(encode(sha256(int8send(h)), 'base64'), 43),
    case when h % 20 <> 0 then timestamptz '2025-06-01 00:00+00' + make_interval(mins => i::integer * 7) end,
    case when h % 3 <> 0 then timestamptz '2026-06-01 00:00+00' + make_interval(mins => (h % 90000)::integer) end,
    jsonb_build_object('provider', 'email', 'providers', array['email']),
    jsonb_build_object('name', initcap(sample_maker.word(h / 3)) || ' ' || initcap(sample_maker.word(h / 300)),
                       'avatar', sample_maker.uuid(i, 9) || '.png'),
    timestamptz '2025-06-01 00:00+00' + make_interval(mins => i::integer * 7),
    timestamptz '2026-06-01 00:00+00',
    case when h % 9 = 0 then '+49' || (1000000000 + h % 899999999) end, h % 40 = 0
from (select i, sample_maker.hash(i, 20) as h from generate_series(1, :users) i) s;
insert into auth.identities (id, provider_id, user_id, identity_data, provider, last_sign_in_at, created_at, updated_at)
select sample_maker.uuid(row_number() over (order by u.id), 4), u.id::text, u.id,
    jsonb_build_object('sub', u.id, 'email', upper(u.email), 'email_verified', true), 'email',
    u.last_sign_in_at, u.created_at, u.updated_at
from auth.users u;
insert into auth.sessions (id, user_id, aal, ip, user_agent, created_at, not_after)
select sample_maker.uuid(i, 5), sample_maker.uuid(1 + h % :users, 1),
    (enum_range(null::auth.aal_level))[1 + h % 2],
    case when h % 2 = 0 then inet '10.0.0.0' + h % 16000000 else inet '2001:db8::1' + h % 100000 end,
    'Mozilla/5.0 (' || sample_maker.word(h / 5) || ')',
    timestamptz '2026-07-01 00:00+00' + make_interval(mins => i::integer), null
from (select i, sample_maker.hash(i, 21) as h from generate_series(1, :users) i) s;
insert into auth.refresh_tokens (id, token, session_id, parent, revoked, created_at, updated_at)
select i, md5(i || '/' || :seed), sample_maker.uuid(1 + (i - 1) % :users, 5),
    case when i > :users then md5((i - :users) || '/' || :seed) end, i <= :users,
    timestamptz '2026-07-01 00:00+00' + make_interval(mins => i::integer), null
from generate_series(1, :users * 2) i;
select setval('auth.refresh_tokens_id_seq', :users * 2);
insert into auth.audit_log_entries (id, payload, created_at, ip_address)
select sample_maker.uuid(i, 7), format('{"action": "login",  "n": %s, "traits": {"provider": "email"}}', i)::json,
    timestamptz '2026-07-01 00:00+00' + make_interval(mins => i::integer), '10.0.0.' || i % 255
from generate_series(1, :users) i;

-- part: factors and migrations; needs: own services
insert into auth.mfa_factors (id, user_id, factor_type, friendly_name, secret)
select sample_maker.uuid(i, 6), sample_maker.uuid(i, 1), (enum_range(null::auth.factor_type))[1 + i % 3],
    sample_maker.words(i, 22, 2), md5(i::text)
from generate_series(1, greatest(1, :users / 10)) i;
insert into auth.schema_migrations select (20210710035447 + i * 1000000)::text from generate_series(0, 40) i;
insert into storage.migrations select i, 'step-' || i, md5(i::text), '2025-06-01' from generate_series(0, 30) i;

-- part: profiles
insert into public.profiles
    (id, handle, display_name, invited_by, home, earlier_homes, interests, country, born, settings,
     newsletter, joined_at, quota)
select
    sample_maker.uuid(i, 1), sample_maker.word(h % 110) || i,
    case when h % 8 <> 0 then initcap(sample_maker.words(i, 23, 2)) end,
    case when h % 3 = 0 and i > 1 then sample_maker.uuid(1 + h % (i - 1), 1) end,
    case when h % 2 = 0 then row(h % 99 || ' ' || sample_maker.word(h) || ' Road', initcap(sample_maker.word(h / 7)),
        lpad((h % 9999)::text, 5, '0'), 'DE')::public.address end,
    case when h % 16 = 0 then array[row('1 "Old" Street', 'Łódź', null, 'PL')::public.address, null] end,
    case when h % 5 <> 0 then array[sample_maker.word(h / 9), sample_maker.word(h / 99)] end,
    (array['DE', 'FR', 'US', 'JP', 'BR', null])[1 + h % 6],
    date '1950-01-01' + (h % 20000)::integer,
    jsonb_build_object('theme', (array['dark', 'light'])[1 + h % 2], 'mails', h % 3 = 0),
    h % 3 = 0, timestamptz '2025-06-01 00:00+00' + make_interval(mins => i::integer * 7),
    make_interval(months => (h % 24)::integer, days => (h % 13)::integer, secs => h % 1000 / 10.0)
from (select i, sample_maker.hash(i, 24) as h from generate_series(1, :users) i) s;

-- part: storage
insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types, created_at, updated_at)
values
    ('avatars', 'avatars', true, 1048576, '{image/png,image/jpeg}', '2025-06-01', '2025-06-01'),
    ('documents', 'documents', false, null, null, '2025-06-01', '2025-06-01'),
    ('Räume & more', 'Räume & more', false, 52428800, '{}', '2025-06-01', '2025-06-01');
insert into storage.objects
    (id, bucket_id, name, created_at, updated_at, last_accessed_at, metadata, version, owner_id, user_metadata)
select
    sample_maker.uuid(i, 8), (array['avatars', 'documents', 'documents', 'Räume & more'])[1 + h % 4],
    sample_maker.uuid(1 + h % :users, 1) || '/' || sample_maker.word(h / 3) || '/' || i || '.png',
    timestamptz '2026-01-01 00:00+00' + make_interval(mins => i::integer),
    timestamptz '2026-01-01 00:00+00' + make_interval(mins => i::integer),
    timestamptz '2026-01-01 00:00+00' + make_interval(mins => i::integer),
    jsonb_build_object('eTag', '"' || md5(i::text) || '"', 'size', h % 900000, 'mimetype', 'image/png',
        'cacheControl', 'max-age=3600', 'httpStatusCode', 200),
    sample_maker.uuid(i, 9)::text, sample_maker.uuid(1 + h % :users, 1)::text,
    case when h % 9 = 0 then jsonb_build_object('label', sample_maker.word(h)) end
from (select i, sample_maker.hash(i, 25) as h from generate_series(1, :objects) i) s;

-- part: catalogue
insert into public.categories (id, parent_id, name, path)
select i, case when i > 4 then 1 + (i - 5) / 4 end, initcap(sample_maker.word(i * 5)), null
from generate_series(1, 60) i;
select setval('public.categories_id_seq', 60);
insert into public.products
    (id, title, category_id, price, discounts, sold_during, attributes, keywords, picture, weight_grams, rating, stock)
select
    i, initcap(sample_maker.words(i, 26, 3)), 1 + h % 60, (99 + h % 50000) / 100.0,
    case when h % 3 = 0 then public.price_multirange(public.price_range(1, 2), public.price_range(5, null)) else '{}' end,
    tstzrange(timestamptz '2026-01-01 00:00+00' + make_interval(days => (h % 90)::integer), case when h % 5 = 0 then timestamptz '2026-12-31 00:00+00' end, '[)'),
    jsonb_build_object('colour', sample_maker.word(h), 'sizes', array[h % 5, h % 7], 'organic', h % 2 = 0),
    array[sample_maker.word(h), sample_maker.word(h / 128)],
    case when h % 10 = 0 then sample_maker.noise(i, 60) end,
    case when h % 9 <> 0 then 1 + (h % 30000)::integer end,
    case when h % 4 <> 0 then (h % 50) / 10.0 end, (h % 100)::integer
from (select i, sample_maker.hash(i, 27) as h from generate_series(1, :products) i) s;
select setval('public.products_id_seq', :products);
insert into public.price_history (product_id, valid, price)
select p, daterange(date '2026-01-01' + k * 30, date '2026-01-31' + k * 30), (p + k) % 90
from generate_series(1, :products) p cross join generate_series(0, 4) k;
with recursive paths (id, path) as (
    select id, name from public.categories where parent_id is null
    union all
    select c.id, paths.path || ' > ' || c.name from public.categories c join paths on paths.id = c.parent_id
)
update public.categories c set path = paths.path from paths where paths.id = c.id;

-- part: money and teams
insert into public.accounts (owner_name, opening, balance)
select initcap(sample_maker.words(i, 28, 2)), amount, amount
from (select i, 100000 + sample_maker.hash(i, 29) % 900000 as amount from generate_series(1, :accounts) i) s;
insert into public.carts (visitor, contents, changed_at)
select i, jsonb_build_array(jsonb_build_object('product', 1 + i % :products, 'n', 1)), timestamptz '2026-08-01 00:00+00'
from generate_series(1, :accounts) i;
insert into public.threads (title, author_id, pinned, locked, opened_at)
select initcap(sample_maker.words(i, 30, 5)), sample_maker.uuid(1 + sample_maker.hash(i, 31) % :users, 1), i % 40 = 0,
    (i % 2)::bit(1), timestamptz '2026-01-01 00:00+00' + make_interval(hours => i::integer)
from generate_series(1, :threads) i;
insert into public.teams (id, name, lead_id) overriding system value
select i, initcap(sample_maker.word(i * 3)) || 's', i * 10 from generate_series(1, 12) i;
select setval('public.teams_id_seq', 12);
insert into public.members (id, team_id, profile_id, since, stays)
select i, 1 + (i - 1) / 10, sample_maker.uuid(1 + i % :users, 1), date '2024-01-01' + i,
    public.stay(date '2024-01-01' + i, case when i % 3 = 0 then date '2026-01-01' end)
from generate_series(1, 120) i;
select setval('public.members_id_seq', 200);
insert into public.buckets_of_rows select i, sample_maker.word(i) from generate_series(1, 500) i;
insert into public.page_cache select '/' || i, repeat('<p>' || i || '</p>', 20), '2026-08-01 00:00+00' from generate_series(1, 200) i;
