"""Messages of any origin become a list that every chat template takes."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver.engine import ChatMessage, Image, Role
from palaver.engines.normalization import PLACEHOLDER, normalize_messages

ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")
texts = st.text("ab \n\t\u00a0\u3000", max_size=6) | st.text(max_size=12)
message_lists = st.lists(st.builds(ChatMessage, st.sampled_from(ROLES), texts), max_size=12)


def said(*messages: tuple[Role, str]) -> list[ChatMessage]:
    return [ChatMessage(role, text) for role, text in messages]


def normalized(*messages: tuple[Role, str], system_role: bool = True) -> list[tuple[str, str]]:
    result = normalize_messages(said(*messages), system_role=system_role)
    return [(message.role, message.content) for message in result]


@given(message_lists, st.booleans())
def test_the_user_begins_and_ends_and_the_roles_take_turns(
    messages: list[ChatMessage], system_role: bool
) -> None:
    result = list(normalize_messages(messages, system_role=system_role))
    if result[0].role == "system":
        assert system_role
        result = result[1:]
    assert [message.role for message in result] == (["user", "assistant"] * len(result))[
        : len(result)
    ]
    assert result[-1].role == "user"
    assert all(message.content.strip() for message in result)


@given(message_lists, st.booleans())
def test_every_text_is_kept_in_its_order(messages: list[ChatMessage], system_role: bool) -> None:
    result = normalize_messages(messages, system_role=system_role)
    rest = "\n\n".join(message.content for message in result)
    for message in messages:
        if message.content.strip():
            _, found, rest = rest.partition(message.content)
            assert found, (message, result)


@given(message_lists, st.booleans())
def test_a_normalized_list_stays_as_it_is(messages: list[ChatMessage], system_role: bool) -> None:
    once = normalize_messages(messages, system_role=system_role)
    assert normalize_messages(once, system_role=system_role) == once


@given(message_lists, message_lists, st.booleans())
def test_what_is_added_at_the_end_changes_nothing_before_the_last_message(
    messages: list[ChatMessage], later: list[ChatMessage], system_role: bool
) -> None:
    messages.append(ChatMessage("user", "question"))
    shorter = normalize_messages(messages, system_role=system_role)
    longer = normalize_messages([*messages, *later], system_role=system_role)
    assert longer[: len(shorter) - 1] == shorter[:-1]
    assert longer[len(shorter) - 1].content.startswith(shorter[-1].content)


@given(message_lists, st.booleans())
def test_the_last_user_message_comes_last(
    messages: Sequence[ChatMessage], system_role: bool
) -> None:
    result = normalize_messages([*messages, ChatMessage("user", "question")])
    assert result[-1].role == "user"
    assert result[-1].content.endswith("question")


@pytest.mark.parametrize("blank", ["", " \n", "\u3000"])
def test_messages_without_a_reply_are_merged(blank: str) -> None:
    """A turn that was stopped before its first word has an empty reply in the history."""
    assert normalized(
        ("user", "one"), ("assistant", blank), ("user", "two"), ("assistant", blank), ("user", "3")
    ) == [("user", "one\n\ntwo\n\n3")]


def test_an_assistant_that_begins_gets_a_user_before_it() -> None:
    assert normalized(("system", "S"), ("assistant", "Hello"), ("user", "Hi")) == [
        ("system", "S"),
        ("user", PLACEHOLDER),
        ("assistant", "Hello"),
        ("user", "Hi"),
    ]


def test_a_later_system_message_stays_at_its_place() -> None:
    assert normalized(
        ("system", "S"),
        ("developer", "D"),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("system", "French now"),
        ("user", "Bye"),
    ) == [
        ("system", "S\n\nD"),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "French now\n\nBye"),
    ]


def test_the_result_of_a_tool_is_what_the_user_gives() -> None:
    assert normalized(
        ("user", "How warm is it?"), ("assistant", ""), ("tool", "22"), ("assistant", "22 degrees")
    ) == [
        ("user", "How warm is it?\n\n22"),
        ("assistant", "22 degrees"),
        ("user", PLACEHOLDER),
    ]


@pytest.mark.parametrize("system_role", [True, False])
def test_system_messages_alone_are_the_users(system_role: bool) -> None:
    messages: tuple[tuple[Role, str], ...] = ("system", "Write a haiku"), ("developer", "now")
    assert normalized(*messages, system_role=system_role) == [("user", "Write a haiku\n\nnow")]


def test_without_a_system_role_the_text_is_put_before_the_users() -> None:
    assert normalized(
        ("system", "S"), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), system_role=False
    ) == [("user", "S\n\nHi"), ("assistant", "Hello"), ("user", "Bye")]


def test_nothing_at_all_is_a_user_who_says_nothing() -> None:
    assert normalized() == [("user", PLACEHOLDER)]
    assert normalized(("user", ""), ("assistant", "")) == [("user", PLACEHOLDER)]


def test_a_list_that_needs_no_change_keeps_its_messages() -> None:
    messages = said(("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    assert all(
        before is after
        for before, after in zip(messages, normalize_messages(messages), strict=True)
    )


ONE, OTHER, THIRD = (Image("image/png", bytes([number])) for number in range(3))


def test_images_stay_with_their_messages_in_their_order() -> None:
    messages = (
        ChatMessage("user", "Look", (ONE,)),
        ChatMessage("user", " \n", (OTHER,)),
        ChatMessage("assistant", "A cat."),
        ChatMessage("tool", "", (THIRD,)),
    )
    assert normalize_messages(messages) == (
        ChatMessage("user", "Look", (ONE, OTHER)),
        ChatMessage("assistant", "A cat."),
        ChatMessage("user", "", (THIRD,)),
    )
