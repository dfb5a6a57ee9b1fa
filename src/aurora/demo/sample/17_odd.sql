-- Things that are rare in applications and common in bug reports.

-- part: names
create table "Odd Schema"."Mixed Case" (
    "Id" serial not null,
    "select" text,
    "two words" integer default 2,
    "quote""d" text,
    "per%cent" numeric,
    "naïve ключ 鍵 🔑" text,
    " leading" boolean,
    "Mood" "Odd Schema"."Mood Ring" default 'it''s "fine"',
    "Where" "Odd Schema"."Point 3D",
    "sorted" text collate "Odd Schema"."by bytes"
);
comment on table "Odd Schema"."Mixed Case" is E'line one\nline "two" \\ with a backslash and a tab\t.';
comment on column "Odd Schema"."Mixed Case"."naïve ключ 鍵 🔑" is 'κλειδί';

create table "Odd Schema"."table" ("table" integer, "column" text);
create table "Odd Schema"."mixed case" (id integer);
create table "Odd Schema"."naïve ключ 鍵" (id integer generated always as identity, note text);
create table "Odd Schema"."a name of exactly sixty-three bytes, which is the longest we get" (id integer);
create table "Odd Schema"."no columns" ();
create table "Odd Schema"."no rows" (id integer not null, text text);
create table public."table" (id integer, "order" integer);

-- part: inheritance
create table "Odd Schema".vehicles (
    id integer generated always as identity,
    name text not null,
    wheels smallint check (wheels >= 0),
    check (name <> '') no inherit
);
create table "Odd Schema".priced (price numeric(10, 2));
create table "Odd Schema".cars (doors smallint default 4) inherits ("Odd Schema".vehicles, "Odd Schema".priced);
create table "Odd Schema".trucks (name text not null, load_kg integer) inherits ("Odd Schema".vehicles);
alter table "Odd Schema".trucks alter column wheels set default 6;
create table "Odd Schema".typed_places of public.address (street with options not null);

-- part: every type
create table public.type_zoo (
    id integer not null,
    c_boolean boolean,
    c_smallint smallint,
    c_integer integer,
    c_bigint bigint,
    c_numeric numeric,
    c_numeric_scale numeric(20, 6),
    c_real real,
    c_double double precision,
    c_money money,
    c_char character(5),
    c_varchar varchar(20),
    c_text text,
    c_name name,
    c_bytea bytea,
    c_date date,
    c_time time(3),
    c_timetz timetz,
    c_timestamp timestamp,
    c_timestamptz timestamptz,
    c_interval interval,
    c_interval_day interval day to second(2),
    c_uuid uuid,
    c_json json,
    c_jsonb jsonb,
    c_jsonpath jsonpath,
    c_inet inet,
    c_cidr cidr,
    c_macaddr macaddr,
    c_macaddr8 macaddr8,
    c_bit bit(8),
    c_varbit bit varying,
    c_point point,
    c_line line,
    c_lseg lseg,
    c_box box,
    c_path path,
    c_polygon polygon,
    c_circle circle,
    c_tsvector tsvector,
    c_tsquery tsquery,
    c_int4range int4range,
    c_int8range int8range,
    c_numrange numrange,
    c_tsrange tsrange,
    c_tstzrange tstzrange,
    c_daterange daterange,
    c_int4multirange int4multirange,
    c_datemultirange datemultirange,
    c_nummultirange nummultirange,
    c_xml xml,
    c_oid oid,
    c_regclass regclass,
    c_regtype regtype,
    c_pg_lsn pg_lsn,
    c_xid xid,
    c_xid8 xid8,
    c_snapshot pg_snapshot,
    c_tid tid,
    c_char1 "char",
    c_enum public.order_status,
    c_domain public.money_amount,
    c_composite public.address,
    c_integer_array integer[],
    c_text_array text[],
    c_numeric_cube numeric[][][],
    c_composite_array public.address[],
    c_enum_array public.order_status[],
    c_range_array int4range[],
    c_bytea_array bytea[],
    c_json_array json[]
);

-- part: extension types
create table public.extension_zoo (id integer not null);

-- part: citext column; needs: extension citext
alter table public.extension_zoo add column nickname extensions.citext;

-- part: hstore column; needs: extension hstore
alter table public.extension_zoo add column labels extensions.hstore;

-- part: uuid-ossp column; needs: extension uuid-ossp
alter table public.extension_zoo add column made_by uuid default extensions.uuid_nil();

-- part: foreign table; needs: extension postgres_fdw
create server warehouse foreign data wrapper postgres_fdw
    options (host 'warehouse.invalid', dbname 'stock', port '5432');
create user mapping for current_user server warehouse options (user 'reader');
create foreign table public.warehouse_stock (
    product_id integer options (column_name 'item') not null,
    amount integer,
    checked_on date
) server warehouse options (schema_name 'public', table_name 'stock');
comment on foreign table public.warehouse_stock is 'Nothing answers there: only the definition counts';

-- part: newer columns; needs: server 18
create table public.generated_on_read (
    id integer generated always as identity,
    net numeric(10, 2) not null,
    gross numeric generated always as (net * 1.19) virtual
);
create table public.bookings (
    room integer not null,
    during daterange not null
);
