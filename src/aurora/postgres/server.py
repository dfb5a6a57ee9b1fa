"""What a server is and what its role may do, found out before any long work.

:func:`open_control` opens the connection that coordinates: autocommit, every timeout
pinned off for the session. :func:`inspect_server` asks it for :class:`ServerFacts`;
what a managed server forbids to look at is None, never a failure.
"""

import secrets
from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row, tuple_row

from aurora.errors import SourceUnsupported, TargetUnfit
from aurora.postgres.conninfo import ConnInfo
from aurora.postgres.errors import Side, translated

OLDEST_MAJOR = 14
PINNING_TRIES = 5  # until a session's timeouts are off, they strike what switches them off
# The poolers' well-known port of transaction mode (Supavisor, Supabase's PgBouncer).
TRANSACTION_POOLER_PORT = "6543"

_Connection = psycopg.Connection[tuple[object, ...]]
_DIRECT: set[tuple[str, int, str]] = set()  # addresses proven to be no transaction pooler

# Set by SET after connecting: a pooler drops what a startup packet asks for.
_SESSION_SETTINGS = {
    "statement_timeout": "0",
    "client_encoding": "UTF8",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "search_path": "pg_catalog",
    "default_transaction_read_only": "off",
}
_ABSENT_BEFORE = {"transaction_timeout": 170000}

_SETTINGS_THAT_MATTER = (
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "lock_timeout",
    "max_connections",
    "superuser_reserved_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_worker_processes",
    "wal_level",
    "max_replication_slots",
    "max_wal_senders",
    "max_slot_wal_keep_size",
    "default_transaction_read_only",
    "data_checksums",
    "block_size",
    "server_version",
    "TimeZone",
    "ssl",
)

