"""What a Supabase project has beside its database's own rows."""
