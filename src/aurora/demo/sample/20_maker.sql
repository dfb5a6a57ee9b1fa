-- What the data is made of: words, paragraphs and hashes, the same for the same seed.
-- The schema is dropped again when the data is there. Names after a colon are put in by
-- sample.py: the seed, and the number of rows of each table.

-- part: functions
create schema sample_maker;

-- A number from 0 up, as if random, for row i and purpose salt.
create function sample_maker.hash(i bigint, salt bigint) returns bigint
    language sql immutable parallel safe
    as $$ select hashint8extended(i, salt * 1000003 + :seed) & 9223372036854775807 $$;

create function sample_maker.uuid(i bigint, salt bigint) returns uuid
    language sql immutable parallel safe
    as $$ select md5((salt * 1000003 + :seed)::text || '/' || i)::uuid $$;

create function sample_maker.word(n bigint) returns text
    language sql immutable parallel safe
    as $$ select (array[
        'amber', 'anchor', 'apple', 'arrow', 'autumn', 'basket', 'bell', 'birch', 'bottle', 'branch',
        'bridge', 'butter', 'candle', 'canvas', 'carpet', 'cedar', 'cellar', 'chalk', 'cherry', 'cloud',
        'clover', 'copper', 'corner', 'cotton', 'cradle', 'crystal', 'dawn', 'desert', 'dragon', 'drum',
        'ember', 'engine', 'falcon', 'feather', 'fern', 'field', 'flint', 'forest', 'fountain', 'garden',
        'garlic', 'gentle', 'ginger', 'glacier', 'granite', 'grass', 'hammer', 'harbour', 'harvest', 'hazel',
        'honey', 'horizon', 'island', 'ivory', 'jacket', 'jasper', 'journey', 'juniper', 'kettle', 'kitchen',
        'ladder', 'lantern', 'lemon', 'linen', 'lizard', 'marble', 'meadow', 'melon', 'mirror', 'morning',
        'mountain', 'needle', 'nickel', 'oak', 'ocean', 'olive', 'orchard', 'otter', 'paper', 'pebble',
        'pepper', 'pillow', 'planet', 'pocket', 'poppy', 'quartz', 'quiet', 'rabbit', 'raven', 'ribbon',
        'river', 'saddle', 'saffron', 'sailor', 'sand', 'shadow', 'silver', 'sparrow', 'spring', 'stone',
        'storm', 'summer', 'thistle', 'thread', 'timber', 'tulip', 'valley', 'velvet', 'violet', 'walnut',
        'water', 'willow', 'window', 'winter', 'wool', 'yarrow', 'zephyr', 'straße', 'naïve', 'jalapeño',
        'smørrebrød', 'ключ', 'дорога', 'ελιά', '茶', '東京', 'שלום', '😀'
    ])[1 + n % 128] $$;

create function sample_maker.words(i bigint, salt bigint, amount integer) returns text
    language sql immutable parallel safe
    as $$ select string_agg(sample_maker.word(sample_maker.hash(i * 64 + g, salt)), ' ')
          from generate_series(1, amount) g $$;

create function sample_maker.noise(i bigint, blocks integer) returns bytea
    language sql immutable parallel safe
    as $$ select string_agg(sha512(int8send(i) || int4send(g) || int8send(:seed)), ''::bytea)
          from generate_series(1, blocks) g $$;

-- part: paragraphs
create unlogged table sample_maker.paragraphs as
select n, initcap(sample_maker.word(sample_maker.hash(n, 1))) || ' '
    || sample_maker.words(n, 2, 40 + (n % 60)::integer) || '.' || case n % 7 when 0 then E'\n\n* ' else ' ' end as body
from generate_series(0, 499) n;
create unique index on sample_maker.paragraphs (n) include (body);
analyze sample_maker.paragraphs;

-- A few hundred texts of 1 to 30 paragraphs; messages take one and put their own words before it.
create unlogged table sample_maker.texts as
select t.n, string_agg(p.body, '' order by k.k) as body
from generate_series(0, 299) t(n)
cross join lateral generate_series(1, case when t.n % 12 = 0 then 12 + (t.n % 19) else 1 + t.n % 2 end) k(k)
join sample_maker.paragraphs p on p.n = sample_maker.hash(t.n * 100 + k.k, 3) % 500
group by t.n;
analyze sample_maker.texts;
