"""Excerpts: long texts for a model, one part after the other."""

from typing import Annotated

from pydantic import Field

from palaver import Document, InvalidInput

EXCERPT_CHARACTERS = 8_000
"""Characters of a text that a tool returns at once."""

Start = Annotated[
    int,
    Field(
        ge=0, le=10_000_000, description="Number of the first character, to go on in a long text"
    ),
]


def excerpt_document(document: Document, start: int) -> str:
    """Return title and name of a document and a part of its text, and how to get the next part.
    Raises `InvalidInput`."""
    text = document.text
    if start and start >= len(text):
        raise InvalidInput(f"The text has {len(text)} characters; 'start' is beyond its end.")
    part = text[start : start + EXCERPT_CHARACTERS]
    end = start + len(part)
    title = (
        document.title if document.title == document.name else f"{document.title}\n{document.name}"
    )
    rest = (
        f"\n\n[{end} of {len(text)} characters; go on with start={end}]" if end < len(text) else ""
    )
    return f"{title}\n\n{part}{rest}"
