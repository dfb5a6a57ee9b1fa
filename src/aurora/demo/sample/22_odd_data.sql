-- Values at the edges of their types, and large objects.

-- part: factors of a project; needs: project
insert into auth.mfa_factors (id, user_id, factor_type, friendly_name, secret, status, created_at, updated_at)
select sample_maker.uuid(i, 6), sample_maker.uuid(i, 1), (enum_range(null::auth.factor_type))[1 + i % 3],
    sample_maker.words(i, 22, 2), md5(i::text), 'verified', '2026-06-01', '2026-06-01'
from generate_series(1, greatest(1, :users / 10)) i;

-- part: odd rows
insert into "Odd Schema"."Mixed Case"
    ("select", "two words", "quote""d", "per%cent", "naïve ключ 鍵 🔑", " leading", "Mood", "Where", "sorted")
values
    (null, null, null, null, null, null, null, null, null),
    ('', 0, '', 0, '', false, '', row(null, null, null), ''),
    ('\N', -1, '\.', 1e-20, E'tab\tnewline\nreturn\rbackslash\\ \b\f\v', true, '😀', row('NaN', '-Infinity', 1e308), 'Z'),
    ('NULL', 2, '"', 12345678901234567890.123456789, e'\u200bzero width', true, 'glücklich', row(0.1, -0.0, 4.9e-324), 'a'),
    ('{}', 3, '''', 'NaN', 'e' || U&'\0301' || ' and é', false, 'it''s "fine"', null, 'ä');
insert into "Odd Schema"."table" values (1, 'one'), (null, null);
insert into "Odd Schema"."mixed case" values (1), (1), (null);
insert into "Odd Schema"."naïve ключ 鍵" (note) values ('鍵'), (null);
insert into "Odd Schema"."a name of exactly sixty-three bytes, which is the longest we get" values (63);
insert into "Odd Schema"."no columns" select from generate_series(1, 3);
insert into public."table" values (1, 2);
insert into "Odd Schema".vehicles (name, wheels) values ('sledge', 0), ('bicycle', 2);
insert into "Odd Schema".cars (id, name, wheels, price, doors)
values (1, 'beetle', 4, 999.99, 2), (2, 'limousine', 6, null, 8);
insert into "Odd Schema".trucks (id, name, load_kg) values (1, 'dray', 12000);
insert into "Odd Schema".typed_places values ('1 High Street', 'Leeds', '00001', 'GB');
insert into public.extension_zoo select generate_series(1, 3);

-- part: every type
insert into public.type_zoo (id) values (1);
insert into public.type_zoo values
(2, true, -32768, -2147483648, -9223372036854775808, 'NaN', -99999999999999.999999, 'NaN', '-Infinity', '-92233720368547758.08',
 '', '', '', '', '', '4713-01-01 BC', '00:00', '24:00:00-15:59', '-infinity', 'infinity', '-178000000 years', '-1 day -0.01 sec',
 '00000000-0000-0000-0000-000000000000', '{"a":1, "a": 2 ,"b" :[ ]}', 'null', '$', '0.0.0.0/0', '::/0', '00:00:00:00:00:00',
 'ff:ff:ff:ff:ff:ff:ff:ff', '00000000', '', '(NaN,Infinity)', '{1,0,0}', '[(0,0),(0,0)]', '(1,1),(0,0)', '[(0,0)]', '((0,0))', '<(0,0),0>',
 '', '', 'empty', '(,)', '[NaN,NaN]', '[-infinity,infinity]', '(,)', '[0044-03-15 BC,)', '{}', '{}', '{[1,2],[4,5),(7,)}', null, 0, 'pg_class',
 'integer', '0/0', '3', '3', '10:20:10,14', '(0,0)', '', 'cart', 0, row(null, null, null, null), '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}'),
(3, false, 32767, 2147483647, 9223372036854775807, 'Infinity', 0.000001, '3.4028235e38', 4.9e-324, '92233720368547758.07',
 'ä', E'\\N', E'\\.\nsecond line\r\n\ttab \\ backslash', '63', '\x00017f80ff0a5c', '5874897-12-31', '23:59:59.999', '00:00:00+15:59',
 '294276-12-31 23:59:59.999999', '4714-11-24 00:00:00+00 BC', '178000000 years 1 mon -3 days 04:05:06.789', '5 days 04:05:06.79',
 'ffffffff-ffff-ffff-ffff-ffffffffffff', '  [1.0, 1.00, "\u00e9"]  ', '{"é": [1.50, "\"", null, {}]}', '$.a[*] ? (@.b > 1)',
 '2001:db8::ff00:42:8329/128', '10.1.0.0/16', 'ff:ff:ff:ff:ff:ff', '00:00:00:00:00:00:00:00', '11111111', '1010101010101',
 '(1e308,-1e-307)', '{-0.5,3,1e10}', '[(-1,2.5),(3,4)]', '(3,4),(-1,-2)', '((0,0),(1,1),(2,0))', '((0,0),(1,1),(2,0))', '<(1,-2),3.5>',
 '''it''''s'':1A,3B ''two words'':7 a:2', '!''a b'' & (c:*AB | d <-> e)', '[-2147483648,2147483647)', '[1,10)', '(0.1,1e100]',
 '["2026-01-01 00:00","2026-01-02 12:00:00.5"]', '["2026-01-01 00:00+00",)', '[2026-01-01,2026-02-01)', '{[1,3),[5,9)}',
 '{[2026-01-01,2026-01-02),[2026-05-01,)}', '{[NaN,NaN]}', null, 4294967295, 'public.orders', 'public.address[]', 'FFFFFFFF/FFFFFFFF',
 '4294967295', '18446744073709551615', '4294967300:4294967310:4294967305,4294967306', '(4294967295,65535)', E'\\377', 'returned', 9999999999.99,
 row('1 "Quote", Street', E'back\\slash', 'a,b', 'DE'), '[-1:1]={1,NULL,3}', '{"","NULL",NULL,"{}","a\"b","c\\d"," x "}',
 '{{{1,2},{3,4}},{{5,NaN},{7,Infinity}}}', array[row('a', 'b', 'c', 'DE')::public.address, null], '{cart,paid,NULL}',
 '{"[1,2)",empty,"(,)"}', array['\x'::bytea, '\x5c22', null], array['{"a": [1,2]}'::json]);
insert into public.type_zoo (id, c_numeric, c_text, c_bytea, c_integer_array)
select 4, (repeat('9', 130000) || '.' || repeat('1', 16000))::numeric, repeat('long ', 60000),
    sample_maker.noise(4, 5000), array(select generate_series(1, 20000));

-- part: xml
do $xml$
begin
    update public.type_zoo set c_xml = '<?xml version="1.0"?><a b="c">é &amp; <!-- x --></a>' where id = 3;
    update public.type_zoo set c_xml = 'not a document <b/>' where id = 2;
exception when feature_not_supported then
    raise notice 'this server has no XML';
end
$xml$;

-- part: citext rows; needs: extension citext
update public.extension_zoo set nickname = 'MiXeD ' || id where id < 3;

-- part: hstore rows; needs: extension hstore
update public.extension_zoo set labels = '"a b"=>"1", "null"=>NULL, q=>"\"x\""' where id < 3;

-- part: large objects
do $objects$
declare
    document uuid;
    large oid;
begin
    for document in select id from public.documents order by changed_at limit 3 loop
        large := lo_from_bytea(0, sample_maker.noise(7, 4000));
        perform lo_put(large, 600000, '\x00ff00ff');
        update public.documents d set scan = large where d.id = document;
    end loop;
    large := lo_create(0);
    execute format('comment on large object %s is %L', large, 'An empty one');
    execute format('grant select on large object %s to authenticated', large);
end
$objects$;

-- part: newer rows; needs: server 18
insert into public.generated_on_read (net) values (1), (2.5), (1000000);
insert into public.bookings values (1, '[2026-01-01,2026-01-05)'), (1, '[2026-01-05,2026-01-09)'), (2, '[2026-01-01,2026-02-01)');

-- part: the maker goes
drop schema sample_maker cascade;
