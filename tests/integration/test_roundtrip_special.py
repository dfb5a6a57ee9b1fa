"""What PostgreSQL lets people make, and backup tools forget: each comes back as it was."""

import pytest

from tests.fixtures.looks import compare, run_script
from tests.fixtures.postgres import NewDatabase
from tests.fixtures.projects import NewTarget, Project

pytest_plugins = ["tests.fixtures.backups"]

CASES = {
    "zero columns, with and without rows": """
        CREATE TABLE nothing ();
        CREATE TABLE "no columns" ();
        INSERT INTO "no columns" SELECT FROM generate_series(1, 7);
        CREATE TABLE dropped_columns (a int, b int);
        INSERT INTO dropped_columns SELECT 1, 2 FROM generate_series(1, 3);
        ALTER TABLE dropped_columns DROP COLUMN a, DROP COLUMN b;
    """,
    "zero rows": "CREATE TABLE empty (a int PRIMARY KEY, b text NOT NULL DEFAULT 'x')",
    "only generated columns": """
        CREATE TABLE generated (a int GENERATED ALWAYS AS (40 + 2) STORED,
                                b text GENERATED ALWAYS AS ('x' || 'y') STORED);
        INSERT INTO generated SELECT FROM generate_series(1, 5);
        CREATE TABLE partly (b int GENERATED ALWAYS AS (a * 2) STORED, a int, "C d" text);
        INSERT INTO partly (a, "C d") VALUES (1, 'one'), (NULL, ''), (3, NULL);
    """,
    "dropped columns and defaults that came later": """
        CREATE TABLE grown (a int, gone text, b int);
        INSERT INTO grown VALUES (1, 'gone', 2);
        ALTER TABLE grown DROP COLUMN gone;
        ALTER TABLE grown ADD COLUMN c text DEFAULT 'later' NOT NULL, ADD COLUMN d int;
        INSERT INTO grown VALUES (3, 4, 'now', 5);
    """,
    "inheritance": """
        CREATE TABLE parent (id int PRIMARY KEY, note text);
        CREATE TABLE child (extra int, CHECK (id > 0)) INHERITS (parent);
        CREATE TABLE other (id int, seen date);
        CREATE TABLE grandchild (more int) INHERITS (child, other);
        INSERT INTO parent VALUES (1, 'p'); INSERT INTO child VALUES (2, 'c', 3);
        INSERT INTO grandchild VALUES (4, 'g', 5, '2020-01-01', 6); INSERT INTO other VALUES (9);
        ALTER TABLE child ALTER note SET DEFAULT 'of the child';
    """,
    "partitions of partitions": """
        CREATE TABLE m (id int, at date, region text, PRIMARY KEY (id, at, region))
            PARTITION BY RANGE (at);
        CREATE TABLE m_2023 PARTITION OF m FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')
            PARTITION BY LIST (region);
        CREATE TABLE m_2023_eu PARTITION OF m_2023 FOR VALUES IN ('eu', 'uk')
            PARTITION BY HASH (id);
        CREATE TABLE m_2023_eu_0 PARTITION OF m_2023_eu FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE m_2023_eu_1 PARTITION OF m_2023_eu FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE TABLE m_2023_rest PARTITION OF m_2023 DEFAULT;
        CREATE TABLE attached (region text NOT NULL, id int NOT NULL, at date NOT NULL);
        ALTER TABLE m ATTACH PARTITION attached FOR VALUES FROM (MINVALUE) TO ('2000-01-01');
        CREATE TABLE m_default PARTITION OF m DEFAULT;
        CREATE TABLE m_empty PARTITION OF m FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')
            PARTITION BY RANGE (id);
        CREATE INDEX m_region ON m (region);
        CREATE INDEX only_here ON m_2023_rest (at);
        INSERT INTO m SELECT i, date '1995-01-01' + i * 100, (ARRAY['eu', 'uk', 'us'])[1 + i % 3]
            FROM generate_series(1, 110) i;
    """,
    "foreign keys in a deferred cycle": """
        CREATE TABLE a (id int PRIMARY KEY, b int NOT NULL);
        CREATE TABLE b (id int PRIMARY KEY, a int NOT NULL REFERENCES a DEFERRABLE INITIALLY
            DEFERRED);
        ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED;
        CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE SET NULL);
        BEGIN; INSERT INTO a SELECT i, i FROM generate_series(1, 50) i;
        INSERT INTO b SELECT i, 51 - i FROM generate_series(1, 50) i; COMMIT;
        INSERT INTO tree SELECT i, nullif(i / 2, 0) FROM generate_series(1, 30) i;
    """,
    "constraints not valid": """
        CREATE TABLE old (a int); INSERT INTO old VALUES (-1), (5);
        CREATE TABLE known (id int PRIMARY KEY); INSERT INTO known VALUES (5);
        ALTER TABLE old ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;
        ALTER TABLE old ADD CONSTRAINT is_known FOREIGN KEY (a) REFERENCES known NOT VALID;
    """,
    "exclusion constraints": """
        CREATE EXTENSION btree_gist;
        CREATE TABLE bookings (room int, during tstzrange,
            EXCLUDE USING gist (room WITH =, during WITH &&) WHERE (room > 0));
        INSERT INTO bookings SELECT i % 5, tstzrange(timestamptz '2024-01-01' + i * interval '1
            day',
            timestamptz '2024-01-01' + (i + 1) * interval '1 day') FROM generate_series(1, 100) i;
        ALTER TABLE bookings ADD CONSTRAINT deferred EXCLUDE USING gist (during WITH &&)
            DEFERRABLE INITIALLY DEFERRED;
    """,
    "operators, classes, casts, aggregates": """
        CREATE TYPE rational AS (n int, d int);
        CREATE FUNCTION r_eq(rational, rational) RETURNS bool IMMUTABLE LANGUAGE sql
            AS 'SELECT $1.n * $2.d = $2.n * $1.d';
        CREATE FUNCTION r_lt(rational, rational) RETURNS bool IMMUTABLE LANGUAGE sql
            AS 'SELECT $1.n * $2.d < $2.n * $1.d';
        CREATE FUNCTION r_cmp(rational, rational) RETURNS int IMMUTABLE LANGUAGE sql
            AS 'SELECT sign($1.n * $2.d - $2.n * $1.d)::int';
        CREATE OPERATOR === (LEFTARG = rational, RIGHTARG = rational, FUNCTION = r_eq,
            COMMUTATOR = ===, RESTRICT = eqsel);
        CREATE OPERATOR <<< (LEFTARG = rational, RIGHTARG = rational, FUNCTION = r_lt);
        CREATE FUNCTION r_neg(rational) RETURNS rational IMMUTABLE LANGUAGE sql
            AS 'SELECT ROW(-$1.n, $1.d)::rational';
        CREATE OPERATOR !! (RIGHTARG = rational, FUNCTION = r_neg);
        CREATE OPERATOR CLASS rational_ops FOR TYPE rational USING btree AS
            OPERATOR 1 <<<, OPERATOR 3 ===, FUNCTION 1 r_cmp(rational, rational);
        CREATE FUNCTION r_to_float(rational) RETURNS float8 IMMUTABLE LANGUAGE sql
            AS 'SELECT $1.n::float8 / $1.d';
        CREATE CAST (rational AS float8) WITH FUNCTION r_to_float(rational) AS ASSIGNMENT;
        CREATE AGGREGATE product(int8) (SFUNC = int8mul, STYPE = int8, INITCOND = '1');
        CREATE AGGREGATE middle(float8 ORDER BY anyelement) (SFUNC = ordered_set_transition,
            STYPE = internal, FINALFUNC = percentile_disc_final, FINALFUNC_EXTRA);
        CREATE TABLE rationals (r rational, p int8[]);
        INSERT INTO rationals SELECT ROW(i, 7)::rational, ARRAY[i, NULL] FROM generate_series(1,
            9) i;
        CREATE INDEX ON rationals USING btree (r rational_ops);
        CREATE VIEW products AS SELECT product((r).n) FROM rationals WHERE r === ROW(2,
            14)::rational;
    """,
    "collations": """
        CREATE COLLATION german (locale = 'C.UTF-8');
        CREATE COLLATION folded (lc_collate = 'C', lc_ctype = 'C.UTF-8');
        CREATE COLLATION plain FROM "C";
        CREATE TABLE words (a text COLLATE german UNIQUE, b text COLLATE folded UNIQUE,
            c varchar(9) COLLATE plain);
        INSERT INTO words VALUES ('ä', 'Ä', 'a'), ('z', 'z', 'Z');
        CREATE INDEX ON words (lower(c) COLLATE "C" DESC NULLS LAST);
        CREATE DOMAIN shouted AS text COLLATE plain CHECK (VALUE = upper(VALUE));
        CREATE TABLE cries (it shouted NOT NULL); INSERT INTO cries VALUES ('HEY');
    """,
    "unlogged tables": """
        CREATE UNLOGGED TABLE cache (k text PRIMARY KEY, v bytea, n serial);
        INSERT INTO cache (k, v) SELECT i::text, decode(md5(i::text), 'hex')
            FROM generate_series(1, 100) i;
    """,
    "foreign tables, by definition only": """
        CREATE EXTENSION postgres_fdw;
        CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'far.invalid', port '1');
        CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (user 'me', password 'not shown');
        CREATE FOREIGN TABLE there (id int OPTIONS (column_name 'ID') NOT NULL, t text)
            SERVER far OPTIONS (schema_name 's', table_name 't');
        CREATE TABLE logs (id int, at date) PARTITION BY RANGE (at);
        CREATE TABLE logs_new PARTITION OF logs FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
        CREATE FOREIGN TABLE logs_old PARTITION OF logs
            FOR VALUES FROM ('2023-01-01') TO ('2024-01-01') SERVER far;
        INSERT INTO logs_new SELECT i, '2024-05-05' FROM generate_series(1, 10) i;
        COMMENT ON FOREIGN TABLE there IS 'far away';
    """,
    "publications": """
        CREATE TABLE p (id int PRIMARY KEY, a text, b text); CREATE TABLE q (id int PRIMARY KEY);
        CREATE SCHEMA published; CREATE TABLE published.r (id int PRIMARY KEY);
        CREATE PUBLICATION chosen FOR TABLE p (id, a) WHERE (id > 10), q
            WITH (publish = 'insert, update');
        CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA published;
        CREATE PUBLICATION all_of_them FOR ALL TABLES WITH (publish_via_partition_root = true);
        ALTER TABLE q REPLICA IDENTITY FULL;
        INSERT INTO p SELECT i, 'a' FROM generate_series(1, 20) i;
    """,
    "statistics objects and storage options": """
        CREATE TABLE st (a int, b int, c text COMPRESSION pglz) WITH (fillfactor = 71,
            autovacuum_enabled = false);
        INSERT INTO st SELECT i % 10, i % 5, repeat(md5(i::text), 300) FROM generate_series(1,
            100) i;
        CREATE STATISTICS st_stats (ndistinct, dependencies, mcv) ON a, b FROM st;
        CREATE STATISTICS st_expr ON (a + b), lower(c) FROM st;
        ALTER STATISTICS st_stats SET STATISTICS 77;
        ALTER TABLE st ALTER a SET STATISTICS 500, ALTER c SET STORAGE EXTERNAL,
            ALTER b SET (n_distinct = -0.5);
        CREATE INDEX st_i ON st ((a + b)) WHERE a > 3;
        ALTER INDEX st_i ALTER COLUMN 1 SET STATISTICS 300;
    """,
    "triggers and rules in every state": """
        CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1);
        CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN NEW.n := NEW.n + 100; RETURN NEW; END $$;
        CREATE TRIGGER always BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION bump();
        CREATE TRIGGER replica BEFORE UPDATE OF n ON t FOR EACH ROW WHEN (NEW.n > 5)
            EXECUTE FUNCTION bump();
        CREATE TRIGGER disabled BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION bump();
        CREATE CONSTRAINT TRIGGER later AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION bump();
        ALTER TABLE t ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER replica,
            DISABLE TRIGGER disabled;
        CREATE RULE swallow AS ON INSERT TO t DO INSTEAD NOTHING;
        CREATE RULE quiet AS ON DELETE TO t DO ALSO NOTHING;
        ALTER TABLE t DISABLE RULE quiet;
    """,
    "comments everywhere": """
        CREATE SCHEMA app; COMMENT ON SCHEMA app IS 'it''s a "schema"\\ with quotes';
        CREATE TABLE app.c (id int CONSTRAINT pk PRIMARY KEY, n int CONSTRAINT positive CHECK (n
            > 0));
        COMMENT ON TABLE app.c IS E'two\\nlines -- and ; more'; COMMENT ON COLUMN app.c.n IS 'ünï';
        COMMENT ON CONSTRAINT positive ON app.c IS 'c'; COMMENT ON INDEX app.pk IS 'i';
        CREATE SEQUENCE app.s; COMMENT ON SEQUENCE app.s IS 's';
        CREATE TYPE app.e AS ENUM ('a'); COMMENT ON TYPE app.e IS 't';
        CREATE DOMAIN app.d AS int CONSTRAINT dc CHECK (VALUE > 0); COMMENT ON DOMAIN app.d IS 'd';
        COMMENT ON CONSTRAINT dc ON DOMAIN app.d IS 'dc';
        CREATE FUNCTION app.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
        COMMENT ON FUNCTION app.f(int) IS 'f';
        CREATE VIEW app.v AS SELECT 1 AS one; COMMENT ON VIEW app.v IS 'v';
        COMMENT ON COLUMN app.v.one IS 'vc';
        CREATE POLICY p ON app.c USING (true); COMMENT ON POLICY p ON app.c IS 'p';
        CREATE EXTENSION pg_trgm; COMMENT ON EXTENSION pg_trgm IS 'my own words';
        SELECT lo_create(4711); COMMENT ON LARGE OBJECT 4711 IS 'lo';
    """,
    "views that need a constraint": """
        CREATE TABLE sold (id int PRIMARY KEY, name text, amount int);
        INSERT INTO sold SELECT i, 'n' || i, i FROM generate_series(1, 10) i;
        CREATE VIEW grouped AS SELECT id, name, sum(amount) AS s FROM sold GROUP BY id;
        CREATE MATERIALIZED VIEW kept AS SELECT * FROM grouped;
        CREATE MATERIALIZED VIEW a_of_kept AS SELECT count(*) FROM kept;
        CREATE MATERIALIZED VIEW unfilled AS SELECT 1 / 0 AS never WITH NO DATA;
        CREATE UNIQUE INDEX ON kept (id);
        CREATE TABLE sold_upserted AS TABLE sold; ALTER TABLE sold_upserted ADD PRIMARY KEY (id);
        CREATE RULE up AS ON UPDATE TO sold DO ALSO INSERT INTO sold_upserted VALUES (NEW.*)
            ON CONFLICT (id) DO NOTHING;
    """,
    "sequences of every kind": """
        CREATE TABLE s (a serial, b int GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT -7
            MINVALUE -1000 MAXVALUE 100 CYCLE), c bigint GENERATED BY DEFAULT AS IDENTITY);
        INSERT INTO s SELECT FROM generate_series(1, 30);
        CREATE SEQUENCE fresh AS smallint START 5; CREATE SEQUENCE used CACHE 10;
        SELECT nextval('used'); CREATE UNLOGGED SEQUENCE volatile_one; SELECT
            nextval('volatile_one');
        CREATE SEQUENCE shared OWNED BY s.a; SELECT setval('shared', 9223372036854775807);
        CREATE SEQUENCE "Odd "" name"; SELECT setval('"Odd "" name"', 42, false);
        CREATE TABLE uses_it (id int DEFAULT nextval('used'));
    """,
    "large objects": """
        SELECT lo_from_bytea(1001, 'hello'); SELECT lo_from_bytea(1002, '');
        SELECT lo_from_bytea(1003, decode(repeat('00ff5c0a', 1000000), 'hex'));
        SELECT lo_from_bytea(1004, decode(repeat('0102', 4194304), 'hex'));
        SELECT lo_from_bytea(1005, decode(repeat('0102', 4194305), 'hex'));
        SELECT lo_create(1006), lo_put(1006, 100000, 'after a hole');
        GRANT SELECT ON LARGE OBJECT 1001 TO PUBLIC;
    """,
    "functions whose bodies are bad today": """
        CREATE FUNCTION missing() RETURNS int LANGUAGE sql AS 'SELECT 1';
        SET check_function_bodies = off;
        CREATE OR REPLACE FUNCTION missing() RETURNS int LANGUAGE sql AS 'SELECT a FROM not_there';
        CREATE PROCEDURE p(INOUT a int) LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
        CREATE FUNCTION modern(a int) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
            BEGIN ATOMIC SELECT a + 1; SELECT a + 2; END;
        CREATE TABLE computed (a int, b int GENERATED ALWAYS AS (modern(a)) STORED,
            CHECK (modern(a) > 0));
        INSERT INTO computed VALUES (1), (2);
    """,
    "text search": """
        CREATE TEXT SEARCH DICTIONARY plain_words (TEMPLATE = simple, STOPWORDS = english);
        CREATE TEXT SEARCH CONFIGURATION mine (COPY = english);
        ALTER TEXT SEARCH CONFIGURATION mine ALTER MAPPING FOR asciiword WITH plain_words;
        CREATE TABLE docs (body text, search tsvector GENERATED ALWAYS AS
            (to_tsvector('mine', body)) STORED);
        INSERT INTO docs VALUES ('The quick brown fox'), (NULL), ('');
        CREATE INDEX ON docs USING gin (search);
    """,
    "security definer functions and grants of columns": """
        CREATE TABLE g (id int, secret text, open text);
        GRANT SELECT (id, open), UPDATE (open) ON g TO PUBLIC;
        GRANT SELECT ON g TO pg_monitor WITH GRANT OPTION;
        CREATE FUNCTION f() RETURNS int SECURITY DEFINER SET search_path = '', 'a b' SET
            work_mem = '9MB'
            LANGUAGE sql AS 'SELECT 1';
        REVOKE ALL ON FUNCTION f() FROM PUBLIC;
        GRANT USAGE ON SCHEMA public TO pg_monitor; REVOKE CREATE ON SCHEMA public FROM PUBLIC;
        ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor;
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO pg_monitor;
        ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
        CREATE TYPE ty AS ENUM ('x'); REVOKE USAGE ON TYPE ty FROM PUBLIC;
        CREATE TABLE after_defaults (a int); CREATE SEQUENCE sq; GRANT UPDATE ON SEQUENCE sq TO
            PUBLIC;
    """,
}  # fmt: skip


@pytest.mark.parametrize("script", CASES.values(), ids=CASES.keys())
def test_special_case(
    script: str, project: Project, new_database: NewDatabase, new_target: NewTarget
) -> None:
    """It comes back as it was."""
    source, target = new_database(), new_target()
    run_script(source, script)

    project.backup(source)
    report = project.restore(target)

    assert (report.outcome, report.refusals, report.problems) == ("restored", [], [])
    compare(source, target)
