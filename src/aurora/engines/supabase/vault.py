"""Secrets of Supabase Vault: read in clear where the role may, made anew in the target.

Vault encrypts with a root key that each project has for itself and that no dump carries;
the ciphertext of one project is nothing in another. So a backup holds the secrets
themselves, sealed as everything else in it is.
"""

from dataclasses import dataclass

import msgspec
import psycopg

from aurora.engines.logical.names import Connection

_READ = """
SELECT id::text, COALESCE(name, ''), description, decrypted_secret
FROM vault.decrypted_secrets ORDER BY created_at, id
"""
_READABLE = """
SELECT pg_catalog.to_regclass('vault.decrypted_secrets') IS NOT NULL
   AND pg_catalog.has_table_privilege('vault.decrypted_secrets', 'SELECT')
"""


class Secret(msgspec.Struct, frozen=True):
    """One secret in clear."""

    id: str  # of the source; a secret that is made anew gets another
    name: str
    description: str
    secret: str


@dataclass(slots=True)
class SecretsMade:
    """What came of the secrets of a backup in a target."""

    made: int = 0
    there: int = 0  # with the same name and content
    kept: int = 0  # another secret has the name: it stays
    refused: str = ""


def read_secrets(conn: Connection) -> bytes:
    """All secrets as JSON, in the transaction that *conn* is in; b"" where there is no vault.

    b"" too where the role may not decrypt them, or Vault cannot: the rows of
    ``vault.secrets`` are in the backup all the same.
    """
    try:
        with conn.transaction():
            row = conn.execute(_READABLE).fetchone()
            if not (row and row[0]):
                return b""
            found = [Secret(*map(str, row)) for row in conn.execute(_READ)]
    except psycopg.Error:
        if conn.closed or conn.broken:
            raise
        return b""
    return msgspec.json.encode(found)


def parse_secrets(content: bytes) -> list[Secret]:
    """What :func:`read_secrets` gave."""
    return msgspec.json.decode(content, type=list[Secret]) if content else []


def make_secrets(conn: Connection, secrets: list[Secret]) -> SecretsMade:
    """Make the secrets in the transaction that *conn* is in, and read each back.

    One that is there already, by its name, is left as it is.
    """
    done = SecretsMade()
    try:
        with conn.transaction():
            rows = conn.execute(
                "SELECT name, decrypted_secret FROM vault.decrypted_secrets WHERE name IS NOT NULL"
            )
            held = {str(name): secret for name, secret in rows}
            for one in secrets:
                if one.name not in held:
                    _make(conn, one)
                    done.made += 1
                elif held[one.name] == one.secret:
                    done.there += 1
                else:
                    done.kept += 1
    except psycopg.Error as error:
        # Never the statement or a detail of it: they hold the secret.
        return SecretsMade(refused=error.diag.message_primary or "the connection was lost")
    return done


def _make(conn: Connection, one: Secret) -> None:
    made = conn.execute(
        "SELECT vault.create_secret(%s, NULLIF(%s, ''), %s)",
        (one.secret, one.name, one.description),
    ).fetchone()
    read = conn.execute(
        "SELECT decrypted_secret FROM vault.decrypted_secrets WHERE id = %s", made
    ).fetchone()
    if read is None or read[0] != one.secret:
        raise psycopg.DataError("a secret that was made does not read back")
