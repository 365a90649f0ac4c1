"""Tools for the files of a conversation."""

from typing import Annotated

from pydantic import Field

from palaver import Attachment, InvalidInput, ToolContext, tool
from palaver_plugins.tools.excerpts import Start, excerpt_document

MAX_FILES = 50
MAX_NAME = 300


@tool(read_only=True, parallel=True, untrusted=True)
def list_files(context: ToolContext) -> str:
    """List the files that were sent in this conversation, the newest first."""
    files = context.services.files
    if not files:
        return "No file was sent in this conversation."
    lines = [f"{file.name} ({file.media_type}, {file.size} bytes)" for file in files[:MAX_FILES]]
    return "\n".join(
        [*lines, *([f"… and {len(files) - MAX_FILES} older ones"] * (len(files) > MAX_FILES))]
    )


@tool(read_only=True, parallel=True, untrusted=True)
async def read_file(
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME, description="Name of the file")],
    context: ToolContext,
    start: Start = 0,
) -> str:
    """Read a file that was sent in this conversation as text: text, Markdown, HTML, PDF or Word.

    Raises `InvalidInput` and `NotFound`.
    """
    file = _find_file(name, context.services.files)
    return excerpt_document(await context.services.read_file(file), start)


def _find_file(name: str, files: tuple[Attachment, ...]) -> Attachment:
    """Return the newest file of that name, in any case. Raises `InvalidInput`."""
    for compare in (str, str.casefold):
        for file in files:
            if compare(file.name) == compare(name):
                return file
    names = ", ".join(repr(file.name) for file in files[:MAX_FILES])
    raise InvalidInput(
        f"No file {name!r} was sent here; there are: {names}."
        if files
        else "No file was sent here."
    )
