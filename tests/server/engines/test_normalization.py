"""Messages of any origin become a list that every chat template takes."""

import json
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver.engine import TOOL_NAME_PATTERN, ChatMessage, Image, Role, ToolCall
from palaver.engines.normalization import NO_RESULT, PLACEHOLDER, normalize_messages

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


# Calls of tools

CALL_IDS = ("a", "b", "call_0123456789")
calls = st.builds(
    ToolCall,
    st.sampled_from(CALL_IDS),
    st.sampled_from(["roll", "flip"]) | st.text(max_size=4),
    st.sampled_from(['{"sides": 6}', "{}", "[1]", "{half"]) | st.text(max_size=4),
)
agent_messages = st.builds(
    ChatMessage,
    st.sampled_from(ROLES),
    texts,
    tool_call_id=st.sampled_from(CALL_IDS),
) | st.builds(
    ChatMessage,
    st.just("assistant"),
    texts,
    tool_calls=st.lists(calls, min_size=1, max_size=3).map(tuple),
)
agent_lists = st.lists(agent_messages, max_size=12)


def calling(*tool_calls: ToolCall, text: str = "") -> ChatMessage:
    return ChatMessage("assistant", text, tool_calls=tool_calls)


def result(call_id: str, text: str, images: tuple[Image, ...] = ()) -> ChatMessage:
    return ChatMessage("tool", text, images, tool_call_id=call_id)


ROLL = ToolCall("aaaaaaaaa", "roll", '{"sides": 6}')
FLIP = ToolCall("bbbbbbbbb", "flip", "{}")
QUESTION = ChatMessage("user", "Roll and flip")


@given(agent_lists, st.booleans())
def test_each_call_is_followed_by_its_result(
    messages: list[ChatMessage], system_role: bool
) -> None:
    normal = list(normalize_messages(messages, system_role=system_role, tools=True))
    if normal[0].role == "system":
        del normal[0]
    assert normal[-1].role in ("user", "tool")
    expected = "user"
    pending: list[str] = []
    for message in normal:
        assert message.content.strip() or message.tool_calls
        if pending:
            assert (message.role, message.tool_call_id) == ("tool", pending.pop(0))
            continue
        assert message.role == expected, normal
        pending = [call.id for call in message.tool_calls]
        expected = "user" if message.role == "assistant" and not pending else "assistant"
        for call in message.tool_calls:
            assert re.fullmatch("[a-z0-9]{9}", call.id)
            assert TOOL_NAME_PATTERN.fullmatch(call.name)
            assert isinstance(json.loads(call.arguments), dict)
    assert not pending


@given(agent_lists, st.booleans(), st.booleans())
def test_every_text_beside_calls_is_kept(
    messages: list[ChatMessage], system_role: bool, tools: bool
) -> None:
    normal = normalize_messages(messages, system_role=system_role, tools=tools)
    shown = [message.content for message in normal]
    assert all(
        any(message.content in text for text in shown)
        for message in messages
        if message.content.strip()
    )


@given(agent_lists, st.booleans(), st.booleans())
def test_a_normalized_list_with_calls_stays_as_it_is(
    messages: list[ChatMessage], system_role: bool, tools: bool
) -> None:
    once = normalize_messages(messages, system_role=system_role, tools=tools)
    assert normalize_messages(once, system_role=system_role, tools=tools) == once


@given(agent_lists, agent_lists, st.booleans(), st.booleans())
def test_what_is_added_after_calls_changes_nothing_before_the_last_message(
    messages: list[ChatMessage], later: list[ChatMessage], system_role: bool, tools: bool
) -> None:
    messages.append(QUESTION)
    shorter = normalize_messages(messages, system_role=system_role, tools=tools)
    longer = normalize_messages([*messages, *later], system_role=system_role, tools=tools)
    assert longer[: len(shorter) - 1] == shorter[:-1]


