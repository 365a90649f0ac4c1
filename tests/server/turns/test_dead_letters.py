"""``palaver deadletters``: turns that were given up."""

import json
from pathlib import Path

import pytest
from tests.server.cli.test_ledger_commands import DataDirectory, claim, claim_all, message

from palaver.cli.deadletters import replay_dead_letter
from palaver.ledger import MAX_DEAD_LETTERS, ConcurrencyPolicies, Ledger
from palaver.messages import Finished, Text


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    return DataDirectory(tmp_path)


async def give_up(ledger: Ledger, *texts: str, thread: str = "t") -> str:
    """A turn of these messages that was given up after it had said something."""
    for number, text in enumerate(texts):
        policies = (
            ConcurrencyPolicies(default="merge", merge_window=0.05)
            if len(texts) > 1
            else ConcurrencyPolicies()
        )
        await ledger.accept(message(f"{thread}-{number}", text, thread=thread), policies)
    claimed = await claim(ledger)
    said = Text(turn=claimed.turn, position=0, text="I was go")
    finished = Finished(turn=claimed.turn, outcome="failed", length=8)
    await ledger.settle(
        claimed,
        (said, finished),
        expect=claimed.index,
        dead_letter_reason="given up after 3 attempts",
    )
    return claimed.turn


def test_dead_letters_are_listed_and_shown(data: DataDirectory) -> None:
    first = data.run_with_ledger(lambda ledger: give_up(ledger, "poison", thread="a"))
    second = data.run_with_ledger(lambda ledger: give_up(ledger, "more\npoison " * 20, thread="b"))
    newest, oldest = data.run("deadletters", "list").output.splitlines()
    assert newest.startswith(second)
    assert oldest.startswith(first)
    assert "default/web/a  'poison'" in oldest
    assert newest.endswith("…'")
    assert data.run("deadletters", "list", "--limit=1").output.count("\n") == 1
    letters = json.loads(data.run("deadletters", "list", "--json").output)
    assert [letter["turn"] for letter in letters] == [second, first]
    shown = data.run("deadletters", "show", first).output
    for words in ("given up after 3 attempts", "ada           poison", "reply         I was go"):
        assert words in shown
    assert json.loads(data.run("deadletters", "show", first, "--json").output)["turn"] == first


def test_a_replayed_dead_letter_is_answered_and_removed(data: DataDirectory) -> None:
    turn = data.run_with_ledger(lambda ledger: give_up(ledger, "try me"))
    result = data.run("deadletters", "replay", turn)
    assert (result.exit_code, result.output) == (0, f"Replayed {turn}.\n")
    assert data.run("deadletters", "list").output == ""
    assert data.run_with_ledger(claim_all) == ["try me"]


def test_a_burst_is_replayed_as_one(data: DataDirectory) -> None:
    data.run_with_ledger(lambda ledger: give_up(ledger, "one", "two"))
    assert data.run("deadletters", "replay", "--all").exit_code == 0
    assert data.run_with_ledger(claim_all) == ["one\n\ntwo"]


def test_an_interrupted_replay_can_be_repeated(data: DataDirectory) -> None:
    data.run_with_ledger(lambda ledger: give_up(ledger, "once"))

    async def cut(ledger: Ledger) -> None:
        (letter,) = await ledger.dead_letters(MAX_DEAD_LETTERS)
        again = message(f"replay-{letter.turn}-0", "once")
        await ledger.accept(again)  # and here the process dies
        await replay_dead_letter(ledger, letter)

    data.run_with_ledger(cut)
    assert data.run_with_ledger(claim_all) == ["once"]


def test_dead_letters_are_discarded(data: DataDirectory) -> None:
    turn = data.run_with_ledger(lambda ledger: give_up(ledger, "poison"))
    assert data.run("deadletters", "discard", turn).exit_code == 0
    again = data.run("deadletters", "discard", turn)
    assert (again.exit_code, again.output) == (2, f"There is no dead letter {turn!r}.\n")
    assert data.run("deadletters", "replay", "--all").output == "There are no dead letters.\n"


@pytest.mark.parametrize("command", ["show", "replay"])
def test_an_unknown_dead_letter_is_one_line_and_2(data: DataDirectory, command: str) -> None:
    result = data.run("deadletters", command, "nothing")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "no dead letter 'nothing'" in result.output


@pytest.mark.parametrize("command", ["replay", "discard"])
def test_dead_letters_are_named_or_all(data: DataDirectory, command: str) -> None:
    for arguments in ((), ("x", "--all")):
        result = data.run("deadletters", command, *arguments)
        assert "name the turns, or give --all" in result.output
