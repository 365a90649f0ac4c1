"""Documents: the files with text that a person sends with messages."""

from collections.abc import Sequence

from palaver import Document, InvalidInput, NotFound, Turn
from palaver_skills.token_budget import split_to_tokens

CUT = "\n\n[…]"
_CHARACTERS_PER_TOKEN = 8
"""Most characters of a token in a usual text; what is beyond them is not counted."""


async def read_documents(turn: Turn) -> list[Document]:
    """Return the documents of the message; images are left to the model. Raises `InvalidInput` for
    one without text."""
    return [
        await turn.read_document(each)
        for each in turn.message.attachments
        if not each.media_type.startswith("image/")
    ]


async def read_earlier_documents(turn: Turn) -> list[Document]:
    """Return the documents of the newest message of the history that has some, without those that
    were deleted or cannot be read."""
    for entry in reversed(turn.history):
        found: list[Document] = []
        for attachment in (entry.attachments or ()) if entry.role == "user" else ():
            try:
                found.append(await turn.read_document(attachment))
            except (InvalidInput, NotFound):
                continue
        if found:
            return found
    return []


def join_documents(documents: Sequence[Document]) -> str:
    """Return documents as one text, each of several under its name."""
    if len(documents) == 1:
        return documents[0].text
    return "\n\n".join(f"# {document.name}\n\n{document.text}" for document in documents)


async def cut_documents(turn: Turn, documents: Sequence[Document], tokens: int) -> str:
    """Return documents as one text of about as many tokens; what is left out is marked."""
    text = join_documents(documents)
    beginning = text[: tokens * _CHARACTERS_PER_TOKEN]
    beginning = (await split_to_tokens(turn, beginning, tokens))[0].rstrip()
    return beginning if len(beginning) >= len(text.rstrip()) else beginning + CUT
