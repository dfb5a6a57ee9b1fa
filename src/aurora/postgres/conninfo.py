"""Connection strings: read with libpq's own parser, told to each driver in its own words.

A :class:`ConnInfo` is what a DSN (URI or ``key=value``) says. libpq is the reference:
``pg_dump`` gets it as environment (:meth:`ConnInfo.as_environment`, so no password shows
in a process list), psycopg as a conninfo string, asyncpg as arguments
(:meth:`ConnInfo.asyncpg_arguments`), because it reads only some of libpq's options.

``settled()`` fills in what libpq would take from the environment, so that three
clients with three compiled-in socket directories reach the same server.
"""

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from aurora.errors import UsageError

_SOCKET_DIRECTORIES = ("/var/run/postgresql", "/run/postgresql", "/tmp")  # noqa: S108 - where libpq looks
_SECRET_OPTIONS = frozenset({"password", "sslpassword", "oauth_client_secret"})
_ENVIRONMENT = threading.Lock()
# Options of other clients that people paste along with a URI; libpq refuses them.
_FOREIGN_OPTIONS = (
    "pgbouncer",
    "connection_limit",
    "pool_timeout",
    "schema",
    "sslaccept",
    "statement_cache_size",
    "prepareThreshold",
    "supa",
    "workaround",
)
_TLS_FOR_ASYNCPG = (
    "sslmode",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "sslcrl",
    "sslpassword",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "krbsrvname",
    "gsslib",
    "target_session_attrs",
)


