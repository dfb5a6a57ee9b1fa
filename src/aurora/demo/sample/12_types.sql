-- Types, and the functions, operators, casts and collations that belong to them.

-- part: schemas of the services; needs: own services
create schema auth;
create schema storage;
comment on schema auth is 'Users and their sessions';

-- part: schemas
create schema "Odd Schema";
comment on schema "Odd Schema" is 'Names with blanks, capitals, "quotes" and ''apostrophes''
over two lines';

-- part: enums of the services; needs: own services
create type auth.factor_type as enum ('totp', 'webauthn', 'phone');
create type auth.aal_level as enum ('aal1', 'aal2', 'aal3');

-- part: enums and domains
create type public.order_status as enum ('cart', 'placed', 'paid', 'shipped', 'returned');
alter type public.order_status add value 'cancelled' after 'placed';
create type "Odd Schema"."Mood Ring" as enum ('so-so', 'it''s "fine"', 'glücklich', '😀', '');

create domain public.money_amount as numeric(12, 2) default 0 constraint not_negative check (value >= 0);
create domain public.country_code as text collate "C" check (value ~ '^[A-Z]{2}$');
create domain public.short_text as varchar(80) not null check (value <> '') check (length(value) < 80);
create domain public.tags as text[] check (array_length(value, 1) <= 32);

-- part: composite and range types
create type public.address as (
    street text,
    city text,
    postcode varchar(12),
    country public.country_code
);
comment on type public.address is 'Where a parcel goes';
comment on column public.address.postcode is 'Text: some begin with 0';

create type "Odd Schema"."Point 3D" as ("X" float8, "y y" float8, "select" float8);

create type public.price_range as range (
    subtype = numeric,
    multirange_type_name = price_multirange
);

create function public.day_distance(a date, b date) returns float8
    language sql immutable strict parallel safe
    as $$ select (a - b)::float8 $$;

create type public.stay as range (
    subtype = date,
    subtype_diff = public.day_distance
);

-- part: collations
create collation "Odd Schema"."by bytes" (locale = 'C');
comment on collation "Odd Schema"."by bytes" is 'Sorts by bytes';

-- part: text search
create text search dictionary public.plain_words (template = pg_catalog.simple, accept = true);
create text search configuration public.shop (parser = pg_catalog.default);
alter text search configuration public.shop
    add mapping for asciiword, word, numword, hword, asciihword, hword_asciipart, hword_part
    with public.plain_words;

-- part: operator, aggregate and casts
create function public.same_place(a public.address, b public.address) returns boolean
    language sql immutable strict parallel safe
    as $$ select (a).country::text = (b).country::text and (a).postcode = (b).postcode $$;

create operator public.=== (
    function = public.same_place,
    leftarg = public.address,
    rightarg = public.address,
    commutator = operator(public.===),
    restrict = eqsel,
    join = eqjoinsel
);
comment on operator public.=== (public.address, public.address) is 'Same postcode and country';

create function public.one_line(a public.address) returns text
    language sql immutable parallel safe
    as $$ select concat_ws(', ', (a).street, (a).postcode || ' ' || (a).city, (a).country::text) $$;

create cast (public.address as text) with function public.one_line(public.address);
create function public.step_of(status public.order_status) returns integer
    language sql immutable strict parallel safe
    as $$ select array_position(enum_range(null::public.order_status), status) $$;

create cast (public.order_status as integer) with function public.step_of(public.order_status) as assignment;

create function public.multiply(state numeric, next numeric) returns numeric
    language sql immutable parallel safe
    as $$ select case when next is null then state else coalesce(state, 1) * next end $$;

create aggregate public.product(numeric) (
    sfunc = public.multiply,
    stype = numeric,
    combinefunc = public.multiply,
    parallel = safe
);
comment on aggregate public.product(numeric) is 'The product of all values';

create aggregate "Odd Schema"."largest of"(order by integer) (
    sfunc = int4larger,
    stype = integer,
    initcond = '-1'
);
