"""People: consent, rows of the ledger and of feedback, erasure from prepared data."""

import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.server.data.conversations import rate, say
from tests.server.data.preparing import create_job, manifest, prepare, rows_of, run, write_rows
from tests.server.skills_under_test import Parrot

from palaver.config.settings import RoutingSettings, Settings
from palaver.data.checking import check_data
from palaver.data.recipe import SourceTable
from palaver.data.snapshots import write_documents, write_ledger_rows
from palaver.jobs.folder import JobFolder, Json
from palaver.jobs.people import ERASED, KEY_FILE, PROFILE, PeopleNames, erase_rows
from palaver.jobs.store import JobStore
from palaver.knowledge import Document
from palaver.ledger import Ledger
from palaver.platforms.consents import EVERYONE, Consents
from palaver.platforms.people import find_approvals, forget_person
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine
from palaver_plugins.knowledge.sqlite import SqliteKnowledge

pytestmark = pytest.mark.slow

pytest.importorskip("rensa")
NAMES = PeopleNames(b"k" * 32)


@pytest.fixture
async def ledger() -> MemoryLedger:
    ledger = MemoryLedger()
    await ledger.start()
    return ledger


async def consent(ledger: Ledger, people: Iterable[str]) -> None:
    for person in people:
        await Consents(ledger).give("default", person)


async def read(ledger: Ledger, origin: str, **table: str) -> list[Json]:
    source = SourceTable.model_validate({"name": "said", "ledger": origin} | table)
    rows: list[Json] = []
    await write_ledger_rows(ledger, source, NAMES, rows.append)
    return rows


# Consent


async def test_nobody_has_consented_until_they_have(ledger: MemoryLedger) -> None:
    consents = Consents(ledger)
    assert not await consents.has_consented("default", "ada")
    await consents.give("default", "ada")
    assert await consents.has_consented("default", "ada")
    assert not await consents.has_consented("other", "ada")
    await consents.withdraw("default", "ada")
    assert not await consents.has_consented("default", "ada")


async def test_what_a_person_says_goes_before_what_holds_for_everyone(ledger: MemoryLedger) -> None:
    consents = Consents(ledger)
    await consents.give("default", EVERYONE)
    await consents.withdraw("default", "bob")
    assert await consents.has_consented("default", "ada")
    assert not await consents.has_consented("default", "bob")
    await consents.withdraw("default", EVERYONE)
    assert not await consents.has_consented("default", "ada")


async def test_a_consent_is_exported_and_erased_with_the_person(ledger: MemoryLedger) -> None:
    await consent(ledger, ["ada"])
    assert set(await find_approvals(ledger, (), "default", "ada")) == {"training-data"}
    await forget_person(ledger, (), "default", "ada")
    assert await find_approvals(ledger, (), "default", "ada") == {}


# What people have said


async def test_only_what_people_with_consent_have_said_is_read(ledger: MemoryLedger) -> None:
    await consent(ledger, ["ada", "cleo"])
    for thread, person in (("one", "ada"), ("two", "bob"), ("three", "ada"), ("three", "bob")):
        turn = await say(ledger, thread, person, f"what of {thread} {person}?", "it is so")
        await rate(ledger, thread, person, turn, "up")
    [conversation] = await read(ledger, "conversations")
    replies = await read(ledger, "feedback")
    assert [row["message"] for row in replies] == ["what of one ada?", "what of three ada?"]
    for row in (conversation, replies[0]):
        assert row["messages"] == [
            {"role": "user", "content": "what of one ada?"},
            {"role": "assistant", "content": "it is so"},
        ]
        assert row["people"] == [NAMES.person("default", "ada")]
        assert "ada" not in json.dumps(row["people"] + [row["conversation"]])


async def test_everyone_may_have_consented(ledger: MemoryLedger) -> None:
    await consent(ledger, [EVERYONE])
    for person in ("ada", "bob"):
        turn = await say(ledger, person, person, f"who is {person}?", "nobody")
        await rate(ledger, person, person, turn, "up" if person == "ada" else "down")
    assert len(await read(ledger, "conversations")) == 2
    [row] = await read(ledger, "feedback", rating="down")
    assert row["message"] == "who is bob?"


async def test_another_reply_that_a_person_asked_for_is_preferred(ledger: MemoryLedger) -> None:
    await consent(ledger, ["ada"])
    first = await say(ledger, "t", "ada", "who is it?", "no idea")
    await rate(ledger, "t", "ada", first, "down")
    [row] = await read(ledger, "feedback")
    assert "chosen" not in row
    await say(ledger, "t", "ada", "who is it?", "it is Bob", after="")
    [row] = await read(ledger, "feedback")
    assert (row["chosen"], row["rejected"]) == ("it is Bob", "no idea")

    assert row["prompt"] == [{"role": "user", "content": "who is it?"}]


async def test_documents_of_the_knowledge_base_are_rows(tmp_path: Path) -> None:
    knowledge = SqliteKnowledge(tmp_path / "knowledge.db")
    await knowledge.start()
    await knowledge.add("default", [Document(id="a", title="Lamps", text="A lamp gives light.")])
    source = SourceTable(name="pages", documents=True)
    rows: list[Json] = []
    await write_documents(knowledge, source, rows.append)
    await knowledge.close()
    [row] = rows
    assert (row["id"], row["title"]) == ("a", "Lamps")
    assert "A lamp gives light." in row["text"]


