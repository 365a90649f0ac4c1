"""Tool ``fetch``: a page or a file of the web as text, where the operator allows it.

A request tells another server the address, which a model may have made up of what it knows. So the
tool is not read-only: after text of strangers, the person is asked before each call.
"""

from typing import Annotated

from pydantic import Field

from palaver import ToolContext, tool
from palaver_plugins.tools.excerpts import Start, excerpt_document

MAX_URL = 2_000


@tool(idempotent=True, parallel=True, untrusted=True)
async def fetch(
    url: Annotated[
        str,
        Field(min_length=1, max_length=MAX_URL, description="Address as the person has written it"),
    ],
    context: ToolContext,
    start: Start = 0,
) -> str:
    """Fetch a web page, a text or a PDF and return its text.

    Raises `Forbidden` and `InvalidInput`.
    """
    url = url if "://" in url else f"https://{url}"
    return excerpt_document(await context.services.fetch(url), start)
