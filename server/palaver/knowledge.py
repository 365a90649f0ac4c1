"""KnowledgeBase: documents that answers are based on. Implementations are plugins."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Text to search. ``id`` is stable (a path or URL): adding it again replaces the document."""

    id: str
    title: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Part of a document. ``number`` counts the document's passages from 1; ``section`` is the
    path of headings above it; ``score`` orders the passages of one search, higher is better."""

    document: str
    title: str
    section: str
    number: int
    text: str
    score: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DocumentInfo:
    """A stored document and its number of passages."""

    id: str
    title: str
    passages: int


class KnowledgeBase(Protocol):
    """Documents of all tenants. Every call is limited to one tenant's documents."""

    async def start(self) -> None:
        """Open the knowledge base. Raises `ConfigurationError` if that is impossible."""

    async def close(self) -> None:
        """Release the resources."""

    async def add(self, tenant: str, documents: Sequence[Document]) -> int:
        """Store documents, replacing those with the same id. Return the number of passages."""

    async def remove(self, tenant: str, document: str) -> bool:
        """Remove a document. Return True if it existed."""

    async def documents(self, tenant: str) -> tuple[DocumentInfo, ...]:
        """Return the tenant's documents."""

    async def search(self, tenant: str, query: str, limit: int) -> tuple[Passage, ...]:
        """Return at most ``limit`` passages, best first; none if nothing matches.

        Raises `TooLarge` when the search would take too long.
        """
