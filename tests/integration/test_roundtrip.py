"""Backup and restore give the same database: real applications, every major, newer majors."""

from pathlib import Path

import pytest

from aurora.demo import sample
from aurora.postgres.embedded import EmbeddedServer
from tests.fixtures.looks import compare, copy_natively, look, run_file
from tests.fixtures.postgres import NewDatabase, Servers
from tests.fixtures.projects import NewTarget, Project

pytest_plugins = ["tests.fixtures.sample", "tests.fixtures.backups"]

FILES = ("chinook.sql", "northwind.sql", "pagila.sql")
UPGRADES = [(15, 16), (15, 18), (17, 18)]


@pytest.mark.pg_majors(15, 16, 17, 18)
@pytest.mark.parametrize("file", FILES)
def test_sample_databases(
    file: str,
    shared_data: Path,
    pg: EmbeddedServer,
    project: Project,
    new_database: NewDatabase,
    new_target: NewTarget,
) -> None:
    """Real schemas and rows come back the same on the same major."""
    source, target = new_database(), new_target()
    run_file(source, (shared_data / file).read_text(), pg.major)

    made = project.backup(source)
    report = project.restore(target)

    assert (report.outcome, report.refusals, report.problems) == ("restored", [], [])
    assert report.rows == made.rows > 0
    compare(source, target)


@pytest.mark.parametrize("old,new", UPGRADES)
@pytest.mark.parametrize("file", FILES)
def test_sample_databases_into_a_newer_major(
    file: str,
    old: int,
    new: int,
    shared_data: Path,
    pg_servers: Servers,
    project: Project,
    new_database: NewDatabase,
    new_target: NewTarget,
) -> None:
    """They come back the same on a newer server."""
    source, target = new_database(pg_servers[old]), new_target(pg_servers[new])
    run_file(source, (shared_data / file).read_text(), old)

    project.backup(source)
    report = project.restore(target)

    assert (report.outcome, report.refusals, report.problems) == ("restored", [], [])
    compare(source, target)


@pytest.mark.pg_majors(15, 16, 17, 18)
def test_demo_application(project: Project, sample_database: str, new_target: NewTarget) -> None:
    """The sample has about everything that PostgreSQL lets people make."""
    target = new_target()

    made = project.backup(sample_database, mirrored=True)
    report = project.restore(target)

    assert made.replicated
    assert (report.outcome, report.refusals, report.problems) == ("restored", [], [])
    compare(sample_database, target)


def test_from_the_secondary_alone(
    project: Project, sample_database: str, new_target: NewTarget
) -> None:
    """The mirror holds everything that a restore needs."""
    project.backup(sample_database, mirrored=True)
    target = new_target()

    report = project.restore(target, from_mirror=True)

    assert report.outcome == "restored"
    compare(sample_database, target)


@pytest.mark.parametrize("old,new", UPGRADES)
def test_demo_application_into_a_newer_major(
    old: int,
    new: int,
    pg_servers: Servers,
    project: Project,
    new_database: NewDatabase,
    new_target: NewTarget,
) -> None:
    """The sample with its roles, onto a newer server, is what PostgreSQL's own upgrade gives."""
    source, target = new_database(pg_servers[old]), new_target(pg_servers[new])
    sample.load(source, megabytes=2)

    project.backup(source)
    report = project.restore(target, with_roles=True)

    upgraded = new_database(pg_servers[new])  # a newer server words views in its own way
    copy_natively(source, upgraded)
    assert (report.outcome, report.refusals, report.problems) == ("restored", [], [])
    compare(upgraded, target)
    assert look(source).rows == look(target).rows
