"""Connection strings: read, told to people without secrets, handed to each driver."""

import os
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora.errors import UsageError
from aurora.postgres.conninfo import ConnInfo, redact

SECRET = "p@ss/w:rd #1?"
URI = "postgresql://app:p%40ss%2Fw%3Ard%20%231%3F@db.example.org:6000/shop?sslmode=require"


@pytest.fixture(autouse=True)
def no_libpq_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer has set does not change these tests."""
    for name in list(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)


def test_a_uri_and_key_values_say_the_same() -> None:
    """Both of libpq's forms are read by libpq's own parser."""
    other = "host=db.example.org port=6000 user=app dbname=shop sslmode=require"
    assert ConnInfo.parse(URI).options == {**ConnInfo.parse(other).options, "password": SECRET}


def test_nothing_that_is_shown_holds_the_password() -> None:
    """Neither repr, nor str, nor the forms for people and for the file."""
    info = ConnInfo.parse(URI)
    for text in (repr(info), str(info), info.redacted(), info.uri(), repr([info])):
        assert SECRET not in text
        assert "p%40ss" not in text
    assert info.redacted() == "app@db.example.org:6000/shop"
    assert info.uri() == "postgresql://app@db.example.org:6000/shop?sslmode=require"


def test_the_string_for_libpq_keeps_the_password() -> None:
    """dsn() goes to drivers only, and comes back whole."""
    assert ConnInfo.parse(ConnInfo.parse(URI).dsn()).password == SECRET


def test_changes_make_copies() -> None:
    """with_dbname, with_password and without_secrets leave the original alone."""
    info = ConnInfo.parse(URI)
    assert info.with_dbname("other db").dbname == "other db"
    assert info.with_password("x").password == "x"
    assert info.without_secrets().password is None
    assert (info.dbname, info.password) == ("shop", SECRET)


@pytest.mark.parametrize(
    "dsn",
    [
        "",
        "   ",
        "postgresql://u:hunter2secret@host:badport/db",
        "postgresql://u:p@ss@/w@host/db?hunter2secret",
        "host=h password='hunter2secret",
        "hunter2secret",
        "host=h nonsense=hunter2secret",
        "mysql://u:hunter2secret@h/db",
    ],
)
def test_a_string_that_cannot_be_read_is_refused_without_quoting_it(dsn: str) -> None:
    """A badly escaped password must not come out in the error."""
    with pytest.raises(UsageError) as caught:
        ConnInfo.parse(dsn)
    error = caught.value
    assert "hunter2secret" not in f"{error.message}{error.hint}{error.context}{error.__cause__}"
    assert error.hint


def test_an_option_of_another_client_is_named() -> None:
    """People paste URIs made for Prisma."""
    with pytest.raises(UsageError) as caught:
        ConnInfo.parse("postgresql://u@h/db?pgbouncer=true")
    assert "pgbouncer" in caught.value.hint


def test_the_placeholder_of_the_supabase_dashboard_is_recognised() -> None:
    """[YOUR-PASSWORD] is not a password."""
    with pytest.raises(UsageError, match="placeholder"):
        ConnInfo.parse("postgresql://postgres:[YOUR-PASSWORD]@db.abc.supabase.co:5432/postgres")


def test_libpq_tools_get_everything_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing that the user's own PG variables would add or override."""
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("PGSSLROOTCERT", "/ca.pem")
    environment = ConnInfo.parse(URI).as_environment({"PATH": "/bin", "PGSERVICE": "x"})
    assert environment == {
        "PATH": "/bin",
        "PGHOST": "db.example.org",
        "PGPORT": "6000",
        "PGUSER": "app",
        "PGDATABASE": "shop",
        "PGPASSWORD": SECRET,
        "PGSSLMODE": "require",
        "PGSSLROOTCERT": "/ca.pem",
    }


