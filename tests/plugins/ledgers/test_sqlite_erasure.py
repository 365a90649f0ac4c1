"""No byte of any file of the SQLite ledger keeps the words of an erased person."""

import asyncio
import contextlib
import logging
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from palaver.ledger import Ledger, MemoryWrite
from palaver.messages import Conversation, Finished, Message, Outcome, Text
from palaver_plugins.ledgers.sqlite import SQLiteLedger, SQLiteLedgerSettings

WORDS = ("qxjzvikku", "wvbbqmopp", "鑫淼焱垚")


@contextlib.asynccontextmanager
async def open_ledger(folder: Path) -> AsyncIterator[Ledger]:
    ledger = SQLiteLedger(SQLiteLedgerSettings(), folder)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.close()


def traces(folder: Path) -> list[str]:
    data = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    return [word for word in WORDS if word.encode() in data]


async def write_words(ledger: Ledger, person: str = "ada") -> None:
    """Leave the words in messages, events, the history, the memory and a dead letter."""
    first, second, third = WORDS
    for number, reason in enumerate(("", f"failed on {first}", "")):
        where = Conversation("default", "web", f"t{number}")
        text = f"{first} {third} " * 50
        await ledger.accept(Message(conversation=where, id="1", person=person, text=text))
        claim = await ledger.claim("worker", lease=60.0, history=10)
        assert claim is not None
        entries = [Text(turn=claim.turn, text=second * 50, position=0)]
        progress = await ledger.append(claim, entries, expect=0, lease=60.0)
        if number < 2:
            outcome: Outcome = "failed" if reason else "done"
            memory = MemoryWrite(person=person, key="chat.name", value=first)
            end = Finished(turn=claim.turn, outcome=outcome, length=len(second) * 50)
            expect = progress.index
            await ledger.settle(claim, [memory, end], expect=expect, dead_letter_reason=reason)


async def erase(ledger: Ledger) -> None:
    await ledger.erase("default", "ada")
    for dead_letter in await ledger.dead_letters(10):
        await ledger.discard_dead_letter(dead_letter.turn)


async def test_an_erased_person_leaves_no_trace(tmp_path: Path) -> None:
    async with open_ledger(tmp_path) as ledger:
        await write_words(ledger)
        assert traces(tmp_path) == list(WORDS)
        await erase(ledger)
        assert traces(tmp_path) == []
    assert traces(tmp_path) == []


async def test_words_in_the_log_of_a_killed_process_go_at_the_next_start(tmp_path: Path) -> None:
    used, killed = tmp_path / "used", tmp_path / "killed"
    used.mkdir()
    async with open_ledger(used) as ledger:
        await write_words(ledger)
        with contextlib.closing(sqlite3.connect(used / "ledger.sqlite")) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            await erase(ledger)
            await asyncio.to_thread(shutil.copytree, used, killed)
    assert traces(killed), "the reader kept the words in the log"
    async with open_ledger(killed) as ledger:
        await ledger.queue_depth()
        assert traces(killed) == []


async def test_a_reader_that_keeps_the_words_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_ledger(tmp_path) as ledger:
        await write_words(ledger)
        with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            with caplog.at_level(logging.WARNING):
                await erase(ledger)
                await ledger.erase("default", "bea")
            assert traces(tmp_path)
        refused = [each for each in caplog.messages if "deleted words stay in" in each]
        assert len(refused) == 1
        await ledger.erase("default", "bea")
        assert traces(tmp_path) == []
