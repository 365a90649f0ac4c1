"""KnowledgeBase: documents that grounded answers are taken from. Implementations are plugins."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text to be searched. ``id`` is stable (a path or URL): adding it again replaces it."""

    id: str
    title: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A stretch of a document. ``number`` counts the document's passages from 1; ``section`` is
    the heading it stands under; ``score`` orders passages of one search, higher is better."""

    document: str
    title: str
    section: str
    number: int
    text: str
    score: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DocumentInfo:
    id: str
    title: str
    passages: int


class KnowledgeBase(Protocol):
    """Every call is for one tenant and sees nothing of another's."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def add(self, tenant: str, documents: Sequence[Document]) -> int:
        """Store documents, replacing those with the same id. Returns the passages stored."""

    async def remove(self, tenant: str, document: str) -> bool:
        """Whether there was such a document."""

    async def documents(self, tenant: str) -> tuple[DocumentInfo, ...]: ...

    async def search(self, tenant: str, query: str, limit: int) -> tuple[Passage, ...]:
        """The best passages, best first; none when nothing matches."""
