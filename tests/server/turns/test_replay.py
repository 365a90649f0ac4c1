"""The replay of a reply: what is stored is not written again, what differs is withdrawn."""

from typing import cast

import pytest

from palaver.errors import LimitExceeded
from palaver.turns.replay import Replay
from palaver.turns.writer import TurnWriter


class Reply:
    """What a turn has written: its text, and where it was cut."""

    def __init__(self, stored: str) -> None:
        self.text = stored
        self.cuts: list[int] = []

    @property
    def length(self) -> int:
        return len(self.text)

    def write_text(self, text: str) -> None:
        self.text += text

    def truncate(self, position: int) -> None:
        self.cuts.append(position)
        self.text = self.text[:position]


def replay(stored: str, *pieces: str, earlier: str = "", limit: int = 100) -> Reply:
    """Return the reply of a run that says ``pieces`` where ``stored`` is written already."""
    reply = Reply(stored)
    run = Replay(cast(TurnWriter, reply), stored, limit)
    if earlier:
        run.resume(earlier)
    for piece in pieces:
        run.say(piece)
    run.withdraw_rest()
    return reply


@pytest.mark.parametrize(
    ("stored", "pieces", "text", "cuts"),
    [
        ("", ("ab", "cd"), "abcd", []),
        ("abc", ("ab", "cd"), "abcd", []),
        ("abcd", ("ab", "cd"), "abcd", []),
        ("abcd", ("abcd", "e"), "abcde", []),
        ("abcd", ("ab",), "ab", [2]),
        ("abcd", (), "", [0]),
        ("abcX", ("ab", "Z"), "abZ", [2]),
        ("abcX", ("ab", "Z", "cX"), "abZcX", [2]),  # like what was stored, after it was withdrawn
        ("abcX", ("ab", "Z", "X", "ab"), "abZXab", [2]),
    ],
)
def test_a_run_writes_what_is_not_stored(
    stored: str, pieces: tuple[str, ...], text: str, cuts: list[int]
) -> None:
    reply = replay(stored, *pieces)
    assert (reply.text, reply.cuts) == (text, cuts)


@pytest.mark.parametrize(
    ("stored", "pieces", "text", "cuts"),
    [
        ("", ("one", "two"), "two", []),
        ("tw", ("one", "two"), "two", []),
        ("two", ("one", "three"), "three", [0]),
        ("two", ("one", "t", "hree"), "three", [1]),
    ],
)
def test_a_turn_that_continues_another_does_not_write_its_text(
    stored: str, pieces: tuple[str, ...], text: str, cuts: list[int]
) -> None:
    reply = replay(stored, *pieces, earlier="one")
    assert (reply.text, reply.cuts) == (text, cuts)


def test_the_text_since_a_piece() -> None:
    run = Replay(cast(TurnWriter, Reply("a")), "a", 100)
    run.say("ab")
    start = run.pieces
    run.say("cd")
    run.say("ef")
    assert (run.text_since(start), run.text) == ("cdef", "abcdef")


@pytest.mark.parametrize(("stored", "earlier"), [("", ""), ("abc", ""), ("", "ab")])
def test_a_reply_has_as_many_characters_as_set(stored: str, earlier: str) -> None:
    assert replay(stored, "ab", "cd", earlier=earlier, limit=4)
    with pytest.raises(LimitExceeded):
        replay(stored, "ab", "cde", earlier=earlier, limit=4)


@pytest.mark.parametrize(
    ("stored", "earlier", "text"),
    [
        ("", "", "What?"),
        ("So.", "", "So.\n\nWhat?"),
        ("So.\n\nWha", "", "So.\n\nWhat?"),
        ("", "So.", "What?"),
    ],
)
def test_a_question_is_separated_from_what_the_turn_said(
    stored: str, earlier: str, text: str
) -> None:
    reply = Reply(stored)
    run = Replay(cast(TurnWriter, reply), stored, 100)
    if earlier:
        run.resume(earlier)
    run.say("So." if stored or earlier else "")
    run.say_question("What?")
    assert reply.text == text
