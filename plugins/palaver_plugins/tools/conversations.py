"""Tool ``search_conversations``: what a person and the assistant have said before."""

import datetime
from typing import Annotated

from pydantic import Field

from palaver import PastConversation, ToolContext, tool

MAX_QUERY = 100
MAX_CONVERSATIONS = 10


@tool(read_only=True, parallel=True, untrusted=True)
async def search_conversations(
    query: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_QUERY,
            description="A word or a short phrase that occurs in it",
        ),
    ],
    context: ToolContext,
    limit: Annotated[int, Field(ge=1, le=MAX_CONVERSATIONS, description="Most results")] = 5,
) -> str:
    """Search the person's own earlier conversations. Returns date, title and the text around the
    words, the newest first."""
    found = await context.services.search_conversations(query, limit)
    if not found:
        return "No earlier conversation holds these words. Try a single, rarer word."
    return "\n".join(map(_format, found))


def _format(conversation: PastConversation) -> str:
    date = datetime.datetime.fromtimestamp(conversation.active_at, datetime.UTC).date()
    title = conversation.title or "(without a title)"
    return f"{date} {title}" + (f": {conversation.excerpt}" if conversation.excerpt else "")
