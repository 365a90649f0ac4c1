"""Tool ``search_knowledge``: passages of the operator's documents, which the reply cites."""

from typing import Annotated

from pydantic import Field

from palaver import Passage, ToolContext, cut_text, tool

MAX_QUERY = 1_000
MAX_PASSAGES = 8
PASSAGE_BYTES = 4_000


@tool(read_only=True, parallel=True)
async def search_knowledge(
    query: Annotated[
        str, Field(min_length=1, max_length=MAX_QUERY, description="A question or a few words")
    ],
    context: ToolContext,
    limit: Annotated[int, Field(ge=1, le=MAX_PASSAGES, description="Most passages")] = 4,
) -> str:
    """Search the documents of this organization. Returns numbered passages; write [1] after each
    statement that rests on passage 1.

    Raises `TooLarge` when the search takes too long.
    """
    passages = await context.services.search(query, limit)
    if not passages:
        return "Nothing in the documents fits these words. Try others, or say that it is not known."
    return "\n\n".join(_format(each, context.services.cite(each)) for each in passages)


def _format(passage: Passage, number: int) -> str:
    headings = " › ".join(filter(None, (passage.title, passage.section)))
    return f"[{number}] {headings}\n{cut_text(passage.text, PASSAGE_BYTES)}"
