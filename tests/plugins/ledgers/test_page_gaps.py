"""The SQLite ledger: no unused byte of a page keeps what was erased."""

import asyncio
import contextlib
import os
import random
import sqlite3
from pathlib import Path

import pytest
from tests.plugins.ledgers.conftest import sqlite_subject

from palaver.messages import Conversation
from palaver_plugins.ledgers.sqlite import database_thread
from palaver_plugins.ledgers.sqlite.page_gaps import zero_gaps

PAGE_SIZE = 4_096
TABLE = """
CREATE TABLE numbered (part INTEGER, number INTEGER, text TEXT, PRIMARY KEY (part, number))
STRICT, WITHOUT ROWID
"""


def make_file(path: Path, seed: int) -> list[tuple[int, int, str]]:
    """Make a database in which rows were moved, and some deleted then; return the others."""
    chance = random.Random(seed)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(TABLE)
        connection.execute("BEGIN")
        for number in range(600):
            word = chance.choice(("secret", "public"))
            size = chance.choice((5, 60, 300, 900, 5_000 if number % 50 == 0 else 40))
            row = (chance.randrange(6), number, word * (size // 6 + 1))
            connection.execute("INSERT INTO numbered VALUES (?, ?, ?)", row)
            connection.execute(
                "UPDATE numbered SET text = text || ? WHERE number = ?", (word, number - 9)
            )
        connection.execute("DELETE FROM numbered WHERE text LIKE '%secret%'")
        connection.execute("COMMIT")
        return connection.execute("SELECT * FROM numbered").fetchall()


def zero_all(path: Path, count: int) -> None:
    file = os.open(path, os.O_RDWR)
    try:
        page: int | None = 0
        while page is not None:
            page = zero_gaps(file, PAGE_SIZE, page, count)
    finally:
        os.close(file)


@pytest.mark.parametrize("count", [1, 7, 1_000])
@pytest.mark.slow
def test_the_unused_space_is_overwritten_and_nothing_else(tmp_path: Path, count: int) -> None:
    found = 0
    for seed in range(10):
        path = tmp_path / f"{seed}.sqlite"
        rows = make_file(path, seed)
        found += b"secret" in path.read_bytes()
        zero_all(path, count)
        assert b"secret" not in path.read_bytes()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT * FROM numbered").fetchall() == rows
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert found, "SQLite alone leaves words behind in some of the files"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.slow
async def test_an_erasure_leaves_no_word_in_any_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(database_thread, "MAX_PAGES", 5)
    chance = random.Random(seed)
    async with sqlite_subject(tmp_path) as subject:
        await subject.ledger.start()
        for _ in range(200):
            person = chance.choice(("adamina", "bob", "eve"))
            text = f"words of {person} " + "x" * chance.randrange(900)
            await subject.accept(text, person=person, thread=chance.choice("tuv"))
            await subject.answer_turn(f"for {person}")
        await subject.ledger.erase("acme", "adamina")
        assert b"adamina" not in await subject.dump()
        await subject.accept("goes on", person="bob")
        snapshot = await subject.ledger.snapshot(Conversation("acme", "web", "t"), 9)
        assert snapshot.history
        await subject.ledger.erase("acme", "bob")
        assert b"words of bob" not in await subject.dump()
        await subject.ledger.close()
    assert await asyncio.to_thread(check_integrity, tmp_path / "ledger.sqlite") == [("ok",)]


def check_integrity(path: Path) -> list[tuple[str]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall()
