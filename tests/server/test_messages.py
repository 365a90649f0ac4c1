"""What a message may say of its place."""

import pytest

from palaver.errors import InvalidInput
from palaver.messages import Conversation, Message

CONVERSATION = Conversation("acme", "web", "t")


def message(**fields: str) -> Message:
    return Message(conversation=CONVERSATION, id="m", person="ada", text="hello", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["1700000000.000100", "00998877665544332211", "a_B-9", "x" * 64])
def test_an_order_is_a_word(order: str) -> None:
    assert message(order=order).order == order


@pytest.mark.parametrize("order", [" ", "1 2", "1:2", "1\n", "ü", "١", "x" * 65])
def test_another_order_is_refused(order: str) -> None:
    with pytest.raises(InvalidInput, match=r"order .* is not usable"):
        message(order=order)


def test_a_message_after_a_named_turn_has_no_order() -> None:
    with pytest.raises(InvalidInput, match="has an order, and follows a named turn"):
        message(order="1", after="")


def test_the_order_is_no_part_of_what_a_message_says() -> None:
    assert message(order="1").digest == message(order="2").digest == message().digest
