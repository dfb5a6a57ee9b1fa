"""Aurora: backup and recovery of PostgreSQL and Supabase projects, from outside the server."""

__version__ = "0.1.0"
