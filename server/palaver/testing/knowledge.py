"""ListKnowledge: a knowledge base in memory, searched by shared words."""

import re
from collections.abc import Iterable, Sequence

from palaver.errors import InvalidInput
from palaver.knowledge import Document, DocumentInfo, Passage, ReadLimits

_WORD = re.compile(r"\w+")


class ListKnowledge:
    """Knowledge base with one passage per document, scored by the share of the query's words. Of
    files, it reads text in UTF-8."""

    def __init__(self, *documents: Document, tenant: str = "default") -> None:
        self._documents: dict[str, dict[str, Document]] = {tenant: {d.id: d for d in documents}}

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def add(self, tenant: str, documents: Sequence[Document]) -> int:
        self._documents.setdefault(tenant, {}).update({d.id: d for d in documents})
        return len(documents)

    async def remove(self, tenant: str, document: str) -> bool:
        return self._documents.get(tenant, {}).pop(document, None) is not None

    async def documents(self, tenant: str) -> tuple[DocumentInfo, ...]:
        documents = self._documents.get(tenant, {}).values()
        return tuple(
            DocumentInfo(
                id=d.id,
                title=d.title,
                passages=1,
                name=d.name,
                digest=d.digest,
                collection=d.collection,
            )
            for d in documents
        )

    async def document(self, tenant: str, document: str) -> Document | None:
        return self._documents.get(tenant, {}).get(document)

    async def read_file(
        self, name: str, media_type: str, content: bytes, limits: ReadLimits
    ) -> Document:
        try:
            return Document(id=name, name=name, title=name, text=content.decode())
        except UnicodeDecodeError as error:
            raise InvalidInput("it is not UTF-8 text") from error

    async def search_in(
        self, documents: Sequence[Document], query: str, limit: int
    ) -> tuple[Passage, ...]:
        return _find_passages(documents, query, limit)

    async def search(
        self, tenant: str, query: str, limit: int, collections: frozenset[str] | None = None
    ) -> tuple[Passage, ...]:
        documents = self._documents.get(tenant, {}).values()
        allowed = [d for d in documents if collections is None or d.collection in collections]
        return _find_passages(allowed, query, limit)


def _find_passages(documents: Iterable[Document], query: str, limit: int) -> tuple[Passage, ...]:
    words = set(_WORD.findall(query.lower()))
    found = [
        Passage(
            document=d.name or d.id,
            title=d.title,
            section="",
            number=1,
            text=d.text,
            score=len(words & set(_WORD.findall(d.text.lower()))) / max(1, len(words)),
        )
        for d in documents
    ]
    matching = [passage for passage in found if passage.score]
    return tuple(sorted(matching, key=lambda p: -p.score)[:limit])
