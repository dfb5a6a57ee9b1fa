"""SQL files in named parts, each with what it needs of the server.

A file of ``sample/`` is a row of parts. A part begins with a line such as
``-- part: triggers; needs: superuser, server 15, extension citext`` and is run as one
transaction, or skipped as a whole where a need is not met:

``superuser``      the role is one
``server N``       the server's major version is N or newer
``available X``    extension X is installed, or this role may install it
``extension X``    extension X is installed
``own services``   schemas auth and storage are not there: the sample makes them itself
``project``        they are there, as on Supabase
``files' policies``  the role may make policies on storage.objects
"""

import re
from dataclasses import dataclass
from importlib.resources import files

import psycopg

_HEAD = re.compile(r"^-- part: (?P<name>[^;\n]+)(?:; needs: (?P<needs>[^\n]+))?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Part:
    """One transaction of the sample: ``file`` and ``name`` say which."""

    file: str
    name: str
    needs: tuple[str, ...]
    sql: str

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


@dataclass(frozen=True, slots=True)
class Server:
    """What a part may need: the server's major version, the role, the extensions."""

    major: int
    superuser: bool
    installable: frozenset[str]
    project: bool = False
    makes_policies: bool = True

    @classmethod
    def of(cls, connection: psycopg.Connection) -> "Server":
        """Ask the server behind ``connection``."""
        row = connection.execute(
            "select rolsuper, has_database_privilege(current_database(), 'create')"
            " from pg_roles where rolname = current_user"
        ).fetchone()
        superuser, creates = row or (False, False)
        names = connection.execute(
            "select name from pg_available_extension_versions"
            " where installed or %s or (trusted and %s)",
            (superuser, creates),
        ).fetchall()
        owners = connection.execute(
            "select pg_has_role(relowner, 'usage') from pg_class"
            " where oid = to_regclass('storage.objects')"
        ).fetchone()
        return cls(
            project=owners is not None,
            makes_policies=owners is None or owners[0],
            major=connection.info.server_version // 10000,
            superuser=bool(superuser),
            installable=frozenset(name for (name,) in names),
        )

    def meets(self, need: str, installed: frozenset[str]) -> bool:
        """Whether one need of a part is met. Raises ValueError for an unknown word."""
        word, _, rest = need.partition(" ")
        match word:
            case "superuser":
                return self.superuser
            case "own":
                return not self.project
            case "project":
                return self.project
            case "files'":
                return self.makes_policies
            case "server":
                return self.major >= int(rest)
            case "available":
                return rest in self.installable
            case "extension":
                return rest in installed
        raise ValueError(f"unknown need of a part: {need}")


def installed_extensions(connection: psycopg.Connection) -> frozenset[str]:
    """The extensions that the database has now."""
    return frozenset(n for (n,) in connection.execute("select extname from pg_extension"))


def read_parts(file: str, values: dict[str, int] | None = None) -> list[Part]:
    """The parts of a file of ``sample/``, with ``:name`` replaced by each of ``values``."""
    text = files("aurora.demo").joinpath("sample", file).read_text(encoding="utf-8")
    for name, value in (values or {}).items():
        text = re.sub(rf"(?<!:):{name}\b", str(value), text)
    heads = list(_HEAD.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    return [
        Part(
            file=file,
            name=head["name"].strip(),
            needs=tuple(need.strip() for need in (head["needs"] or "").split(",") if need.strip()),
            sql=text[head.end() : end],
        )
        for head, end in zip(heads, ends, strict=True)
    ]
