"""The schema: what the migrations make is what the tables say, and an older file is brought forward with what it holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event

from ragline.clock import SystemClock
from ragline.connections.database import Database, sqlite_url
from ragline.connections.schema import ENVIRONMENT
from ragline.registry.documents import Documents
from ragline.registry.migrations import SCHEMA
from ragline.registry.tables import metadata
from ragline.types import State

_OLD = """INSERT INTO documents (id, namespace, uri, title, size, sha256, fingerprint, revision, content, settled, garbage, sweep,
state, attempt, lease_until, groups, metadata, received_at, updated_at, verified_at)
VALUES ('d1', 'n', 'a.txt', 'A', 1, 'x', 'x', 1, 1, 1, '[]', 0, 'indexed', 0, 0, '["hr"]', '{}', 1, 1, 1)"""


async def test_the_migrations_make_what_the_tables_say(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "registry.sqlite")
    await (await Database.open(url, SCHEMA)).aclose()
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_head_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(ENVIRONMENT))
    config.set_main_option("version_locations", str(SCHEMA.folder))
    config.set_main_option("path_separator", "newline")
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA.head


async def test_a_file_of_the_first_version_is_brought_forward(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite"
    replace(SCHEMA, head="0001").upgrade(sqlite_url(path), None)
    with sqlite3.connect(path) as connection:
        connection.execute(_OLD)
    connection.close()
    database = await Database.open(sqlite_url(path), SCHEMA)
    try:
        found = await Documents(database, SystemClock()).get("n", "d1")
    finally:
        await database.aclose()
    assert (found.state, found.groups, found.parent, found.depth, found.members) == (
        State.INDEXED,
        frozenset({"hr"}),
        None,
        0,
        0,
    )


@pytest.mark.parametrize("start", [None, "0001"])
def test_an_upgrade_that_ends_at_any_statement_is_begun_again(tmp_path: Path, start: str | None) -> None:
    fresh = tmp_path / "fresh.sqlite"
    SCHEMA.upgrade(sqlite_url(fresh), None)
    number = 0
    while True:
        number += 1
        path = tmp_path / f"{number}.sqlite"
        if start:
            replace(SCHEMA, head=start).upgrade(sqlite_url(path), None)
        before = schema(path)
        try:
            with ending_at(number):
                SCHEMA.upgrade(sqlite_url(path), start)
        except _Ended:
            assert schema(path) == before, f"statement {number} left half a schema"
            SCHEMA.upgrade(sqlite_url(path), start)
            assert schema(path) == schema(fresh)
        else:
            break
    assert number > 8, "the statements of three revisions were counted"
    assert schema(path) == schema(fresh)


class _Ended(Exception):
    """As a killed process: nothing is said to the database any more."""


@contextmanager
def ending_at(number: int) -> Iterator[None]:
    """Statement `number` of whatever runs in the block is not sent."""
    left = number

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise _Ended

    event.listen(Engine, "before_cursor_execute", count)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", count)


def schema(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as sql:
        found: list[Any] = sql.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        if any(name == "alembic_version" for _, name, _ in found):
            found += sql.execute("SELECT version_num FROM alembic_version").fetchall()
        return found
