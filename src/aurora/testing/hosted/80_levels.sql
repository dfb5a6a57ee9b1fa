-- How far the services' own migrations have come.

-- part: levels
drop schema hosted cascade;
insert into auth.schema_migrations (version) values
    ('20171026211738'), ('20210710035447'), ('20220811173540'), ('20231117164230'), ('20240427152123');
insert into storage.migrations (id, name, hash) values
    (0, 'create-migrations-table', 'e18db593bcde2aca2a408c4d1100f6abba2195df'),
    (1, 'initialmigration', '6ab16121fbaa08bbd11b712d05f358f9b555d777'),
    (18, 'add_owner_id_column_deprecate_owner', 'f1cbb288f1b7a4c1eb8c38504b80ae2a0153d101'),
    (25, 'custom-metadata', 'd974c6057c3db1c1f847afa0e291e6165693b990');
insert into realtime.schema_migrations values (20211116024918, now()), (20241121104152, now());

-- part: newest levels; needs: newest
insert into auth.schema_migrations (version) values ('20250804100000'), ('20251104100000');
insert into storage.migrations (id, name, hash) values
    (44, 'vector-bucket-type', '99c20c0ffd52bb1ff1f32fb992f3b351e3ef8fb3'),
    (55, 'prevent-direct-deletes', '262a4798d5e0f2e7c8970232e03ce8be695d5819');

-- part: nearest to supautils; needs: supautils
grant supabase_auth_admin, supabase_storage_admin, supabase_realtime_admin to postgres;
