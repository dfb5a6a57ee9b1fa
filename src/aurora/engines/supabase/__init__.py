"""What a Supabase project has beside its database's own rows, and how a backup goes into one.

Storage objects and buckets: :mod:`.collect`, :mod:`.upload`. A project as the target of a
restore has one database, in which the services' own schemas (``auth``, ``storage``, …)
exist already, with their own owners, migrations and grants: the user's schemas are filled
as everywhere, and the rows of the services' tables go into the tables that are there in
one last transaction, see :mod:`.handover`.
"""
