"""No byte of any file keeps the words of a removed document."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from palaver import Document
from palaver_plugins.knowledge.index import SearchIndex
from palaver_plugins.knowledge.sqlite import SqliteKnowledge

WORDS = ("qxjzvikku", "wvbbqmopp", "Zürqxwök", "鑫淼焱垚")
"""Words of which no part occurs elsewhere."""


def secret(id: str, size: int = 1) -> Document:
    heading, first, second, wide = WORDS
    text = f"# {heading}\n\nAbout {first}, {second} and {wide}。\n\n" * size
    return Document(id=id, title=f"On {second}", text=text)


def plain(number: int) -> Document:
    text = f"Chapter {number} about ordinary things. " * 40
    return Document(id=f"plain-{number}", title=f"Chapter {number}", text=text)


def traces(folder: Path) -> list[str]:
    """Return the words, or parts of them, that any file contains."""
    data = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file()).lower()
    parts = {part for word in WORDS for part in (word, word[2:], word[:-2]) if len(part) > 1}
    encoded = {part: part.lower().encode() for part in parts}
    encoded["zurqxwok"] = b"zurqxwok"  # without its accents, as it is indexed
    return [part for part, each in encoded.items() if each in data]


@contextlib.asynccontextmanager
async def open_knowledge(
    path: Path, *, busy_timeout: float = 10.0
) -> AsyncIterator[SqliteKnowledge]:
    knowledge = SqliteKnowledge(path, busy_timeout=busy_timeout)
    await knowledge.start()
    try:
        yield knowledge
    finally:
        await knowledge.close()


@pytest.mark.parametrize("size", [1, 200])
async def test_a_removed_document_leaves_no_trace(tmp_path: Path, size: int) -> None:
    async with open_knowledge(tmp_path / "knowledge.sqlite") as knowledge:
        await knowledge.add("default", [plain(n) for n in range(20)])
        await knowledge.add("default", [secret("secret", size), plain(30)])
        assert len(traces(tmp_path)) > len(WORDS)
        assert await knowledge.search("default", WORDS[0], 3)
        assert await knowledge.remove("default", "secret")
        assert traces(tmp_path) == []
        assert await knowledge.search("default", "chapter", 3)
    assert traces(tmp_path) == []


async def test_a_replaced_document_leaves_no_trace(tmp_path: Path) -> None:
    async with open_knowledge(tmp_path / "knowledge.sqlite") as knowledge:
        await knowledge.add("default", [plain(1), secret("a"), secret("b")])
        await knowledge.add("other", [secret("a")])
        await knowledge.add("default", [Document(id=id, title="", text="new") for id in "ab"])
        assert traces(tmp_path), "the other tenant has the words"
        await knowledge.add("other", [Document(id="a", title="", text="new")])
        assert traces(tmp_path) == []


async def test_another_open_server_does_not_keep_the_words(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.sqlite"
    async with open_knowledge(path) as server, open_knowledge(path) as command:
        await command.add("default", [plain(1), secret("secret")])
        assert await server.search("default", WORDS[0], 3)
        assert await command.remove("default", "secret")
        assert traces(tmp_path) == []
        assert not await server.search("default", WORDS[0], 3)


async def test_a_crash_before_the_scrub_is_made_up_for_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.sqlite"
    await asyncio.to_thread(remove_and_crash, path)
    assert traces(tmp_path)
    async with open_knowledge(path):
        assert traces(tmp_path) == []


def remove_and_crash(path: Path) -> None:
    """Remove a document and end before the scrub, as a killed process does."""
    with contextlib.closing(SearchIndex(path)) as crashing:
        crashing.add("default", plain(1))
        crashing.add("default", secret("secret"))
        crashing.remove("default", "secret")


async def test_a_reader_of_the_log_is_reported_and_made_up_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "knowledge.sqlite"
    async with open_knowledge(path, busy_timeout=0.05) as knowledge:
        await knowledge.add("default", [plain(1), secret("secret")])
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM passages").fetchone()
            assert await knowledge.remove("default", "secret")
            assert "words of removed documents stay in" in caplog.text
            assert traces(tmp_path)
        await knowledge.add("default", [plain(2)])
        assert traces(tmp_path) == []


async def test_a_file_of_the_first_version_is_scrubbed_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.executescript(
            "PRAGMA secure_delete=OFF; PRAGMA journal_mode=WAL;"
            "CREATE TABLE tenants (key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);"
            "CREATE TABLE documents (key INTEGER PRIMARY KEY, tenant INTEGER NOT NULL,"
            " id TEXT NOT NULL, title TEXT NOT NULL, UNIQUE (tenant, id));"
            "CREATE TABLE passages (key INTEGER PRIMARY KEY, document INTEGER NOT NULL"
            " REFERENCES documents ON DELETE CASCADE, number INTEGER NOT NULL,"
            " section TEXT NOT NULL, text TEXT NOT NULL, vector BLOB);"
            "CREATE VIRTUAL TABLE terms_1 USING fts5"
            "(title, section, body, tokenize = 'porter unicode61 remove_diacritics 2');"
            "INSERT INTO tenants VALUES (1, 'default');"
            "INSERT INTO documents VALUES (1, 1, 'kept', 'Kept');"
            "INSERT INTO passages VALUES (1, 1, 1, '', 'kept words', NULL);"
            "INSERT INTO terms_1 (rowid, body) VALUES (1, 'kept words');"
        )
        words = " ".join(WORDS)
        old.execute("INSERT INTO terms_1 (rowid, body) VALUES (2, ?)", (words,))
        old.execute("DELETE FROM terms_1 WHERE rowid = 2")
        old.execute("PRAGMA user_version=1")
    assert traces(tmp_path)
    async with open_knowledge(path) as knowledge:
        assert traces(tmp_path) == []
        assert [each.document for each in await knowledge.search("default", "kept", 3)] == ["kept"]


@pytest.mark.slow
async def test_a_large_removal_gives_the_space_back(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.sqlite"
    async with open_knowledge(path) as knowledge:
        await knowledge.add("default", [plain(1)])
        await knowledge.add("default", [secret("large", 5_000)])
        await knowledge.add("default", [Document(id="small", title="", text="replaced")])
        await knowledge.add("default", [Document(id="small", title="", text="empties the log")])
        full = path.stat().st_size
        await knowledge.remove("default", "large")
        assert path.stat().st_size < full / 4
