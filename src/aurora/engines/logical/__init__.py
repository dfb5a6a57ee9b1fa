"""The logical engine: a snapshot of a PostgreSQL database by SQL alone, and its load.

No superuser, no files, no agent: ``COPY`` of block ranges under one exported snapshot
for the rows, ``pg_dump`` and ``pg_restore`` for the schema.
"""
