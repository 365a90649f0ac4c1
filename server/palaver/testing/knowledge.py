"""ListKnowledge: a knowledge base in memory, searched by shared words."""

import re
from collections.abc import Sequence

from palaver.knowledge import Document, DocumentInfo, Passage

_WORD = re.compile(r"\w+")


class ListKnowledge:
    """Knowledge base with one passage per document, scored by the share of the query's words."""

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
        return tuple(DocumentInfo(id=d.id, title=d.title, passages=1) for d in documents)

    async def search(self, tenant: str, query: str, limit: int) -> tuple[Passage, ...]:
        words = set(_WORD.findall(query.lower()))
        found = [
            Passage(
                document=d.id,
                title=d.title,
                section="",
                number=1,
                text=d.text,
                score=len(words & set(_WORD.findall(d.text.lower()))) / max(1, len(words)),
            )
            for d in self._documents.get(tenant, {}).values()
        ]
        matching = [passage for passage in found if passage.score]
        return tuple(sorted(matching, key=lambda p: -p.score)[:limit])