def test_what_is_not_said_comes_from_libpqs_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with psql: PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD."""
    for name, value in {
        "PGHOST": "h", "PGPORT": "7", "PGUSER": "u", "PGDATABASE": "d", "PGPASSWORD": "p",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    info = ConnInfo.parse("host=other").settled()
    assert info.options == {
        "host": "other",
        "port": "7",
        "user": "u",
        "dbname": "d",
        "password": "p",
    }


def test_without_a_host_the_socket_directory_that_has_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psycopg's, asyncpg's and the system's libpq have different ones compiled in."""
    (tmp_path / ".s.PGSQL.5999").touch()
    monkeypatch.setattr("aurora.postgres.conninfo._SOCKET_DIRECTORIES", (str(tmp_path),))
    assert ConnInfo.parse("port=5999 user=u").host == str(tmp_path)
    assert ConnInfo.parse("port=5998 user=u").host == "localhost"


def test_the_database_defaults_to_the_users_name() -> None:
    """As libpq does."""
    assert ConnInfo.parse("host=h user=someone").dbname == "someone"


def test_asyncpg_gets_its_own_words() -> None:
    """dbname is database, ports are numbers, TLS goes by the query of a URI."""
    arguments = ConnInfo.parse(URI + "&sslrootcert=/a/ca.pem&connect_timeout=7").asyncpg_arguments()
    assert arguments == {
        "host": "db.example.org",
        "port": 6000,
        "user": "app",
        "password": SECRET,
        "database": "shop",
        "timeout": 7.0,
        "dsn": "postgresql:///?sslmode=require&sslrootcert=%2Fa%2Fca.pem",
    }


@pytest.mark.parametrize(
    "dsn,expected",
    [
        ("host=/var/run/pg user=u dbname=d", {"host": "/var/run/pg", "port": 5432}),
        ("host=h hostaddr=10.0.0.1 user=u dbname=d", {"host": "10.0.0.1", "port": 5432}),
        (
            "host=h hostaddr=10.0.0.1 user=u dbname=d sslmode=verify-full",
            {"host": "h", "port": 5432, "dsn": "postgresql:///?sslmode=verify-full"},
        ),
        (
            "host=a,b port=1,2 user=u dbname=d target_session_attrs=read-write",
            {
                "host": ["a", "b"],
                "port": [1, 2],
                "dsn": "postgresql:///?target_session_attrs=read-write",
            },
        ),
        (
            "host=h user=u dbname=d application_name=me options='-cjit=off --x=\\\\ b -c geqo=off'",
            {
                "host": "h",
                "port": 5432,
                "server_settings": {
                    "jit": "off",
                    "x": " b",
                    "geqo": "off",
                    "application_name": "me",
                },
            },
        ),
        (
            "host=h user=u dbname=d keepalives=1 fallback_application_name=x gssdelegation=0",
            {"host": "h", "port": 5432},
        ),
    ],
)
def test_each_libpq_option_reaches_asyncpg_or_is_left_out(
    dsn: str, expected: dict[str, object]
) -> None:
    """Socket directories, hostaddr, several hosts, options."""
    arguments = ConnInfo.parse(dsn).asyncpg_arguments()
    assert arguments == {"user": "u", "database": "d", **expected}


@pytest.mark.parametrize(
    "text,clean",
    [
        ("postgresql://u:secret@h/d", "postgresql://u:***@h/d"),
        ("failed: password=secret host=h", "failed: password=*** host=h"),
        ("password='se cr\\'et' host=h", "password=*** host=h"),
        ("x?sslpassword=secret&y=1", "x?sslpassword=***&y=1"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_passwords_are_blanked_in_foreign_text(text: str, clean: str) -> None:
    """For error messages and crash reports."""
    assert redact(text) == clean


PRINTABLE = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(user=PRINTABLE, password=PRINTABLE, dbname=PRINTABLE)
def test_any_name_and_password_goes_through_every_form(
    user: str, password: str, dbname: str
) -> None:
    """Quotes, spaces, backslashes, slashes and non-ASCII letters."""
    info = ConnInfo(
        {"host": "h", "port": "5432", "user": user, "password": password, "dbname": dbname}
    )
    assert ConnInfo.parse(info.dsn()).options == info.options
    assert ConnInfo.parse(info.uri()).options == info.without_secrets().options
    arguments = info.asyncpg_arguments()
    assert (arguments["user"], arguments["password"], arguments["database"]) == (
        user,
        password,
        dbname,
    )
    assert psycopg.conninfo.conninfo_to_dict(info.dsn())["password"] == password