@pytest.mark.parametrize(
    "kind", ["chat", "instruction", "preference", "classification", "retrieval"]
)
def test_rows_of_the_ledger_become_each_kind(tmp_path: Path, kind: str) -> None:
    row = {
        "message": "who is it?",
        "reply": "it is Bob",
        "messages": [
            {"role": "user", "content": "who is it?"},
            {"role": "assistant", "content": "it is Bob"},
        ],
        "prompt": [{"role": "user", "content": "who is it?"}],
        "chosen": "it is Bob",
        "rejected": "no idea",
        "skill": "qa",
        "passages": ["Bob is it."],
    }

    def copy(names: PeopleNames, folder: Path) -> None:
        write_rows(folder / "said.jsonl", [row])

    recipe = f'kind = "{kind}"\n[[sources]]\nname = "said"\nledger = "feedback"'
    [made] = rows_of(run(create_job(tmp_path, recipe, snapshots=copy)))
    assert "who is it?" in json.dumps(made)


# Erasure


RECIPE = """
kind = "classification"
[[sources]]
name = "rows"
files = ["rows.jsonl"]
person = "{who}"
"""


@pytest.fixture
def prepared(tmp_path: Path) -> JobFolder:
    write_rows(tmp_path / "rows.jsonl", rows_of_people())
    return prepare(tmp_path, RECIPE)


def rows_of_people() -> list[Json]:
    said = {"ada": "where is my parcel with the lamp", "bob": "how do I pay this bill by card"}
    rows = [{"text": text, "label": "x", "who": who} for who, text in said.items()]
    # dropped, so that the profile shows it:
    return [*rows, {"text": "ada " * 60, "label": "x", "who": "ada"}]


def contents(job: JobFolder) -> str:
    files = [file for file in job.path.rglob("*") if file.is_file()]
    return "".join(file.read_bytes().decode(errors="replace") for file in files)


def test_an_erasure_removes_a_persons_rows_and_names_what_has_read_them(
    prepared: JobFolder, tmp_path: Path
) -> None:
    jobs = prepared.path.parent
    JobStore(jobs).create(
        "train", [sys.executable], {}, inputs=[prepared.path / "data" / "train.jsonl"], name="model"
    )
    assert "parcel" in contents(prepared)
    [erased] = erase_rows(jobs, "default", "ada")
    assert (erased.job, erased.rows, erased.readers) == ("prepared", 2, ("model",))
    assert "'model'" in str(erased)
    assert "parcel" not in contents(prepared)
    assert "ada ada" not in contents(prepared)
    assert [row["text"] for row in rows_of(prepared)] == ["how do I pay this bill by card"]
    assert manifest(prepared)["erased_rows"] == 2
    assert check_data(prepared.path, []) == []
    assert not (prepared.path / PROFILE).exists(), "it is written again when somebody asks"
    assert erase_rows(jobs, "default", "ada") == ()
    assert erase_rows(jobs, "other", "bob") == ()


def test_an_erasure_while_the_job_runs_is_done_at_its_end(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", rows_of_people())
    job = create_job(tmp_path, RECIPE)
    assert erase_rows(job.path.parent, "default", "ada") == ()
    run(job)
    assert "parcel" not in contents(job)
    assert not (job.path / ERASED).exists()
    assert [row["text"] for row in rows_of(job)] == ["how do I pay this bill by card"]


def test_an_erasure_of_one_conversation_leaves_the_others(tmp_path: Path) -> None:
    def said(names: PeopleNames, folder: Path) -> None:
        rows = [
            {
                "message": f"how is the weather in {thread} tomorrow",
                "skill": "chat",
                "people": [names.person("default", "ada")],
                "conversation": names.conversation(f"default/web/{thread}"),
                "at": 1.0,
            }
            for thread in ("one", "two")
        ]
        write_rows(folder / "said.jsonl", rows)

    recipe = 'kind = "classification"\n[[sources]]\nname = "said"\nledger = "conversations"'
    recipe += "\n[duplicates]\nkeep = true"
    job = run(create_job(tmp_path, recipe, snapshots=said))
    [erased] = erase_rows(job.path.parent, "default", "ada", "default/web/one")
    assert erased.rows == 1
    assert [row["text"] for row in rows_of(job)] == ["how is the weather in two tomorrow"]


def test_people_have_other_names_in_every_job(prepared: JobFolder, tmp_path: Path) -> None:
    other = prepare(tmp_path, RECIPE, name="other")
    people = [{name for row in rows_of(job) for name in row["people"]} for job in (prepared, other)]
    assert people[0].isdisjoint(people[1])
    assert (prepared.path / KEY_FILE).stat().st_mode & 0o077 == 0
    assert not any("ada" in row["people"] for row in rows_of(prepared))


async def test_an_erasure_by_the_server_reaches_prepared_data(prepared: JobFolder) -> None:
    server = Server(
        Settings(routing=RoutingSettings(default="parrot", consult_engine=False)),
        ledger=MemoryLedger(),
        engine=ScriptedEngine(),
        knowledge=ListKnowledge(),
        skills={"parrot": Parrot(Parrot.Settings())},
        jobs=prepared.path.parent,
    )
    async with server:
        assert (await server.erase("default", "ada")).training_rows == 2
        assert (await server.erase("default", "ada")).training_rows == 0


def test_receipts_are_sentences(prepared: JobFolder) -> None:
    [erased] = erase_rows(prepared.path.parent, "default", "bob")
    assert str(erased) == "removed 1 rows and examples from the files of job 'prepared'"
    assert dataclasses.asdict(erased)["readers"] == ()
