"""Proof that backups can be recovered: validation, recovery tests, drills, the security audit."""