@given(agent_lists)
def test_without_tools_the_roles_take_turns(messages: list[ChatMessage]) -> None:
    normal = normalize_messages(messages, system_role=False)
    assert [message.role for message in normal] == (["user", "assistant"] * len(normal))[
        : len(normal)
    ]
    assert not any(message.tool_calls for message in normal)


def test_calls_and_results_that_need_no_change_stay() -> None:
    messages = (
        QUESTION,
        calling(ROLL, FLIP, text="Let me see."),
        result(ROLL.id, "4"),
        result(FLIP.id, "heads"),
        ChatMessage("assistant", "4 and heads."),
        ChatMessage("user", "Again"),
        calling(ROLL),
        result(ROLL.id, "2"),
    )
    assert normalize_messages(messages, tools=True) == messages


def test_results_come_in_the_order_of_the_calls_and_missing_ones_are_added() -> None:
    messages = [
        QUESTION,
        calling(ROLL, FLIP),
        result(FLIP.id, "heads"),
        result("unknown", "what?"),
        ChatMessage("user", "Well?"),
        result(ROLL.id, "late"),
    ]
    assert normalize_messages(messages, tools=True) == (
        QUESTION,
        calling(ROLL, FLIP),
        result(ROLL.id, NO_RESULT),
        result(FLIP.id, "heads"),
        ChatMessage("assistant", PLACEHOLDER),
        ChatMessage("user", "what?\n\nWell?\n\nlate"),
    )


def test_the_last_calls_get_results_too() -> None:
    assert normalize_messages([QUESTION, calling(ROLL)], tools=True)[-1] == result(
        ROLL.id, NO_RESULT
    )


def test_two_messages_of_the_assistant_are_one_with_the_calls() -> None:
    messages = [QUESTION, ChatMessage("assistant", "One."), calling(ROLL, text="Two.")]
    assert normalize_messages(messages, tools=True)[1] == calling(ROLL, text="One.\n\nTwo.")


def test_what_no_template_takes_is_changed() -> None:
    wrong = (ToolCall("call_" + "x" * 60, "get weather!", "{half"), ToolCall("", "", "[]"))
    messages = [QUESTION, calling(*wrong), result(wrong[1].id, " "), result(wrong[0].id, "warm")]
    _, assistant, first, second = normalize_messages(messages, tools=True)
    one, other = assistant.tool_calls
    assert (one.name, other.name) == ("get_weather_", "_")
    assert json.loads(one.arguments) == {"invalid_json": "{half"}
    assert json.loads(other.arguments) == {"invalid_json": "[]"}
    assert (first.tool_call_id, first.content) == (one.id, "warm")
    assert (second.tool_call_id, second.content) == (other.id, NO_RESULT)


def test_images_of_a_result_are_the_users() -> None:
    messages = [QUESTION, calling(ROLL), result(ROLL.id, "", (ONE,))]
    assert normalize_messages(messages, tools=True)[2:] == (
        result(ROLL.id, NO_RESULT),
        ChatMessage("assistant", PLACEHOLDER),
        ChatMessage("user", "", (ONE,)),
    )


def test_without_tools_calls_and_results_are_texts() -> None:
    messages = [
        QUESTION,
        calling(ROLL, FLIP, text="Let me see."),
        result(ROLL.id, "4"),
        result(FLIP.id, "heads"),
        ChatMessage("user", "Well?"),
    ]
    assert normalize_messages(messages) == (
        QUESTION,
        ChatMessage(
            "assistant",
            'Let me see.\n\n{"tool": "roll", "arguments": {"sides": 6}}\n\n'
            '{"tool": "flip", "arguments": {}}',
        ),
        ChatMessage("user", "Result of roll:\n4\n\nResult of flip:\nheads\n\nWell?"),
    )


def test_each_of_many_calls_gets_its_result() -> None:
    many = [ToolCall(str(number), "flip", "{}") for number in range(2_000)]
    results = [result(call.id, "heads") for call in reversed(many)]
    normal = normalize_messages([QUESTION, calling(*many), *results], tools=True)
    assert [message.content for message in normal[2:]] == ["heads"] * len(many)
