"""KnowledgeBase: documents that answers are based on. Implementations are plugins."""

import dataclasses
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

SearchWay = Literal["words", "vectors"]
"""One of the two rankings that a search by meaning puts together."""
DEFAULT_COLLECTION = "default"
"""The collection of documents that name no other one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Text to search. ``id`` is stable (a path or URL): adding it again replaces the document.
    ``name`` is shown to people in place of the id, which may say more than they should know.
    ``fingerprint`` tells whether what the text was read from has changed; ``origin`` is the sitemap
    that named it. ``collection`` is the set of the tenant's documents that it belongs to."""

    id: str
    title: str
    text: str
    name: str = ""
    fingerprint: str = ""
    origin: str = ""
    collection: str = DEFAULT_COLLECTION

    @property
    def digest(self) -> str:
        """SHA-256 of names and text: the same for a document that has not changed."""
        parts = "\0".join((self.id, self.name, self.title, self.text))
        return hashlib.sha256(parts.encode(errors="surrogatepass")).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Part of a document. ``document`` is the document's name, or its id if it has none;
    ``number`` counts the document's passages from 1; ``section`` is the path of headings above it;
    ``score`` orders the passages of one search, higher is better."""

    document: str
    title: str
    section: str
    number: int
    text: str
    score: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DocumentInfo:
    """A stored document and its number of passages. ``digest`` is that of the `Document`, empty if
    it is not stored: then a document counts as changed. ``fingerprint`` and ``origin`` are those of
    the `Document`, or empty; ``collection`` is that of the `Document`."""

    id: str
    title: str
    passages: int
    name: str = ""
    digest: str = ""
    fingerprint: str = ""
    origin: str = ""
    collection: str = DEFAULT_COLLECTION


def limit_collections(*limits: Iterable[str]) -> frozenset[str] | None:
    """Return the collections that all limits name, None for all there are: a limit without names
    allows all."""
    named = [frozenset(limit) for limit in limits]
    given = [limit for limit in named if limit]
    return frozenset.intersection(*given) if given else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """Limits of reading one file. ``timeout``: seconds. ``memory``: bytes of its process."""

    timeout: float = 30.0
    memory: int = 1 << 30
    file_bytes: int = 50_000_000
    text_characters: int = 10_000_000


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

    async def search(
        self, tenant: str, query: str, limit: int, collections: frozenset[str] | None = None
    ) -> tuple[Passage, ...]:
        """Return at most ``limit`` passages, best first; none if nothing matches. They are the best
        of these ``collections``; None: of all.

        Raises `TooLarge` when the search would take too long.
        """


@runtime_checkable
class SearchByMeaning(Protocol):
    """A knowledge base that also searches by the vectors of texts."""

    def use_embeddings(
        self, embed: Callable[[Sequence[str]], Awaitable[list[list[float]]]], model: str
    ) -> None:
        """Search with vectors of ``model`` from now on: ``embed`` returns one of unit length per
        text. The server calls this when it starts, if there is an embedder."""

    async def wait_until_embedded(
        self, on_progress: Callable[[int, int], None] | None = None
    ) -> bool:
        """Wait until every passage has a vector, or computing them has failed. Return whether all
        have one. ``on_progress`` gets the numbers of passages with a vector, and of all."""

    async def search_by(
        self,
        way: SearchWay,
        tenant: str,
        query: str,
        limit: int,
        collections: frozenset[str] | None = None,
    ) -> tuple[Passage, ...]:
        """Search as `KnowledgeBase.search` does, by words or vectors alone: what an evaluation
        compares the search with."""


@runtime_checkable
class DocumentStore(Protocol):
    """A knowledge base that gives back the text of its documents."""

    async def document(self, tenant: str, document: str) -> Document | None:
        """Return a document by its id, None when there is none. Its text may lack what no search
        needs, such as the levels of headings."""


@runtime_checkable
class DocumentReader(Protocol):
    """A knowledge base that also reads files, and searches in them, without storing anything."""

    async def read_file(
        self, name: str, media_type: str, content: bytes, limits: ReadLimits
    ) -> Document:
        """Return the text of a file that may come from anybody; its ``name`` is also the id.

        Raises `InvalidInput` with the reason, as a clause about the file: "it contains no text".
        """

    async def search_in(
        self, documents: Sequence[Document], query: str, limit: int
    ) -> tuple[Passage, ...]:
        """Return at most ``limit`` passages of these documents, as `KnowledgeBase.search` does."""


@runtime_checkable
class FolderReader(Protocol):
    """A knowledge base that reads files and folders of this machine, without storing anything."""

    async def read_files(self, paths: Sequence[Path], limits: ReadLimits) -> tuple[Document, ...]:
        """Return what ``palaver knowledge add`` would add. The ids are the files' real paths. The
        knowledge base need not be started.

        Raises `InvalidInput` that names the first path that cannot be read.
        """
