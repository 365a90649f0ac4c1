"""Normalization: messages of any origin become a list that every chat template takes.

Templates and servers differ in what they refuse: two messages of a role in a row, an assistant that
begins, a system message in the middle, an empty text, a role that they do not know.
"""

from collections.abc import Iterable

from palaver.engine import ChatMessage, Role

PLACEHOLDER = "[…]"
"""Text of a user message that is missing: before an assistant's that begins, or at the end."""
SEPARATOR = "\n\n"


def normalize_messages(
    messages: Iterable[ChatMessage], *, system_role: bool = True
) -> tuple[ChatMessage, ...]:
    """Return the same texts as at most one system message, then user and assistant in turns.

    The list begins and ends with the user, and no text is blank, except beside images. Neighbours
    of a role are merged. System messages at the beginning are one; a later one becomes the user's,
    at its place, and so does every one without ``system_role``. So messages that are added at the
    end change nothing before the last one, which the engine's prefix cache holds.
    """
    groups: list[tuple[Role, list[ChatMessage]]] = []
    for message in messages:
        is_blank = not message.content or message.content.isspace()
        if is_blank and not message.images:
            continue
        at_beginning = not groups or groups[-1][0] == "system"
        role = _role_of(message, system_role=system_role and at_beginning)
        if role == "assistant" and at_beginning:
            groups.append(("user", [ChatMessage("user", PLACEHOLDER)]))
        if groups and groups[-1][0] == role:
            groups[-1][1].append(message)
        else:
            groups.append((role, [message]))
    if not groups or groups[-1][0] == "assistant":
        groups.append(("user", [ChatMessage("user", PLACEHOLDER)]))
    elif groups[-1][0] == "system":
        groups[-1] = ("user", groups[-1][1])
    return tuple([_merge(role, group) for role, group in groups])


def _role_of(message: ChatMessage, *, system_role: bool) -> Role:
    """Return the role that the text gets: what is neither the model's own nor a system message that
    may be one is part of what the user gives it, as the results of tools are."""
    if message.role == "assistant":
        return "assistant"
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
    )
