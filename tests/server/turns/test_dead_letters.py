"""``palaver deadletters``: turns that were given up."""

import json
from pathlib import Path

import msgspec
import pytest
from tests.server.cli.test_ledger_commands import DataDirectory, claim, claim_all, message

from palaver.cli.deadletters import replay_dead_letter
from palaver.ledger import MAX_DEAD_LETTERS, ConcurrencyPolicies, Ledger
from palaver.messages import Conversation, Finished, Message, Text
from palaver.platforms.outbox import OutboxContent, decode_content, encode_content
from palaver.platforms.parking import ParkedConversations
from palaver.records import outbox_key


@pytest.fixture
def data(tmp_path: Path) -> DataDirectory:
    return DataDirectory(tmp_path)


async def give_up(ledger: Ledger, *texts: str, thread: str = "t") -> str:
    """A turn of these messages that was given up after it had said something."""
    for number, text in enumerate(texts):
        is_last = number == len(texts) - 1
        policies = ConcurrencyPolicies(default="merge", merge_window=0.0 if is_last else 60.0)
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


@pytest.mark.slow
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


def test_a_replayed_message_comes_after_those_that_wait(data: DataDirectory) -> None:
    async def replay(ledger: Ledger) -> list[str]:
        await ledger.accept(msgspec.structs.replace(message("a", "early"), order="1"))
        claimed = await claim(ledger)
        finished = Finished(turn=claimed.turn, outcome="failed", length=0)
        await ledger.settle(claimed, (finished,), expect=0, dead_letter_reason="given up")
        await ledger.accept(msgspec.structs.replace(message("b", "waits"), order="2"))
        (letter,) = await ledger.dead_letters(9)
        await replay_dead_letter(ledger, letter)
        (pending, replayed) = (await ledger.snapshot(claimed.conversation, 0)).pending
        return [pending.messages[0].text, replayed.messages[0].text]

    assert data.run_with_ledger(replay) == ["waits", "early"]


@pytest.mark.slow
def test_a_burst_is_replayed_as_one(data: DataDirectory) -> None:
    data.run_with_ledger(lambda ledger: give_up(ledger, "one", "two"))
    assert data.run("deadletters", "replay", "--all").exit_code == 0
    assert data.run_with_ledger(claim_all) == ["one\n\ntwo"]


def test_messages_of_several_people_are_replayed_in_order(data: DataDirectory) -> None:
    people = {"one": "ada", "two": "bob", "three": "ada", "four": "ada"}

    async def replay(ledger: Ledger) -> list[str]:
        for text, person in people.items():
            await ledger.accept(message(text, text, person), ConcurrencyPolicies(default="steer"))
            if text == "one":
                claimed = await claim(ledger)
        finished = Finished(turn=claimed.turn, outcome="failed", length=0)
        steering = await ledger.read_steering(claimed)
        await ledger.settle(
            claimed, (finished,), expect=0, taken_steering=steering, dead_letter_reason="given up"
        )
        (letter,) = await ledger.dead_letters(MAX_DEAD_LETTERS)
        await replay_dead_letter(ledger, letter)
        answered = []
        while (await ledger.queue_depth()).queued:
            claimed = await claim(ledger)
            answered.append(claimed.message.text)
            finished = Finished(turn=claimed.turn, outcome="done", length=0)
            await ledger.settle(claimed, (finished,), expect=0)
        return answered

    assert data.run_with_ledger(replay) == ["one", "two", "three\n\nfour"]


def test_an_interrupted_replay_can_be_repeated(data: DataDirectory) -> None:
    data.run_with_ledger(lambda ledger: give_up(ledger, "once"))

    async def cut(ledger: Ledger) -> None:
        (letter,) = await ledger.dead_letters(MAX_DEAD_LETTERS)
        again = message(f"replay-{letter.turn}-0", "once")
        await ledger.accept(again)  # and here the process dies
        await replay_dead_letter(ledger, letter)

    data.run_with_ledger(cut)
    assert data.run_with_ledger(claim_all) == ["once"]


@pytest.mark.slow
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
        assert "name the turns and conversations, or give --all" in result.output


PARKED = "default/openai_api/a room"


async def park(ledger: Ledger) -> None:
    """Park a conversation whose reply waits."""
    conversation = Conversation.parse(PARKED)
    sent = Message(conversation=conversation, id="1", person="ada", text="hello")
    await ledger.accept(sent, ConcurrencyPolicies(outbox=True))
    claimed = await claim(ledger)
    await ledger.settle(
        claimed, (Finished(turn=claimed.turn, outcome="done", length=0),), expect=claimed.index
    )
    record = await ledger.claim_record("openai_api", 30.0)
    assert record is not None
    await ParkedConversations(ledger, "openai_api").add(conversation)
    value = encode_content(OutboxContent(problem="the room is archived"))
    await ledger.write_record("openai_api", record.key, value, expect=record.version)


async def read_outbox(ledger: Ledger) -> tuple[OutboxContent, bool]:
    """Return what the outbox has, and whether it is due."""
    key = outbox_key(Conversation.parse(PARKED))
    record = await ledger.read_record("openai_api", key)
    assert record is not None
    return decode_content(record), record.due_at is not None


@pytest.mark.slow
def test_parked_conversations_are_listed_and_shown(data: DataDirectory) -> None:
    data.run_with_ledger(park)
    turn = data.run_with_ledger(lambda ledger: give_up(ledger, "poison"))
    newest, oldest = data.run("deadletters", "list").output.splitlines()
    assert newest.startswith(turn)
    assert oldest.startswith(f"{PARKED}  ")
    assert oldest.endswith("  the room is archived")
    listed = json.loads(data.run("deadletters", "list", "--json").output)
    assert listed[1].items() >= {"conversation": PARKED, "problem": "the room is archived"}.items()
    shown = data.run("deadletters", "show", PARKED).output
    assert "problem       the room is archived" in shown
    assert json.loads(data.run("deadletters", "show", PARKED, "--json").output) == listed[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [PARKED, "--all"])
def test_a_parked_conversation_is_replayed(data: DataDirectory, name: str) -> None:
    data.run_with_ledger(park)
    assert data.run("deadletters", "replay", name).output == f"Replayed {PARKED}.\n"
    assert data.run_with_ledger(read_outbox) == (OutboxContent(), True)
    assert data.run("deadletters", "list").output == ""
    again = data.run("deadletters", "replay", PARKED)
    assert (again.exit_code, "is parked" in again.output) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [PARKED, "--all"])
def test_a_parked_conversation_is_discarded(data: DataDirectory, name: str) -> None:
    data.run_with_ledger(park)
    result = data.run("deadletters", "discard", name)
    assert (result.exit_code, result.output) == (0, "")
    content, is_due = data.run_with_ledger(read_outbox)
    assert (len(content.posted), content.problem, is_due) == (1, "", False)
    assert data.run("deadletters", "list").output == ""
    assert data.run("deadletters", "discard", PARKED).exit_code == 2
