"""What is different where the target is a Supabase project.

A project has one database, in which the services' own schemas (``auth``, ``storage``, …)
exist already, with their own owners, migrations and grants. A restore fills the user's
schemas as everywhere, and brings the rows of the services' tables into the tables that are
there. Everything that touches those is one last transaction: see :mod:`.handover`.
"""
