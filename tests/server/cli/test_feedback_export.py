"""``palaver feedback export``: rated replies as an evaluation suite."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.server.cli.test_ledger_commands import DataDirectory, claim, message

from palaver.feedback import Feedback
from palaver.ledger import Ledger
from palaver.messages import Conversation, Finished, Message, Routed, Text

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    return DataDirectory(tmp_path)


async def answer(ledger: Ledger, question: Message, reply: str, skill: str = "chat") -> str:
    await ledger.accept(question)
    turn = await claim(ledger)
    entries = (
        Routed(turn=turn.turn, skill=skill, reason="default"),
        Text(turn=turn.turn, position=0, text=reply),
        Finished(turn=turn.turn, outcome="done", length=len(reply)),
    )
    await ledger.settle(turn, entries, expect=0)
    return turn.turn


async def rate(ledger: Ledger, turn: str, rating: Any, person: str = "ada", **more: Any) -> None:
    feedback = Feedback(turn=turn, rating=rating, **more)
    await ledger.give_feedback(Conversation("default", "web", "t"), person, feedback)


async def rate_three(ledger: Ledger) -> None:
    first = await answer(ledger, message("a", "What is 2 + 2?"), "5")
    second = await answer(ledger, message("b", "Sure?\u202e", person="bob"), "No: 4", "maths")
    third = await answer(ledger, message("c", "Thanks"), "Welcome")
    await rate(ledger, first, "down", reason="incorrect", comment="It is 4.\nReally.")
    await rate(ledger, second, "up", person="bob")
    await rate(ledger, third, "up")
    elsewhere = Message(
        conversation=Conversation("acme", "web", "t"), id="x", person="ada", text="not yours"
    )
    turn = await answer(ledger, elsewhere, "secret")
    await ledger.give_feedback(elsewhere.conversation, "ada", Feedback(turn=turn, rating="up"))


def cases(data: DataDirectory, *options: str) -> list[dict[str, Any]]:
    result = data.run("feedback", "export", *options)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def test_each_rated_reply_is_a_case(data: DataDirectory) -> None:
    data.run_with_ledger(rate_three)
    first, second, third = cases(data)
    assert first.pop("at") > 1_700_000_000
    assert len(first.pop("id")) == 32
    assert first == {
        "skill": "chat",
        "outcome": "done",
        "rating": "down",
        "reason": "incorrect",
        "comment": "It is 4.\nReally.",
        "history": [],
        "message": "What is 2 + 2?",
        "reply": "5",
    }
    assert (second["skill"], second["rating"], second["message"]) == ("maths", "up", "Sure?\u202e")
    assert "reason" not in second
    assert "comment" not in second
    assert third["history"] == [
        {"role": "user", "text": "What is 2 + 2?"},
        {"role": "assistant", "text": "5"},
        {"role": "user", "text": "Sure?\u202e"},
        {"role": "assistant", "text": "No: 4"},
    ]


def test_nothing_tells_who_somebody_is_unless_it_is_asked_for(data: DataDirectory) -> None:
    data.run_with_ledger(rate_three)
    assert "person" not in json.dumps(cases(data))
    named = cases(data, "--people=ids")
    assert [case["person"] for case in named] == ["ada", "bob", "ada"]
    assert named[2]["history"][2]["person"] == "bob"
    pseudonyms = [case["person"] for case in cases(data, "--people=pseudonyms")]
    assert pseudonyms[0] == pseudonyms[2] != pseudonyms[1]
    assert not {"ada", "bob"} & set(pseudonyms)
    assert pseudonyms != [case["person"] for case in cases(data, "--people=pseudonyms")]
    assert [case["id"] for case in named] == [case["id"] for case in cases(data)]


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--rating=down"], ["What is 2 + 2?"]),
        (["--skill=maths"], ["Sure?\u202e"]),
        (["--skill=chat", "--rating=up"], ["Thanks"]),
        (["--since=2999-01-01"], []),
        (["--since=2026-01-01T12:00:00", "--rating=down"], ["What is 2 + 2?"]),
        (["--tenant=acme"], ["not yours"]),
        (["--tenant=nobody"], []),
    ],
)
def test_cases_are_selected(data: DataDirectory, options: list[str], messages: list[str]) -> None:
    data.run_with_ledger(rate_three)
    assert [case["message"] for case in cases(data, *options)] == messages


def test_a_file_of_cases_is_private_and_complete(data: DataDirectory, tmp_path: Path) -> None:
    data.run_with_ledger(rate_three)
    file = tmp_path / "suite.jsonl"
    result = data.run("feedback", "export", "--output", str(file))
    assert (result.exit_code, result.output) == (0, f"Wrote 3 rated replies to {file}.\n")
    assert [json.loads(line)["reply"] for line in file.read_bytes().splitlines()] == [
        "5",
        "No: 4",
        "Welcome",
    ]
    assert file.stat().st_mode & 0o077 == 0
    nowhere = data.run("feedback", "export", "--output", str(tmp_path / "no" / "where"))
    assert (nowhere.exit_code, nowhere.output.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "options", [["--rating=sideways"], ["--since=yesterday"], ["--people=all"], ["--tenant=a/b"]]
)
def test_a_wrong_option_is_refused(data: DataDirectory, options: list[str]) -> None:
    assert data.run("feedback", "export", *options).exit_code == 2
