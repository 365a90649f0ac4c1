"""Ingestion: files become documents of a tenant, and no file ends it for the others."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

from palaver import Document, DocumentInfo, InvalidInput, KnowledgeBase, ReadLimits
from palaver_plugins.knowledge import files
from palaver_plugins.knowledge.names import choose_name, find_real_path

BATCH_DOCUMENTS, BATCH_CHARACTERS = 100, 2_000_000
"""A replaced document costs a merge of the full-text index, once for each batch."""


class Ingestion:
    """Adding of files to one tenant's documents, and what became of each of them."""

    def __init__(self, base: KnowledgeBase, tenant: str, limits: ReadLimits) -> None:
        self._base = base
        self._tenant = tenant
        self._limits = limits
        self._known: dict[str, list[DocumentInfo]] = {}
        """Stored documents by their canonical paths."""
        self._used: set[str] = set()
        self._seen: set[str] = set()
        self._batch: list[tuple[Path, Document]] = []
        self.documents = self.passages = self.unchanged = 0
        self.problems: list[tuple[Path, str]] = []
        self.notes: list[tuple[Path, str]] = []

    async def run(self, paths: Iterable[Path]) -> None:
        infos = await self._base.documents(self._tenant)
        self._used.update(info.name or info.id for info in infos)
        self._known = await asyncio.to_thread(_by_canonical_path, infos)
        for path in paths:
            await self._read(path)
            size = sum(len(document.text) for _, document in self._batch)
            if len(self._batch) >= BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
                await self._store()
        await self._store()

    async def _read(self, path: Path) -> None:
        try:
            id_ = await asyncio.to_thread(os.path.realpath, path)
            if id_ in self._seen:
                return
            self._seen.add(id_)
            content = await asyncio.to_thread(files.read_file, path, self._limits)
            known = self._known.get(id_, [])
            names = (info.name for info in known if info.name)
            name = next(names, "") or choose_name(id_, self._used)
            self._used.add(name)
            document = Document(id=id_, name=name, title=content.title, text=content.text)
            self.notes += [(path, note) for note in content.notes]
            if [(info.id, info.digest) for info in known] == [(id_, document.digest)]:
                self.unchanged += 1
            else:
                self._batch.append((path, document))
        except InvalidInput as error:
            self.problems.append((path, str(error)))
        except Exception as error:  # noqa: BLE001 - the barrier around each file
            self.problems.append((path, f"{type(error).__name__}: {error}"))

    async def _store(self) -> None:
        """Store the batch; after a failure one by one, so that one document fails for itself."""
        batch, self._batch = self._batch, []
        try:
            await self._add([document for _, document in batch])
        except Exception:  # noqa: BLE001 - each document reports its own
            for path, document in batch:
                try:
                    await self._add([document])
                except Exception as error:  # noqa: BLE001 - the barrier around each document
                    self.problems.append((path, f"it cannot be stored: {error}"))

    async def _add(self, documents: list[Document]) -> None:
        if not documents:
            return
        self.passages += await self._base.add(self._tenant, documents)
        self.documents += len(documents)
        for document in documents:
            for known in self._known.get(document.id, []):
                if known.id != document.id:  # of an older version, by the path as typed
                    await self._base.remove(self._tenant, known.id)


def _by_canonical_path(infos: Iterable[DocumentInfo]) -> dict[str, list[DocumentInfo]]:
    found: dict[str, list[DocumentInfo]] = {}
    for info in sorted(infos, key=lambda info: not os.path.isabs(info.id)):
        found.setdefault(find_real_path(info.id), []).append(info)
    return found
