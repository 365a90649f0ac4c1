"""Conversations over the web surface: the websocket, HTTP and server-sent events share them."""

from collections.abc import Sequence

from palaver.authentication import Principal
from palaver.channels import ConversationAccess, ConversationService
from palaver.messages import BEGINS_LATER, Attachment, Conversation, Cursor
from palaver.server import Server
from palaver.streams.resume import replay_start
from palaver.web.frames import FileReference

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


async def attach_files(
    server: Server, access: ConversationAccess, references: Sequence[FileReference]
) -> tuple[Attachment, ...]:
    """Return the person's own files as attachments of a message to the conversation.

    Raises `Forbidden`, `NotFound` and `InvalidInput`.
    """
    if not references:
        return ()
    await access.check_membership()
    ids = [each.file for each in references]
    return await server.files.find_attachments(access.conversation.tenant, access.person, ids)


async def resume_cursor(
    service: ConversationService, conversation: Conversation, since: str | None
) -> Cursor | None:
    """Return the cursor of a client's ``since``, or None for a snapshot. Raises `InvalidInput`."""
    if not since:
        return None
    if since != "start":
        return Cursor.parse(since)
    latest = await service.latest(conversation)
    start = None if latest.epoch.endswith(BEGINS_LATER) else replay_start(latest)
    if start is None or (await service.snapshot(conversation)).alternatives:
        return None  # a stream that begins with a branch lacks what comes before
    return start
