"""Who has done something on a platform, and where."""

import dataclasses

import pytest

from palaver.errors import InvalidInput
from palaver.messages import Conversation
from palaver.platforms.incoming import IncomingMessage, Source

ADA = Source(tenant="acme", thread="T1.C1.1700000000.000100", person="board.ada", user="ada")


def test_a_source_names_the_conversation_of_its_channel() -> None:
    thread = "T1.C1.1700000000.000100"
    assert ADA.conversation("board") == Conversation("acme", "board", thread)


@pytest.mark.parametrize("person", ["", "board/ada", "board:ada", "a\nb", "x" * 201])
def test_a_person_has_a_name_that_can_be_stored(person: str) -> None:
    with pytest.raises(InvalidInput):
        dataclasses.replace(ADA, person=person)


def test_what_has_arrived_does_not_change() -> None:
    message = IncomingMessage(source=ADA, id="m1", text="hello")
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.text = "goodbye"  # type: ignore[misc]
    assert (message.files, message.skill, dict(message.arguments)) == ((), None, {})
