"""``palaver deadletters``: turns that were given up."""

import json
from pathlib import Path

import pytest
from tests.server.cli.test_ledger_commands import Place, claim, message, waiting

from palaver.cli.deadletters import replay_letter
from palaver.ledger import MAX_DEAD_LETTERS, ConcurrencyPolicies, Ledger
from palaver.messages import Finished, Text


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


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


def test_dead_letters_are_listed_and_shown(place: Place) -> None:
    first = place.work(lambda ledger: give_up(ledger, "poison", thread="a"))
    second = place.work(lambda ledger: give_up(ledger, "more\npoison " * 20, thread="b"))
    newest, oldest = place.run("deadletters", "list").output.splitlines()
    assert newest.startswith(second)
    assert oldest.startswith(first)
    assert "default/web/a  'poison'" in oldest
    assert newest.endswith("…'")
    assert place.run("deadletters", "list", "--limit=1").output.count("\n") == 1
    letters = json.loads(place.run("deadletters", "list", "--json").output)
    assert [letter["turn"] for letter in letters] == [second, first]
    shown = place.run("deadletters", "show", first).output
    for words in ("given up after 3 attempts", "ada           poison", "reply         I was go"):
        assert words in shown
    assert json.loads(place.run("deadletters", "show", first, "--json").output)["turn"] == first


def test_a_replayed_letter_is_answered_and_gone(place: Place) -> None:
    turn = place.work(lambda ledger: give_up(ledger, "try me"))
    result = place.run("deadletters", "replay", turn)
    assert (result.exit_code, result.output) == (0, f"Replayed {turn}.\n")
    assert place.run("deadletters", "list").output == ""
    assert place.work(waiting) == ["try me"]


def test_a_burst_is_replayed_as_one(place: Place) -> None:
    place.work(lambda ledger: give_up(ledger, "one", "two"))
    assert place.run("deadletters", "replay", "--all").exit_code == 0
    assert place.work(waiting) == ["one\n\ntwo"]


def test_a_replay_that_was_cut_is_repeated_without_doubling(place: Place) -> None:
    place.work(lambda ledger: give_up(ledger, "once"))

    async def cut(ledger: Ledger) -> None:
        (letter,) = await ledger.dead_letters(MAX_DEAD_LETTERS)
        again = message(f"replay-{letter.turn}-0", "once")
        await ledger.accept(again)  # and here the process dies
        await replay_letter(ledger, letter)

    place.work(cut)
    assert place.work(waiting) == ["once"]


def test_letters_are_discarded(place: Place) -> None:
    turn = place.work(lambda ledger: give_up(ledger, "poison"))
    assert place.run("deadletters", "discard", turn).exit_code == 0
    again = place.run("deadletters", "discard", turn)
    assert (again.exit_code, again.output) == (2, f"There is no dead letter {turn!r}.\n")
    assert place.run("deadletters", "replay", "--all").output == "There are no dead letters.\n"


@pytest.mark.parametrize("command", ["show", "replay"])
def test_an_unknown_letter_is_one_line_and_2(place: Place, command: str) -> None:
    result = place.run("deadletters", command, "nothing")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "no dead letter 'nothing'" in result.output


@pytest.mark.parametrize("command", ["replay", "discard"])
def test_letters_are_named_or_all(place: Place, command: str) -> None:
    for arguments in ((), ("x", "--all")):
        result = place.run("deadletters", command, *arguments)
        assert "name the turns, or give --all" in result.output
