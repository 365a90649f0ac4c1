"""Contract: exports in parts, and erasures in steps, beside other operations."""

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.plugins.ledgers.conftest import sqlite_subject

from palaver.exports import ExportEncoder, collect_export
from palaver.ledger import EXPORT_BYTES, ConcurrencyPolicies, Export
from palaver.messages import Conversation, Text, encode
from palaver_plugins.ledgers.sqlite import personal_data
from palaver_plugins.ledgers.sqlite.personal_data import ErasureKey

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

STEER = ConcurrencyPolicies(default="steer")


async def parts_of(subject: "LedgerUnderTest", person: str = "ada") -> list[Export]:
    return [part async for part in subject.ledger.export("acme", person)]


async def fill(subject: "LedgerUnderTest", count: int, size: int, **fields: str) -> None:
    for number in range(count):
        await subject.accept(f"{number:03d}" + "x" * size, **fields)
        await subject.answer_turn()


async def fill_all_sections(subject: "LedgerUnderTest") -> None:
    """Store settled, waiting, steering and dead messages, and a memory, of ada and of others."""
    await fill(subject, 5, EXPORT_BYTES // 2, thread="large")
    await fill(subject, 2, 10, thread="small")
    await subject.accept("to bob", thread="small", person="bob")
    await subject.answer_turn("for bob")
    await subject.accept("poison", thread="dead")
    claim = await subject.claim()
    await subject.settle(claim, outcome="failed", dead_letter_reason="it")
    await subject.accept("runs", thread="busy", person="bob")
    await subject.run_skill("chat")
    await subject.accept_with("steers", STEER, thread="busy")
    await subject.accept("waits", thread="busy")


async def test_the_parts_of_an_export_are_limited_in_bytes(subject: "LedgerUnderTest") -> None:
    await fill(subject, 9, EXPORT_BYTES // 3)
    parts = await parts_of(subject)
    assert len(parts) >= 3
    assert max(len(encode(part)) for part in parts) < 2 * EXPORT_BYTES
    whole = await collect_export(subject.ledger.export("acme", "ada"))
    texts = [entry.text[:3] for entry in whole.conversations["acme/web/t"] if entry.person]
    assert texts == [f"{number:03d}" for number in range(9)]


async def test_the_parts_come_section_by_section(subject: "LedgerUnderTest") -> None:
    await fill_all_sections(subject)
    sections: list[str] = []
    for part in await parts_of(subject):
        sections += [*part.conversations, *(message.text for message in part.pending)]
    compact = [name for place, name in enumerate(sections) if [name] != sections[place - 1 : place]]
    assert sorted(compact[:3]) == ["acme/web/dead", "acme/web/large", "acme/web/small"]
    assert sorted(compact[3:]) == ["poison", "steers", "waits"]


async def test_the_stream_is_the_json_of_the_whole(subject: "LedgerUnderTest") -> None:
    await fill_all_sections(subject)
    for person in ("ada", "bob", "nobody"):
        encoder = ExportEncoder()
        text = b"".join([encoder.add(part) for part in await parts_of(subject, person)])
        streamed = json.loads(text + encoder.end())
        whole = await collect_export(subject.ledger.export("acme", person))
        assert streamed | {"at": 0} == json.loads(encode(whole)) | {"at": 0}
        assert list(streamed) == list(json.loads(encode(whole)))


async def test_an_export_that_nobody_reads_to_its_end_holds_nothing_up(
    subject: "LedgerUnderTest",
) -> None:
    await fill(subject, 4, EXPORT_BYTES)
    async with contextlib.aclosing(subject.ledger.export("acme", "ada")) as parts:
        await anext(parts)
        await subject.accept("in between", person="bob", thread="other")
        assert (await subject.answer_turn()).message.text == "in between"
    await subject.ledger.erase("acme", "ada")
    assert b"xxxxx" not in await subject.dump()


@pytest.mark.slow
async def test_a_person_who_is_erased_during_an_export_is_not_in_its_rest(
    subject: "LedgerUnderTest",
) -> None:
    await fill(subject, 8, EXPORT_BYTES)
    async with contextlib.aclosing(subject.ledger.export("acme", "ada")) as parts:
        await anext(parts)
        await subject.ledger.erase("acme", "ada")
        rest = [part async for part in parts]
    found = [
        entry.text[:3] for part in rest for each in part.conversations.values() for entry in each
    ]
    assert "007" not in found


@pytest.mark.slow
async def test_an_export_is_complete_beside_the_erasure_of_another_member(
    subject: "LedgerUnderTest",
) -> None:
    for _ in range(8):
        await fill(subject, 1, 700_000, person="bob")
        await fill(subject, 1, 700_000, person="adamina")
        await fill(subject, 1, 10, person="eve")
    async with contextlib.aclosing(subject.ledger.export("acme", "bob")) as parts:
        found = [await anext(parts)]
        await subject.ledger.erase("acme", "adamina")
        found += [part async for part in parts]
    entries = [entry for part in found for each in part.conversations.values() for entry in each]
    assert [entry.person for entry in entries] == ["bob", ""] * 8


async def test_dead_letters_of_others_are_not_searched_for_a_person(
    subject: "LedgerUnderTest",
) -> None:
    for person in ("ada", "bob"):
        await subject.accept(f"poison of {person}", person=person, thread=person)
        claim = await subject.claim()
        await subject.settle(claim, outcome="failed", dead_letter_reason="it")
    await subject.accept("runs", person="bob", thread="bob")
    claim = await subject.run_skill("chat")
    await subject.accept_with("helps", STEER, person="ada", thread="bob")
    taken = await subject.ledger.read_steering(claim)
    await subject.settle(
        claim, expect=1, outcome="failed", dead_letter_reason="it", taken_steering=taken
    )
    export = await collect_export(subject.ledger.export("acme", "ada"))
    assert sorted(message.text for message in export.pending) == ["helps", "poison of ada"]
    assert (await subject.ledger.erase("acme", "ada")).dead_letters == 2
    letters = await subject.ledger.dead_letters(10)
    texts = [[message.text for message in letter.messages] for letter in letters]
    assert sorted(texts) == [["poison of bob"], ["runs"]]
    assert b"helps" not in await subject.dump()


# Erasures in steps


@pytest.mark.slow
async def test_a_large_history_is_erased_as_a_whole(subject: "LedgerUnderTest") -> None:
    for number in range(60):
        person = "adamina" if number % 3 else "bob"
        await subject.accept(f"{person} {number} " + "x" * 100_000, person=person)
        await subject.answer_turn(f"for {person} {number}")
    await fill(subject, 4, 1_000_000, thread="alone", person="adamina")
    erasure = await subject.ledger.erase("acme", "adamina")
    assert (erasure.conversations, erasure.messages) == (2, 44)
    snapshot = await subject.ledger.snapshot(Conversation("acme", "web", "t"), 100, 10_000_000)
    assert [entry.text.split("x")[0] for entry in snapshot.history] == [
        text for number in range(0, 60, 3) for text in (f"bob {number} ", f"for bob {number}")
    ]
    dump = await subject.dump()
    assert b"adamina" not in dump


@pytest.mark.slow
async def test_an_erasure_keeps_the_newest_events_and_those_of_the_running_turn(
    subject: "LedgerUnderTest",
) -> None:
    """It rewrites the stream of a shared conversation, whose events may be large."""
    for number in range(24):
        person = "bob" if number % 2 else "adamina"
        await subject.accept(f"{number}" + "x" * 700_000, person=person)
        await subject.answer_turn(f"for {number}")
    await subject.accept("runs", person="bob")
    claim = await subject.run_skill("chat")
    text = Text(turn=claim.turn, position=0, text="half")
    await subject.append(claim, text, expect=1)
    for _ in range(3):
        await subject.accept("z" * 1_000_000, person="eve")
    erasure = await subject.ledger.erase("acme", "adamina")
    assert (erasure.conversations, erasure.messages) == (1, 12)
    stream = await subject.read_stream(claim.conversation)
    if subject.name != "memory":
        assert 3_000_000 < sum(len(encode(event.event)) for event in stream) < 9_000_000
    assert text in [event.event for event in stream]
    await subject.settle(claim, Text(turn=claim.turn, position=4, text=" whole"), expect=2)
    history = (await subject.ledger.snapshot(claim.conversation, 99, 99_000_000)).history
    assert len(history) == 26
    assert history[-1].text == "half whole"
    assert b"adamina" not in await subject.dump()


async def test_a_small_stream_keeps_all_events_of_others(subject: "LedgerUnderTest") -> None:
    await fill(subject, 3, 10, person="bob")
    await fill(subject, 1, 10, person="adamina")
    where = Conversation("acme", "web", "t")
    before = [event.event for event in await subject.read_stream(where)]
    await subject.ledger.erase("acme", "adamina")
    assert [event.event for event in await subject.read_stream(where)] == before[:15]


async def test_a_turn_that_ends_during_an_erasure_is_erased(subject: "LedgerUnderTest") -> None:
    """The turn runs while turns behind it were stopped, and so have history already."""
    await fill(subject, 30, 200_000, person="bob")
    await subject.accept("runs", person="ada")
    claim = await subject.claim()
    stopped = await subject.accept("stopped", person="ada")
    await subject.ledger.stop(Conversation("acme", "web", "t"), stopped)
    erasing = asyncio.create_task(subject.ledger.erase("acme", "ada"))
    with contextlib.suppress(Exception):  # it may be fenced: then the turn is erased already
        await subject.settle(claim, *subject.reply_entries(claim, "a secret"))
    await erasing
    dump = await subject.dump()
    assert b"a secret" not in dump
    assert b'"ada"' not in dump


async def test_two_erasures_of_one_person_at_once_do_no_harm(subject: "LedgerUnderTest") -> None:
    await fill(subject, 5, 500_000)
    await fill(subject, 1, 10, person="bob")
    await asyncio.gather(*(subject.ledger.erase("acme", "ada") for _ in range(3)))
    assert b'"ada"' not in await subject.dump()
    assert await subject.ledger.members(Conversation("acme", "web", "t")) == {"bob"}


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step of an erasure read a few entries."""
    monkeypatch.setattr("palaver_plugins.ledgers.sqlite.erasure.MAX_ROWS", 3)
    with contextlib.suppress(ImportError):
        monkeypatch.setattr("palaver_plugins.ledgers.redis.personal_data.STEP_BYTES", 600)


async def test_erasures_of_several_members_at_once_keep_what_others_wrote(
    subject: "LedgerUnderTest", small_steps: None
) -> None:
    """None shifts the positions up to which the others have read the history."""
    people = ("adamina", "bobolink", "eve")
    for number in range(60):
        await subject.accept(f"{people[number % 3]} {number}", person=people[number % 3])
        await subject.answer_turn(f"for {people[number % 3]} {number}")
    where = Conversation("acme", "web", "t")
    before = [event.event for event in await subject.read_stream(where)]
    erasures = await asyncio.gather(
        subject.ledger.erase("acme", "adamina"),
        subject.ledger.erase("acme", "bobolink"),
        subject.ledger.erase("acme", "adamina"),
    )
    assert erasures[1].messages == 20
    dump = await subject.dump()
    assert b"adamina" not in dump
    assert b"bobolink" not in dump
    history = (await subject.ledger.snapshot(where, 99, 99_000)).history
    assert [entry.text for entry in history] == [
        text for number in range(2, 60, 3) for text in (f"eve {number}", f"for eve {number}")
    ]
    after = [event.event for event in await subject.read_stream(where)]
    assert after == [event for number, event in enumerate(before) if number // 5 % 3 == 2]


async def test_erased_entries_are_left_out_of_every_selection(subject: "LedgerUnderTest") -> None:
    for _ in range(5):
        await fill(subject, 1, 10, person="bob")
        await fill(subject, 12, 10, person="adamina")
    await subject.ledger.erase("acme", "adamina")
    where = Conversation("acme", "web", "t")
    snapshot = await subject.ledger.snapshot(where, 4)
    assert [entry.person for entry in snapshot.history] == ["bob", ""] * 2
    page = await subject.ledger.history(where, snapshot.earlier, 4)
    assert [entry.person for entry in page.history] == ["bob", ""] * 2
    last = await subject.ledger.history(where, page.earlier, 4)
    assert ([entry.person for entry in last.history], last.earlier) == (["bob", ""], "")
    await subject.accept(person="bob")
    assert len((await subject.claim(history=99)).history) == 10


async def test_an_erasure_covers_what_was_stored_before_it_was_asked_for_again(
    subject: "LedgerUnderTest",
) -> None:
    """Another erasure of the person may be running, at any of its steps."""
    for turns_of_the_loop in range(25):
        await subject.accept(person="adamina")
        first = asyncio.create_task(subject.ledger.erase("acme", "adamina"))
        for _ in range(turns_of_the_loop):
            await asyncio.sleep(0)
        await subject.accept(person="adamina", thread="other")
        await subject.ledger.erase("acme", "adamina")
        assert await subject.ledger.members(Conversation("acme", "web", "other")) == frozenset()
        await first


@pytest.mark.parametrize("steps", range(1, 12, 2))
@pytest.mark.slow
async def test_an_erasure_that_a_crash_cuts_is_ended_at_the_next_start(
    tmp_path: Path, steps: int
) -> None:
    async with sqlite_subject(tmp_path) as subject:
        await subject.ledger.start()
        await fill(subject, 3, 1_000_000)
        await fill(subject, 3, 1_000_000, thread="shared")
        await fill(subject, 2, 10, thread="shared", person="bob")
        thread = subject.ledger._thread  # type: ignore[attr-defined]  # it is a SQLiteLedger
        await thread.submit(personal_data.begin_erasure, ErasureKey("acme", "ada", ""))
        for _ in range(steps):
            await thread.submit(personal_data.erase_some, ErasureKey("acme", "ada", ""))
        await subject.reopen()
        dump = await subject.dump()
        assert b'"ada"' not in dump
        assert b"x" * 100 not in dump
        history = (await subject.ledger.snapshot(Conversation("acme", "web", "shared"), 9)).history
        assert [entry.person for entry in history] == ["bob", "", "bob", ""]
        await subject.ledger.close()


async def test_an_erasure_goes_on_without_its_caller(tmp_path: Path) -> None:
    async with sqlite_subject(tmp_path) as subject:
        await subject.ledger.start()
        await fill(subject, 8, 1_000_000)
        erasing = asyncio.create_task(subject.ledger.erase("acme", "ada"))
        await asyncio.sleep(0)
        erasing.cancel()
        await asyncio.gather(erasing, return_exceptions=True)
        await subject.ledger.erase("acme", "ada")
        assert b"x" * 100 not in await subject.dump()
        await subject.ledger.close()


@pytest.mark.slow
async def test_other_operations_run_between_the_steps_of_an_erasure(tmp_path: Path) -> None:
    async with sqlite_subject(tmp_path) as subject:
        await subject.ledger.start()
        for number in range(20):
            await fill(subject, 1, 1_000_000, thread=f"t{number}")
        erasing = asyncio.create_task(subject.ledger.erase("acme", "ada"))
        accepted = 0
        while not erasing.done():
            await subject.accept("hello", person="bob", thread="other")
            await subject.answer_turn()
            accepted += 1
        assert accepted >= 20, "each conversation takes a step at least"
        await subject.ledger.close()


def hidden_rows(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        query = "SELECT count(*) FROM conversations WHERE name LIKE '/%'"
        return int(connection.execute(query).fetchone()[0])


async def test_an_erased_name_can_be_used_again_at_once(tmp_path: Path) -> None:
    async with sqlite_subject(tmp_path) as subject:
        await subject.ledger.start()
        await fill(subject, 6, 1_000_000)
        thread = subject.ledger._thread  # type: ignore[attr-defined]  # it is a SQLiteLedger
        await thread.submit(personal_data.begin_erasure, ErasureKey("acme", "ada", ""))
        await thread.submit(personal_data.erase_some, ErasureKey("acme", "ada", ""))
        assert await asyncio.to_thread(hidden_rows, tmp_path / "ledger.sqlite") == 1
        snapshot = await subject.ledger.snapshot(Conversation("acme", "web", "t"), 9)
        assert (snapshot.history, snapshot.pending) == ((), ())
        await subject.accept("mine now", person="bob")
        await subject.answer_turn()
        await subject.ledger.erase("acme", "ada")
        history = (await subject.ledger.snapshot(Conversation("acme", "web", "t"), 9)).history
        assert [entry.text for entry in history] == ["mine now", "fine"]
        assert await asyncio.to_thread(hidden_rows, tmp_path / "ledger.sqlite") == 0
        await subject.ledger.close()