_FACTS = """
    SELECT d.oid::bigint, pg_catalog.pg_encoding_to_char(d.encoding) AS encoding,
           d.datname, d.datcollate, d.datctype,
           -- columns that came with 15 and 17: read by name, so that 14 does not mind
           COALESCE(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c') AS provider,
           COALESCE(pg_catalog.to_jsonb(d) ->> 'datlocale',
                    pg_catalog.to_jsonb(d) ->> 'daticulocale') AS locale,
           pg_catalog.pg_database_size(d.oid) AS size,
           r.rolname, r.rolsuper, r.rolbypassrls, r.rolreplication, r.rolcreatedb, r.rolcreaterole,
           pg_catalog.pg_is_in_recovery() AS in_recovery
    FROM pg_catalog.pg_database d
    CROSS JOIN pg_catalog.pg_roles r
    WHERE d.datname = pg_catalog.current_database() AND r.rolname = current_user
"""


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """The connected role and what it may do."""

    name: str
    superuser: bool
    bypasses_row_security: bool
    replication: bool
    creates_databases: bool
    creates_roles: bool
    reads_all_data: bool  # member of pg_read_all_data


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One server and database, as seen through one connection."""

    version_num: int  # 160004
    version: str  # "16.4 (Debian 16.4-1)"
    system_identifier: int | None  # None: the role may not read it
    timeline: int | None
    in_recovery: bool
    database: str
    database_oid: int
    database_size: int | None  # bytes
    encoding: str
    collate: str
    ctype: str
    locale_provider: str  # "c" libc, "i" ICU, "b" builtin
    locale: str | None  # the ICU or builtin locale
    role: RoleFacts
    settings: dict[str, str] = field(repr=False)
    tls: bool
    is_supabase: bool

    @property
    def major(self) -> int:
        return self.version_num // 10000


def open_control(
    dsn: str | ConnInfo, *, what: Side = "source", connect_timeout: int = 15
) -> psycopg.Connection[tuple[object, ...]]:
    """An autocommit connection with all of the session's timeouts off.

    Raises SourceUnreachable, SourcePrivilege, SourceUnsupported, or their target twins.
    """
    info = (ConnInfo.parse(dsn) if isinstance(dsn, str) else dsn).settled()
    options: dict[str, str] = {
        "application_name": "aurora",
        "client_encoding": "UTF8",
        "keepalives": "1",
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "6",
    }
    if "connect_timeout" not in info.options:
        options["connect_timeout"] = str(connect_timeout)
    with translated(what, doing=f"connecting to the {what} {info.redacted()}"):
        conn: _Connection = psycopg.Connection.connect(
            info.with_options(**options).dsn(), autocommit=True, row_factory=tuple_row
        )
        try:
            for patience in range(PINNING_TRIES, 0, -1):
                try:
                    # Before anything is SET: through a transaction pooler it would reach,
                    # and could break, the sessions of the user's own application.
                    _refuse_pooler(transaction_pooler(conn), what)
                    pin_session(conn)
                    break
                except psycopg.errors.QueryCanceled:
                    if patience == 1:
                        raise
        except BaseException:
            conn.close()
            raise
    return conn


def settled_for_programs(info: ConnInfo, *, what: Side = "source") -> ConnInfo:
    """*info* for PostgreSQL's programs, which switch the role's own settings off late or never.

    Raises the errors of :func:`open_control`.
    """
    with open_control(info, what=what) as conn, translated(what, doing="looking at the role"):
        rows = conn.execute(
            "SELECT name FROM pg_catalog.pg_settings WHERE"
            " CASE WHEN name = ANY (%s) THEN reset_val::bigint BETWEEN 1 AND 999"
            " ELSE name = 'default_transaction_read_only' AND reset_val = 'on' END",
            (["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"],),
        ).fetchall()
    # Options are not passed without need: some poolers refuse them.
    options = [info.settled().options.get("options", "")] if rows else []
    options += [f"-c {name}={_SESSION_SETTINGS[str(name)]}" for (name,) in rows]
    changes = {"options": " ".join(options).strip()} if rows else {}
    return info.settled().with_options(**changes)


def pin_session(conn: _Connection) -> None:
    """Switch off every timeout of the session; done by SET, so that a pooler cannot drop it."""
    version = conn.info.server_version
    # One transaction and one round trip; a setting that the server lacks is not asked for.
    pinned = [
        sql.SQL("SET SESSION {} = {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in _SESSION_SETTINGS.items()
        if version >= _ABSENT_BEFORE.get(name, 0)
    ]
    conn.execute(sql.SQL("; ").join(pinned))


def transaction_id(conn: _Connection) -> str:
    """The number of the open transaction, 64 bits; ``pg_xact_status`` knows it afterwards."""
    row = conn.execute("SELECT pg_catalog.pg_current_xact_id()::text").fetchone()
    assert row is not None
    return str(row[0])


def inspect_server(conn: psycopg.Connection[tuple[object, ...]]) -> ServerFacts:
    """All facts about the server behind *conn* (autocommit). Raises psycopg errors."""
    with conn.cursor(row_factory=dict_row) as cursor:
        facts = cursor.execute(_FACTS).fetchone()
    if facts is None:
        raise SourceUnsupported("the server does not describe its own database")
    version_num = conn.info.server_version
    return ServerFacts(
        version_num=version_num,
        version=_setting(conn, "server_version") or str(version_num),
        system_identifier=_system_identifier(conn),
        timeline=_timeline(conn),
        in_recovery=facts["in_recovery"],
        database=facts["datname"],
        database_oid=facts["oid"],
        database_size=facts["size"],
        encoding=facts["encoding"],
        collate=facts["datcollate"],
        ctype=facts["datctype"],
        locale_provider=facts["provider"],
        locale=facts["locale"],
        role=RoleFacts(
            name=facts["rolname"],
            superuser=facts["rolsuper"],
            bypasses_row_security=facts["rolbypassrls"],
            replication=facts["rolreplication"],
            creates_databases=facts["rolcreatedb"],
            creates_roles=facts["rolcreaterole"],
            reads_all_data=_reads_all_data(conn),
        ),
        settings={
            name: value
            for name in _SETTINGS_THAT_MATTER
            if (value := _setting(conn, name)) is not None
        },
        tls=conn.pgconn.ssl_in_use,
        is_supabase=_is_supabase(conn),
    )


def require_usable(facts: ServerFacts, what: Side = "source") -> None:
    """Refuse what cannot work: too old, or a standby (:func:`open_control` refused poolers).

    Raises SourceUnsupported or TargetUnfit, with the reason.
    """
    refuse = SourceUnsupported if what == "source" else TargetUnfit
    if facts.major < OLDEST_MAJOR:
        raise refuse(
            f"the {what} runs PostgreSQL {facts.version}; {OLDEST_MAJOR} or newer is needed",
            hint="Upgrade the server; older ones cannot read row ranges by position.",
        )
    if facts.in_recovery:
        raise refuse(
            f"the {what} is a standby (in recovery)",
            hint="Use the primary's address: a standby cannot take the locks that a "
            "consistent backup needs.",
        )


def _refuse_pooler(reason: str | None, what: Side) -> None:
    if reason is None:
        return
    refuse = SourceUnsupported if what == "source" else TargetUnfit
    raise refuse(
        f"the {what} is reached through a pooler in transaction mode: {reason}",
        hint="A consistent snapshot needs one session. Use the direct address, or the "
        "pooler's session mode (on Supabase: the same host with port 5432).",
    )


def transaction_pooler(conn: _Connection, *, tries: int = 3) -> str | None:
    """Why *conn* looks like a transaction pooler, or None. Leaves nothing that could hurt
    another client of the pooler.

    A server tells its process id at connect, and most poolers make one up. Behind a pooler
    a second connection tells the mode: two live sessions never share a server process.
    """
    marker = f"aurora-{secrets.token_hex(6)}"
    # A setting of our own: some poolers send application_name along to every backend.
    conn.execute(
        sql.SQL("SET LOCAL statement_timeout = 0; "
                "SELECT pg_catalog.set_config('aurora.session', {}, false)").format(marker)
    )  # fmt: skip
    first, seen = _backend(conn)
    for _ in range(tries):
        if seen != marker:
            return "a session setting did not outlive its transaction"
        pid, seen = _backend(conn)
        if pid != first:
            return f"server processes {first} and {pid} answered one session"
    address = (conn.info.host, conn.info.port, conn.info.dbname)
    suspect = conn.info.backend_pid != first or str(conn.info.port) == TRANSACTION_POOLER_PORT
    if not suspect and (address in _DIRECT or _is_local(conn.info.host)):
        return None
    info = make_conninfo(conn.info.dsn, password=conn.info.password or None)
    with psycopg.Connection.connect(info, autocommit=True) as second:
        for _ in range(tries):
            mine, theirs = _backend(conn)[0], _backend(second)[0]
            if mine == theirs:
                return f"server process {mine} answered two sessions at once"
            if mine != first:
                return f"server processes {first} and {mine} answered one session"
    _DIRECT.add(address)  # the second connection is made once, not for each worker
    return None


def _is_local(host: str) -> bool:
    return host.startswith(("/", "@")) or host in ("", "localhost", "127.0.0.1", "::1")


def _backend(conn: _Connection) -> tuple[int, str | None]:
    # One transaction, whose SET reaches nobody else behind a pooler either.
    cursor = conn.execute(
        "SET LOCAL statement_timeout = 0; "
        "SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('aurora.session', true)"
    )
    cursor.nextset()
    row = cursor.fetchone()
    pid, marker = row or (0, None)
    return int(str(pid)), None if marker is None else str(marker)


def _setting(conn: _Connection, name: str) -> str | None:
    row = conn.execute("SELECT pg_catalog.current_setting(%s, true)", (name,)).fetchone()
    return None if row is None or row[0] is None else str(row[0])


def _system_identifier(conn: _Connection) -> int | None:
    try:
        row = conn.execute(
            "SELECT system_identifier FROM pg_catalog.pg_control_system()"
        ).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None
    return int(str(row[0])) if row and row[0] is not None else None


def _timeline(conn: _Connection) -> int | None:
    try:
        row = conn.execute("SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()").fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None
    return int(str(row[0])) if row and row[0] is not None else None


def _reads_all_data(conn: _Connection) -> bool:
    row = conn.execute(
        "SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_data', 'USAGE')"
    ).fetchone()
    return bool(row and row[0])


def _is_supabase(conn: _Connection) -> bool:
    row = conn.execute(
        "SELECT pg_catalog.count(*) FROM pg_catalog.pg_roles "
        "WHERE rolname IN ('anon', 'authenticated', 'service_role', 'supabase_admin', "
        "'supabase_auth_admin', 'supabase_storage_admin')"
    ).fetchone()
    return bool(row and int(str(row[0])) >= 3)
