"""The SQLite ledger: files of earlier schemas, and numbers beyond those that they had room for."""

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.plugins.ledgers.conftest import LedgerUnderTest, sqlite_subject

from palaver.errors import ConfigurationError
from palaver.exports import collect_export
from palaver.ledger import StorageUsage
from palaver.messages import Conversation
from palaver_plugins.ledgers.sqlite import migrations

SCHEMA_3 = Path(__file__).parent / "data" / "sqlite_schema_3.sql"
"""Dump of a file that the release with schema 3 has written."""
WRITTEN_AT = 1_790_000_000.0
HIGH = 2**32 - 2
"""Schema 3 had room for 2 ** 32 numbers in a conversation, then came the next one's rows."""


def run_sql(path: Path, script: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def schema_of(path: Path) -> list[str]:
    """Return the statements that made the tables, without comments and white space."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    return sorted(re.sub(r"--[^\n]*|[\s\"]", "", sql) for (sql,) in found)


@pytest.fixture
async def migrated(tmp_path: Path) -> AsyncIterator[LedgerUnderTest]:
    await asyncio.to_thread(run_sql, tmp_path / "ledger.sqlite", SCHEMA_3.read_text())
    async with sqlite_subject(tmp_path) as subject:
        subject.require_clock().now = WRITTEN_AT + 60.0
        await subject.reopen()
        yield subject
        await subject.ledger.close()


def thread(name: str) -> Conversation:
    return Conversation("acme", "web", name)


async def test_a_file_of_schema_3_keeps_every_conversation(migrated: LedgerUnderTest) -> None:
    ledger = migrated.ledger
    snapshot = await ledger.snapshot(thread("long"), 10)
    assert [entry.text for entry in snapshot.history] == [
        text for number in range(3) for text in (f"question {number}", f"answer {number}")
    ]
    assert len(await migrated.read_stream(thread("long"))) == snapshot.cursor.offset == 15
    assert await ledger.members(thread("group")) == {"ada", "bob"}
    assert [letter.reply for letter in await ledger.dead_letters(10)] == ["half"]
    assert await ledger.recall("acme", "ada", "chat.name") == "Ada"


async def test_a_file_of_schema_3_keeps_its_turns(migrated: LedgerUnderTest) -> None:
    receipt = await migrated.ledger.accept(
        migrated.make_message("question 0", thread="long", id="long-0")
    )
    assert receipt.duplicate
    assert (await migrated.ledger.stop(thread("long"), receipt.turn))[0] == "settled"
    claim = await migrated.claim()
    assert (claim.message.text, claim.reply, claim.attempt) == ("run", "partial", 2)
    assert [message.text for message in claim.steering_messages] == ["steer"]
    assert [step.number for step in claim.journal] == [0]
    await migrated.settle(claim, *migrated.reply_entries(claim, ", and the rest")[2:])
    assert (await migrated.answer_turn()).message.text == "steer"
    assert (await migrated.answer_turn()).message.text == "wait"
    await migrated.accept("this one", thread="asked", person="bob")
    question = (await migrated.claim()).pending_question
    assert question is not None
    assert question.reply == "which?"


async def test_a_file_of_schema_3_erases_people(migrated: LedgerUnderTest) -> None:
    erased = await migrated.ledger.erase("acme", "ada")
    assert (erased.conversations, erased.dead_letters, erased.memories) == (4, 1, 1)
    assert b"question 1" not in await migrated.dump()
    history = (await migrated.ledger.snapshot(thread("group"), 10)).history
    assert [entry.text for entry in history] == ["me too", "to bob"]


async def test_a_file_of_schema_3_gets_indexes_and_counters(migrated: LedgerUnderTest) -> None:
    export = await collect_export(migrated.ledger.export("acme", "ada"))
    assert "poison" in [message.text for message in export.pending]
    usage = await migrated.ledger.storage_usage("acme", "ada")
    assert usage.conversations == 4
    assert usage.bytes > 500
    assert (await migrated.ledger.storage_usage("acme")).conversations == 5
    for person in ("ada", "bob"):
        await migrated.ledger.erase("acme", person)
    assert await migrated.ledger.storage_usage("acme") == StorageUsage()


async def test_a_migrated_file_has_the_schema_of_a_new_one(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    for directory in (new, old):
        directory.mkdir()
    await asyncio.to_thread(run_sql, old / "ledger.sqlite", SCHEMA_3.read_text())
    for directory in (new, old):
        async with sqlite_subject(directory) as subject:
            await subject.ledger.start()
            await subject.ledger.close()
    assert schema_of(old / "ledger.sqlite") == schema_of(new / "ledger.sqlite")


async def test_a_migration_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.sqlite"
    await asyncio.to_thread(run_sql, path, SCHEMA_3.read_text())
    before = schema_of(path)
    broken = {4: f"{migrations.MIGRATIONS[4]} INSERT INTO no_such_table VALUES (1);"}
    monkeypatch.setattr(migrations, "MIGRATIONS", broken)
    async with sqlite_subject(tmp_path) as subject:
        with pytest.raises(ConfigurationError, match="no_such_table"):
            await subject.ledger.start()
    assert schema_of(path) == before


async def test_a_schema_that_cannot_be_migrated_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    await asyncio.to_thread(run_sql, path, f"{SCHEMA_3.read_text()}; PRAGMA user_version = 2;")
    async with sqlite_subject(tmp_path) as subject:
        with pytest.raises(ConfigurationError, match="move it away"):
            await subject.ledger.start()


# Numbers


@pytest.mark.parametrize("column", ["newest_turn", "last_offset"])
async def test_numbers_beyond_32_bits_stay_in_their_conversation(
    tmp_path: Path, column: str
) -> None:
    async with sqlite_subject(tmp_path) as subject:
        await subject.ledger.start()
        for name in ("first", "second"):
            await subject.accept(f"to {name}", thread=name)
            await subject.answer_turn()
        await subject.ledger.close()
        high = f"UPDATE conversations SET {column} = {HIGH} WHERE name = 'acme/web/first'"
        await asyncio.to_thread(run_sql, tmp_path / "ledger.sqlite", high)
        await subject.reopen()
        for number in range(3):
            turn = await subject.accept(f"again {number}", thread="first")
            assert (await subject.answer_turn(f"reply {number}")).turn == turn
            assert (await subject.ledger.stop(thread("first"), turn)) == ("settled", turn)
        first = await subject.ledger.snapshot(thread("first"), 40)
        assert [entry.text for entry in first.history[2:]] == [
            text for number in range(3) for text in (f"again {number}", f"reply {number}")
        ]
        second = await subject.ledger.snapshot(thread("second"), 40)
        assert [entry.text for entry in second.history] == ["to second", "fine"]
        assert len(await subject.read_stream(thread("second"))) == second.cursor.offset
        await subject.accept("more", thread="second")
        await subject.answer_turn()
        await subject.ledger.close()
