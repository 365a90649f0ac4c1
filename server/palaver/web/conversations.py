"""Conversations over the web surface: the websocket, HTTP and server-sent events share them."""

from palaver.authentication import Principal
from palaver.channels import ConversationAccess, ConversationService
from palaver.messages import Conversation, Cursor
from palaver.streams.resume import replay_start

CHANNEL = "web"
"""The channel of these conversations."""


def find_conversation(
    service: ConversationService, principal: Principal, thread: str, person: str | None
) -> ConversationAccess:
    """Return the access of a person to a conversation, which each use of it checks.

    Raises `Forbidden` and `InvalidInput`.
    """
    named = principal.resolve_person(person)
    conversation = Conversation(principal.tenant, CHANNEL, thread)
    return ConversationAccess(service, conversation, named)


async def open_conversation(
    service: ConversationService, principal: Principal, thread: str, person: str | None
) -> ConversationAccess:
    """Return the access of a person who may read a conversation. Raises `Forbidden` and
    `InvalidInput`."""
    access = find_conversation(service, principal, thread, person)
    await access.check_membership()
    return access


async def resume_cursor(
    service: ConversationService, conversation: Conversation, since: str | None
) -> Cursor | None:
    """Return the cursor of a client's ``since``, or None for a snapshot. Raises `InvalidInput`."""
    if not since:
        return None
    if since != "start":
        return Cursor.parse(since)
    return replay_start(await service.latest(conversation))
