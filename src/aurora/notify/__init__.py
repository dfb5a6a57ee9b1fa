"""Telling people and machines: notices by Apprise, pings of dead man's switches, templates.

Knows nothing of backups. Addresses are secrets: they are resolved when something is sent,
and are in no message, log, error or file of this package.
"""
