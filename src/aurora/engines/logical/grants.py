"""Access privileges: ``aclitem`` text into the GRANT statements that make it so."""

import re

from aurora.engines.logical.names import quoted

# aclitem letters, from PostgreSQL's documentation ("Privileges", table 5.1).
_PRIVILEGES = {
    "r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "D": "TRUNCATE",
    "x": "REFERENCES", "t": "TRIGGER", "C": "CREATE", "c": "CONNECT", "T": "TEMPORARY",
    "X": "EXECUTE", "U": "USAGE", "s": "SET", "A": "ALTER SYSTEM", "m": "MAINTAIN",
}  # fmt: skip

_ITEM = re.compile(r'^(?P<grantee>"(?:[^"]|"")*"|[^=]*)=(?P<privileges>[a-zA-Z*]*)/')


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def grant_statements(target: str, acl: tuple[str, ...], owner: str) -> list[str]:
    """The statements that give *target* (``DATABASE "x"``) exactly *acl*.

    Begins by taking away what everybody, and the owner, has by default.
    """
    statements = [
        f"REVOKE ALL ON {target} FROM PUBLIC",
        f"REVOKE ALL ON {target} FROM {quoted(owner)}",
    ]
    for item in acl:
        match = _ITEM.match(item)
        if match is None:
            continue
        name = match["grantee"]
        grantee = "PUBLIC" if not name else quoted(_plain(name))
        plain: list[str] = []
        grantable: list[str] = []
        for letter, star in re.findall(r"([a-zA-Z])(\*?)", match["privileges"]):
            (grantable if star else plain).append(_PRIVILEGES[letter])
        if plain:
            statements.append(f"GRANT {', '.join(plain)} ON {target} TO {grantee}")
        if grantable:
            statements.append(
                f"GRANT {', '.join(grantable)} ON {target} TO {grantee} WITH GRANT OPTION"
            )
    return statements
