"""New code on a database that is not migrated yet, and old code on one that is ahead of it."""

import asyncio
import os
import sqlite3
import subprocess
import sys

import httpx
import pytest
from django.db import OperationalError, ProgrammingError
from django.db.migrations.loader import MigrationLoader

from accounts.migration_state import MigrationState
from tests.servers import ROOT, Worker, wait_until

pytestmark = pytest.mark.once


@pytest.fixture
def database(tmp_path):
    """A database of its own: its file, and what migrates it."""
    file = tmp_path / "site.sqlite3"
    environment = {**os.environ, "DATABASE_URL": f"sqlite:///{file}"}

    def migrate(*target):
        command = [sys.executable, "manage.py", "migrate", "-v0", *target]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)

    return file, migrate


class Gateway(Worker):
    """One that need not be ready."""

    def __enter__(self):
        self.start()
        wait_until(lambda: self.ready() != (None, ""), "it answers", within=120)
        return self

    def ready(self):
        try:
            response = httpx.get(f"{self.url}/health/ready")
        except httpx.HTTPError:
            return None, ""
        return response.status_code, response.json().get("reason", "")


def last_and_the_one_before(app):
    graph = MigrationLoader(None).graph
    (last,) = graph.leaf_nodes(app)
    before = next(key for key in graph.node_map[last].parents if key[0] == app)
    return last[1], before[1]


def test_it_is_ready_once_migrate_has_run(live, llama, database, capfd):
    file, migrate = database
    last, before = last_and_the_one_before("accounts")
    migrate()
    migrate("accounts", before)
    with Gateway(llama, DATABASE_URL=f"sqlite:///{file}") as server:
        wait_until(lambda: server.ready()[0] == 503 and "pending" in server.ready()[1], "it says so")
        told = f"The database is not migrated: accounts.{last} is pending. Run `manage.py migrate`."
        assert server.ready() == (503, told)
        migrate()
        wait_until(lambda: server.ready() == (200, ""), "it is ready", within=120)
    assert capfd.readouterr().err.count(told) == 1


def test_an_empty_database_is_told_from_a_missing_one(live, llama, database):
    file, _ = database
    with Gateway(llama, DATABASE_URL=f"sqlite:///{file}") as server:
        status, reason = server.ready()
    assert status == 503
    assert reason.startswith("The database is not migrated: ")
    assert reason.endswith(" more migrations are pending. Run `manage.py migrate`.")


def test_old_code_on_a_newer_schema_is_ready(live, llama, database):
    file, migrate = database
    migrate()
    with sqlite3.connect(file) as newer:
        newer.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('accounts', '9999_later', '2030-01-01')"
        )
    newer.close()
    with Gateway(llama, DATABASE_URL=f"sqlite:///{file}") as server:
        wait_until(lambda: server.ready() == (200, ""), "it is ready", within=120)


@pytest.mark.parametrize(
    ("fault", "is_fine"),
    [(OperationalError("gone"), False), (ProgrammingError("permission denied for table django_migrations"), True)],
)
def test_only_a_database_that_refuses_to_tell_is_taken_as_it_is(fault, is_fine):
    def look():
        raise fault

    async def problem():
        state = MigrationState(look)
        await state.start()
        await state.stop()
        return state.problem

    assert (asyncio.run(problem()) is None) == is_fine
