"""Errors of the drivers in our own words."""

import errno

import asyncpg
import psycopg
import pytest

from aurora import errors
from aurora.errors import AuroraError
from aurora.postgres.errors import Side, is_disconnect, translate, translated


@pytest.mark.parametrize(
    "state,source,target",
    [
        ("28P01", errors.SourcePrivilege, errors.TargetUnfit),
        ("28000", errors.SourcePrivilege, errors.TargetUnfit),
        ("3D000", errors.SourceUnsupported, errors.TargetUnfit),
        ("42501", errors.SourcePrivilege, errors.TargetUnfit),
        ("53300", errors.SourceUnreachable, errors.TargetUnreachable),
        ("57P01", errors.SourceUnreachable, errors.TargetUnreachable),
        ("57P03", errors.SourceUnreachable, errors.TargetUnreachable),
        ("08006", errors.SourceUnreachable, errors.TargetUnreachable),
        ("53100", errors.SourceError, errors.TargetUnfit),
        ("55P03", errors.SourceChanged, errors.TargetRefused),
        ("57014", errors.SourceError, errors.TargetRefused),
        ("25006", errors.SourceUnsupported, errors.TargetUnfit),
        ("XX001", errors.SourceError, errors.TargetRefused),
    ],
)
def test_each_sqlstate_says_what_to_do(
    state: str, source: type[AuroraError], target: type[AuroraError]
) -> None:
    """The class decides the exit code, the hint what to do next; for both drivers alike."""
    for raised in (psycopg.errors.lookup(state)("said"), _asyncpg(state)):
        for side, expected in (("source", source), ("target", target)):
            told = translate(raised, side, doing="reading table a")  # type: ignore[arg-type]
            assert type(told) is expected
            assert told.hint
            assert told.message.startswith("reading table a: said")
            assert told.context == {"sqlstate": state}


def _asyncpg(state: str) -> asyncpg.PostgresError:
    return asyncpg.PostgresError.new({"C": state, "M": "said", "S": "ERROR"})


def test_an_unknown_sqlstate_is_still_an_error_of_that_side() -> None:
    """Nothing else leaves the door."""
    assert type(translate(_asyncpg("22012"), "source")) is errors.SourceError
    assert type(translate(_asyncpg("22012"), "target")) is errors.TargetRefused


@pytest.mark.parametrize(
    "said,kind",
    [
        ('connection failed: connection to server at "1.2.3.4", port 5 failed: Connection refused',
         errors.SourceUnreachable),
        ('connection failed: FATAL:  password authentication failed for user "a"',
         errors.SourcePrivilege),
        ('connection to server at "h", port 1 failed: FATAL:  sorry, too many clients already',
         errors.SourceUnreachable),
        ("connection failed: fe_sendauth: no password supplied", errors.SourcePrivilege),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4"', errors.SourcePrivilege),
        ("server does not support SSL, but SSL was required", errors.SourceUnsupported),
        ("SSL error: certificate verify failed", errors.SourceUnreachable),
        ("FATAL:  the database system is starting up", errors.SourceUnreachable),
        ('FATAL:  database "x" does not exist', errors.SourceUnsupported),
        ('FATAL:  role "x" does not exist', errors.SourcePrivilege),
    ],
)  # fmt: skip
def test_failures_to_connect_are_told_apart_by_their_words(
    said: str, kind: type[AuroraError]
) -> None:
    """libpq gives no SQLSTATE for them."""
    told = translate(psycopg.OperationalError(said), "source")
    assert type(told) is kind
    assert told.hint
    assert "FATAL" not in told.message
    assert "\n" not in told.message


def test_a_password_in_a_foreign_message_is_blanked() -> None:
    """Whatever the driver quotes."""
    told = translate(psycopg.OperationalError("bad dsn postgres://u:hunter2@h/d"), "source")
    assert "hunter2" not in told.message


def test_rows_of_the_user_stay_out_of_messages() -> None:
    """DETAIL and CONTEXT may quote values; only the primary message is told."""
    raised = asyncpg.PostgresError.new(
        {"C": "23505", "M": "duplicate key", "D": "Key (email)=(a@b.c) exists", "S": "ERROR"}
    )
    assert translate(raised, "target").message == "duplicate key"


@pytest.mark.parametrize(
    "raised",
    [
        psycopg.OperationalError("gone"),
        asyncpg.InterfaceError("connection is closed"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError(),
        OSError(errno.ENOSPC, "No space left on device", "/tmp/x"),
    ],
)
@pytest.mark.parametrize("side", ["source", "target"])
def test_only_our_errors_leave_the_door(raised: Exception, side: Side) -> None:
    """The foreign error stays as the cause."""
    with pytest.raises(AuroraError) as caught, translated(side, doing="reading"):
        raise raised
    assert caught.value.__cause__ is raised
    assert caught.value.message.startswith("reading: ")


def test_our_own_errors_pass_unchanged() -> None:
    """And mistakes of ours are not dressed up as errors of the server."""
    own = errors.SourceChanged("x")
    with pytest.raises(errors.SourceChanged) as caught, translated("source"):
        raise own
    assert caught.value is own
    with pytest.raises(ZeroDivisionError), translated("source"):
        raise ZeroDivisionError


def test_a_lost_connection_is_known_as_such() -> None:
    """A retry opens a new connection for these only."""
    assert is_disconnect(_asyncpg("57P01"))
    assert is_disconnect(ConnectionResetError())
    assert is_disconnect(psycopg.OperationalError("gone"))
    assert not is_disconnect(_asyncpg("42P01"))
    assert not is_disconnect(psycopg.errors.UndefinedTable("x"))
