"""Normalization: messages of any origin become a list that every chat template takes.

Templates and servers differ in what they refuse: two messages of a role in a row, an assistant that
begins, a system message in the middle, an empty text, a role that they do not know, a call of a
tool without its result, a result of no call, arguments that are no JSON object, an id that is long.
"""

import dataclasses
import hashlib
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from palaver.engine import TOOL_NAME_PATTERN, ChatMessage, Role, ToolCall

PLACEHOLDER = "[…]"
"""Text of a message that is missing: of a user before an assistant's that begins, or at the end; of
the assistant between the results of tools and a user's."""
NO_RESULT = "[no result]"
"""Result of a call that has none, or a blank one."""
SEPARATOR = "\n\n"
_SHORT_ID = re.compile("[a-z0-9]{9}")
"""Ids of calls in the form that every chat template takes; Mistral's take no other."""


def normalize_messages(
    messages: Iterable[ChatMessage], *, system_role: bool = True, tools: bool = False
) -> tuple[ChatMessage, ...]:
    """Return the same texts as at most one system message, then user and assistant in turns.

    The list begins and ends with the user, and no text is blank, except beside images. Neighbours
    of a role are merged. System messages at the beginning are one; a later one becomes the user's,
    at its place, and so does every one without ``system_role``. So messages that are added at the
    end change nothing before the last one, which the engine's prefix cache holds.

    With ``tools``, an assistant's message may have calls; directly after it comes one message of
    role ``tool`` for each of them, in their order, and then the assistant, or the end. Without, a
    call is part of the assistant's text, and its result of the user's. In both cases the result of
    a call is the message with its id among those of role ``tool`` that directly follow it. A call
    without one gets `NO_RESULT`; a result without a call is the user's text, at its place.
    """
    groups: list[tuple[Role, list[ChatMessage]]] = []
    for message in _pair_results(messages) if tools else _describe_calls(messages):
        if _is_blank(message) and not message.tool_calls:
            continue
        at_beginning = not groups or groups[-1][0] == "system"
        role = _role_of(message, system_role=system_role and at_beginning)
        if role == "assistant" and at_beginning:
            groups.append(("user", [ChatMessage("user", PLACEHOLDER)]))
        if role == "user" and groups and groups[-1][0] == "tool":
            groups.append(("assistant", [ChatMessage("assistant", PLACEHOLDER)]))
        if groups and groups[-1][0] == role != "tool":
            groups[-1][1].append(message)
        else:
            groups.append((role, [message]))
    if not groups or groups[-1][0] == "assistant":
        groups.append(("user", [ChatMessage("user", PLACEHOLDER)]))
    elif groups[-1][0] == "system":
        groups[-1] = ("user", groups[-1][1])
    return tuple([_merge(role, group) for role, group in groups])


def _is_blank(message: ChatMessage) -> bool:
    return not message.images and (not message.content or message.content.isspace())


def _role_of(message: ChatMessage, *, system_role: bool) -> Role:
    """Return the role that the text gets: what is neither the model's own nor a system message that
    may be one is part of what the user gives it."""
    if message.role in ("assistant", "tool"):
        return message.role
    is_system = message.role in ("system", "developer")
    return "system" if is_system and system_role else "user"


def _merge(role: Role, messages: list[ChatMessage]) -> ChatMessage:
    if len(messages) == 1 and messages[0].role == role:
        return messages[0]
    texts = [message.content for message in messages]
    return ChatMessage(
        role,
        SEPARATOR.join([text for text in texts if text and not text.isspace()]),
        tuple([image for message in messages for image in message.images]),
        tuple([call for message in messages for call in message.tool_calls]),
    )


# Calls of tools


def _pair_results(messages: Iterable[ChatMessage]) -> Iterator[ChatMessage]:
    """Yield the messages, each with calls followed by one result per call; any other message of
    role ``tool`` becomes the user's."""
    calling: ChatMessage | None = None
    following: list[ChatMessage] = []
    for message in messages:
        if message.role == "tool" and calling is not None:
            following.append(message)
            continue
        if calling is not None and not (_is_blank(message) and not message.tool_calls):
            yield from _resolve(calling, following)
            calling, following = None, []
        if message.role == "assistant" and message.tool_calls:
            calling = message
        elif message.role == "tool":
            yield _as_user(message)
        else:
            yield message
    if calling is not None:
        yield from _resolve(calling, following)


def _resolve(calling: ChatMessage, following: Sequence[ChatMessage]) -> Iterator[ChatMessage]:
    """Yield the message with calls, their results, and what else is in the ``following`` messages
    of role ``tool``."""
    calls = tuple([_representable(call) for call in calling.tool_calls])
    yield calling if calls == calling.tool_calls else dataclasses.replace(calling, tool_calls=calls)
    results: dict[str, deque[ChatMessage]] = {}
    for message in following:
        results.setdefault(message.tool_call_id, deque()).append(message)
    pictured: list[ChatMessage] = []
    for call, shown in zip(calling.tool_calls, calls, strict=True):
        text = ""
        if own := results.get(call.id):
            result = own.popleft()
            text = result.content
            if result.images:
                pictured.append(ChatMessage("user", "", result.images))
        is_blank = not text or text.isspace()
        yield ChatMessage("tool", NO_RESULT if is_blank else text, tool_call_id=shown.id)
    yield from pictured
    orphaned = {id(message) for own in results.values() for message in own}
    yield from (_as_user(message) for message in following if id(message) in orphaned)


def _as_user(message: ChatMessage) -> ChatMessage:
    return ChatMessage("user", message.content, message.images)


def _representable(call: ToolCall) -> ToolCall:
    """Return ``call`` as every chat template takes it."""
    call_id = call.id
    if not _SHORT_ID.fullmatch(call_id):
        call_id = hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:9]
    name = call.name
    if not TOOL_NAME_PATTERN.fullmatch(name):
        name = re.sub("[^a-zA-Z0-9_-]", "_", name)[:64] or "_"
    arguments = call.arguments
    if not is_json_object(arguments):
        arguments = json.dumps({"invalid_json": arguments}, ensure_ascii=False)
    return ToolCall(call_id, name, arguments)


def is_json_object(text: str) -> bool:
    """Return whether ``text`` is one JSON object."""
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (ValueError, RecursionError):  # also of text that is not Unicode
        return False


def describe_call(call: ToolCall) -> str:
    """Return a call as text, in the form in which `palaver.engines.tool_calling` asks for it."""
    name = json.dumps(call.name, ensure_ascii=False)
    return f'{{"tool": {name}, "arguments": {call.arguments}}}'


def _describe_calls(messages: Iterable[ChatMessage]) -> Iterator[ChatMessage]:
    """Yield the messages with calls and their results as texts of the assistant and the user."""
    names: dict[str, str] = {}
    for message in _pair_results(messages):
        if message.tool_calls:
            names = {call.id: call.name for call in message.tool_calls}
            texts = [message.content, *map(describe_call, message.tool_calls)]
            yield ChatMessage("assistant", SEPARATOR.join(filter(str.strip, texts)))
        elif message.role == "tool":
            result = f"Result of {names[message.tool_call_id]}:\n{message.content}"
            yield ChatMessage("user", result, message.images)
        else:
            yield message