@dataclass(frozen=True, slots=True)
class ConnInfo:
    """libpq options by name. Never shows its password in ``repr`` or ``str``."""

    options: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, dsn: str) -> "ConnInfo":
        """Read a URI or a ``key=value`` string. Raises UsageError, without quoting secrets."""
        text = dsn.strip()
        if not text:
            raise UsageError(
                "the connection string is empty",
                hint="Write one like postgresql://user@host:5432/database.",
            )
        if "[YOUR-PASSWORD]" in text or "[YOUR_PASSWORD]" in text:
            raise UsageError(
                "the connection string still holds the placeholder [YOUR-PASSWORD]",
                hint="Put the database password there, or leave `:[YOUR-PASSWORD]` out and give "
                "the password by AURORA_SOURCE_PASSWORD_FILE or AURORA_SOURCE_PASSWORD_COMMAND.",
            )
        try:
            parsed = conninfo_to_dict(text)
        except psycopg.Error as error:
            # libpq's message may quote a piece of a badly escaped password.
            raise UsageError(
                "the connection string cannot be read", hint=_reading_hint(text, str(error))
            ) from None
        options = {key: str(value) for key, value in parsed.items() if value is not None}
        if any(not _is_port(port) for port in options.get("port", "").split(",")):
            # Not quoted: a password that was not escaped may have ended up there.
            raise UsageError(
                "the connection string's port is not a number", hint=_reading_hint(text, "")
            )
        return cls(options)

    def __str__(self) -> str:
        return self.redacted()

    @property
    def password(self) -> str | None:
        return self.options.get("password")

    @property
    def dbname(self) -> str:
        """The database's name as libpq would choose it (the user's name by default)."""
        settled = self.settled().options
        return settled.get("dbname") or settled.get("user") or "postgres"

    @property
    def host(self) -> str:
        return self.settled().options.get("host", "")

    @property
    def port(self) -> str:
        return self.settled().options.get("port", "5432")

    def dsn(self) -> str:
        """A libpq ``key=value`` string, **with** the password if there is one."""
        return make_conninfo("", **dict(self.options))

    def uri(self) -> str:
        """A ``postgresql://`` URI without any secret, as it may stand in aurora.toml."""
        options = dict(self.without_secrets().options)
        host, user = options.pop("host", ""), options.pop("user", "")
        port, dbname = options.pop("port", ""), options.pop("dbname", "")
        hosts = host.split(",")
        if len(hosts) > 1 or "," in port or host.startswith("/"):
            # A socket directory or several hosts read best as options.
            options = {"host": host, **({"port": port} if port else {}), **options}
            place = ""
        else:
            place = f"[{host}]" if ":" in host else quote(host, safe="")
            place += f":{port}" if port else ""
        login = f"{quote(user, safe='')}@" if user else ""
        query = urlencode({key: value for key, value in options.items() if value}, quote_via=quote)
        return f"postgresql://{login}{place}/{quote(dbname, safe='')}" + (
            f"?{query.replace('%2F', '/')}" if query else ""
        )

    def redacted(self) -> str:
        """Short and safe for people: ``postgres@db.example.org:5432/app``."""
        options = self.settled().options
        if "service" in options:
            return f"service={options['service']}"
        user = options.get("user", "")
        login = f"{user}@" if user else ""
        host = options.get("host") or options.get("hostaddr", "")
        return f"{login}{host}:{options.get('port', '5432')}/{self.dbname}"

    def without_secrets(self) -> "ConnInfo":
        return self._changed(dict.fromkeys(_SECRET_OPTIONS))

    def with_password(self, password: str) -> "ConnInfo":
        return self._changed({"password": password})

    def with_dbname(self, dbname: str) -> "ConnInfo":
        return self._changed({"dbname": dbname})

    def with_options(self, **options: str | None) -> "ConnInfo":
        """A copy with libpq options set, or removed where None."""
        return self._changed(options)

    def settled(self) -> "ConnInfo":
        """A copy where host, port, user and database are written out.

        Taken from the options, else the service that they or the environment name, else the
        ``PG…`` environment, else libpq's defaults. A service that nobody knows stays a name,
        for libpq to say so.
        """
        service = self.options.get("service") or os.environ.get("PGSERVICE")
        named = _service_options(service) if service else {}
        if service and not named:
            return self
        options = {**_environment_defaults(), **named, **self.options}
        options.pop("service", None)
        options.setdefault("port", "5432")
        if not options.get("host") and not options.get("hostaddr"):
            options["host"] = _default_host(options["port"])
        options.setdefault("dbname", options.get("user", ""))
        return ConnInfo({key: value for key, value in options.items() if value})

    def as_environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The whole environment for a libpq tool: *base* (or ours), its ``PG…`` replaced."""
        names = {option.keyword: option.envvar for option in _libpq_options() if option.envvar}
        environment = dict(os.environ if base is None else base)
        settled = self.settled().options
        for name in names.values():
            environment.pop(name, None)
        for keyword, value in settled.items():
            if keyword in names:
                environment[names[keyword]] = value
        if "service" in settled and "PGSERVICEFILE" in os.environ:
            environment["PGSERVICEFILE"] = os.environ["PGSERVICEFILE"]
        return environment

    def asyncpg_arguments(self) -> dict[str, object]:
        """Arguments for ``asyncpg.connect``; libpq options that asyncpg lacks are left out."""
        options = dict(self.settled().options)
        arguments: dict[str, object] = {}
        verifies_name = options.get("sslmode") == "verify-full" and options.get("host")
        # asyncpg has no hostaddr; where a certificate's name is checked the name must be dialled.
        address = options.get("host") if verifies_name else options.get("hostaddr")
        host = address or options.get("host", "")
        if host:
            arguments["host"] = host.split(",") if "," in host else host
        if port := options.get("port"):
            ports = [int(part or 5432) for part in port.split(",")]
            arguments["port"] = ports if len(ports) > 1 else ports[0]
        for ours, theirs in (
            ("user", "user"),
            ("password", "password"),
            ("dbname", "database"),
            ("passfile", "passfile"),
            ("service", "service"),
        ):
            if options.get(ours):
                arguments[theirs] = options[ours]
        if seconds := options.get("connect_timeout"):
            arguments["timeout"] = float(seconds) if float(seconds) > 0 else None
        tls = {key: options[key] for key in _TLS_FOR_ASYNCPG if options.get(key)}
        if tls:
            # asyncpg takes certificates' paths only from a URI's query.
            arguments["dsn"] = "postgresql:///?" + urlencode(tls, quote_via=quote)
        settings = _session_settings(options.get("options", ""))
        if name := options.get("application_name"):
            settings["application_name"] = name
        if settings:
            arguments["server_settings"] = settings
        return arguments

    def _changed(self, changes: Mapping[str, str | None]) -> "ConnInfo":
        merged = {**self.options, **changes}
        return ConnInfo({key: value for key, value in merged.items() if value is not None})


def needs_password(info: ConnInfo) -> bool:
    """Whether the server asks for a password that nothing supplies (one short connection)."""
    conn = pq.PGconn.connect(info.settled().with_options(connect_timeout="10").dsn().encode())
    try:
        return conn.status == pq.ConnStatus.BAD and conn.needs_password
    finally:
        conn.finish()


def redact(text: str) -> str:
    """*text* with anything that looks like a password in a connection string blanked."""
    text = re.sub(r"(\b\w+://[^\s:/@]*):[^\s@]*@", r"\1:***@", text)
    return re.sub(r"(?i)\b((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)", r"\1***", text)


@dataclass(frozen=True, slots=True)
class _LibpqOption:
    keyword: str
    envvar: str
    value: str


def _libpq_options() -> list[_LibpqOption]:
    return [
        _LibpqOption(
            option.keyword.decode(),
            (option.envvar or b"").decode(),
            (option.val or b"").decode(errors="surrogateescape"),
        )
        for option in pq.Conninfo.get_defaults()
    ]


def _service_options(name: str) -> dict[str, str]:
    """What a service stands for, read by libpq, which takes its name from the environment."""
    with _ENVIRONMENT:
        before = os.environ.pop("PGSERVICE", None)
        try:
            plain = {option.keyword: option.value for option in _libpq_options()}
            os.environ["PGSERVICE"] = name
            found = {option.keyword: option.value for option in _libpq_options()}
        finally:
            os.environ.pop("PGSERVICE", None)
            if before is not None:
                os.environ["PGSERVICE"] = before
    return {
        keyword: value
        for keyword, value in found.items()
        if value and value != plain.get(keyword) and keyword != "service"
    }


def _environment_defaults() -> dict[str, str]:
    """What libpq would take from ``PG…`` variables, and its default user."""
    defaults: dict[str, str] = {}
    for option in _libpq_options():
        set_outside = option.envvar and os.environ.get(option.envvar)
        if option.value and (set_outside or option.keyword == "user"):
            defaults[option.keyword] = option.value
    return defaults


def _is_port(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit() and 0 < int(text) < 65536)


def _default_host(port: str) -> str:
    for directory in _SOCKET_DIRECTORIES:
        if Path(directory, f".s.PGSQL.{port}").exists():
            return directory
    return "localhost"


def _session_settings(options: str) -> dict[str, str]:
    """``-c name=value`` and ``--name=value`` out of libpq's ``options``."""
    words = [
        re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\s\\])+", options.strip())
    ]
    settings: dict[str, str] = {}
    pending = False
    for word in words:
        if word == "-c":
            pending = True
            continue
        body = word[2:] if word.startswith(("-c", "--")) else word if pending else ""
        pending = False
        name, equals, value = body.partition("=")
        if equals:
            settings[name.replace("-", "_")] = value
    return settings


def _reading_hint(text: str, libpq_says: str) -> str:
    for option in _FOREIGN_OPTIONS:
        if f'"{option}"' in libpq_says and f"{option}=" in text:
            return (
                f"Remove `{option}=…` from it: that is an option of another client, "
                "not of PostgreSQL."
            )
    if "://" in text:
        return (
            "Write postgresql://user@host:5432/database, with the special characters of a password "
            "percent-encoded (@ is %40, / is %2F, # is %23, : is %3A, ? is %3F)."
        )
    return "Write postgresql://user@host:5432/database, or key=value pairs as libpq takes them."


def supabase_project(info: ConnInfo) -> str:
    """The reference of the hosted Supabase project that *info* leads to; "" for others."""
    options = info.settled().options
    for pattern, value in _PROJECT:
        if found := re.search(pattern, options.get(value, "")):
            return found[1]
    return ""


_PROJECT = (
    (r"^db\.([a-z0-9]{16,})\.supabase\.(?:co|red|in)$", "host"),
    (r"^[^.]+\.([a-z0-9]{16,})$", "user"),  # the poolers' form: postgres.<project-ref>
)
