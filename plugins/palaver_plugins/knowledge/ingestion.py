"""Ingestion: files and pages become documents of a tenant, and none ends it for the others."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import NamedTuple, NoReturn

from palaver import (
    DEFAULT_COLLECTION,
    Document,
    DocumentInfo,
    InvalidInput,
    KnowledgeBase,
    PalaverError,
    ReadLimits,
)
from palaver_plugins.knowledge import files
from palaver_plugins.knowledge.names import choose_name, find_real_path
from palaver_plugins.knowledge.sitemaps import Page

BATCH_DOCUMENTS, BATCH_CHARACTERS = 100, 2_000_000
"""A replaced document costs a merge of the full-text index, once for each batch."""


class Loaded(NamedTuple):
    """Content of a page."""

    name: str
    media_type: str
    content: bytes


def read_documents(paths: Iterable[Path], limits: ReadLimits) -> tuple[Document, ...]:
    """Read files and folders as `Ingestion` does. Raises `InvalidInput` that names the first path
    that cannot be read."""

    def refuse(path: Path, problem: str) -> NoReturn:
        raise InvalidInput(f"{str(path)!r} cannot be read: {problem}")

    found: dict[str, Document] = {}
    used: set[str] = set()
    for path in files.find_files(list(paths), refuse):
        id_ = os.path.realpath(path)
        if id_ in found:
            continue
        try:
            content = files.read_file(path, limits)
        except InvalidInput as error:
            refuse(path, str(error))
        name = choose_name(id_, used)
        used.add(name)
        found[id_] = Document(id=id_, name=name, title=content.title, text=content.text)
    return tuple(found.values())


class Ingestion:
    """Adding of files and pages to one tenant's documents, and what became of each of them.
    ``collection``: that of the documents; None: the one that a document has, or the default."""

    def __init__(
        self, base: KnowledgeBase, tenant: str, limits: ReadLimits, collection: str | None = None
    ) -> None:
        self._base = base
        self._tenant = tenant
        self._limits = limits
        self._collection = collection
        self._known: dict[str, list[DocumentInfo]] = {}
        """Stored documents by their canonical paths, or addresses."""
        self._used: set[str] = set()
        self._seen: set[str] = set()
        self._batch: list[tuple[Path | str, Document]] = []
        self.documents = self.passages = self.unchanged = self.removed = 0
        self.problems: list[tuple[Path | str, str]] = []
        self.notes: list[tuple[Path | str, str]] = []

    async def run(self, paths: Iterable[Path]) -> None:
        """Add files that are new or have changed."""
        await self._find_known()
        for path in paths:
            await self._read(path, self._read_file(path))
        await self._store()

    async def run_pages(
        self, pages: Iterable[Page], load: Callable[[str], Awaitable[Loaded]], origin: str
    ) -> None:
        """Add pages of the sitemap ``origin`` that are new or have changed."""
        await self._find_known()
        for page in pages:
            await self._read(page.url, self._read_page(page, load, origin))
        await self._store()

    async def remove_vanished(self, folder: Path) -> None:
        """Remove the documents of files that are no longer in a folder."""
        root = await asyncio.to_thread(os.path.realpath, folder)
        for id_, infos in self._known.items():
            is_own = "://" not in id_ and Path(id_).is_relative_to(root) and id_ not in self._seen
            if is_own and await asyncio.to_thread(_is_gone, id_):
                await self._remove(infos)

    async def remove_unlisted(self, origin: str) -> None:
        """Remove the documents of pages that the sitemap ``origin`` does not name any more."""
        for id_, infos in self._known.items():
            if id_ not in self._seen:
                await self._remove([info for info in infos if info.origin == origin])

    async def _remove(self, infos: Iterable[DocumentInfo]) -> None:
        for info in infos:
            self.removed += await self._base.remove(self._tenant, info.id)

    async def _find_known(self) -> None:
        infos = await self._base.documents(self._tenant)
        self._used.update(info.name or info.id for info in infos)
        self._known = await asyncio.to_thread(_by_canonical_path, infos)

    async def _read(self, source: Path | str, reading: Awaitable[None]) -> None:
        try:
            await reading
        except PalaverError as error:
            self.problems.append((source, str(error)))
        except Exception as error:  # noqa: BLE001 - the barrier around each file
            self.problems.append((source, f"{type(error).__name__}: {error}"))
        size = sum(len(document.text) for _, document in self._batch)
        if len(self._batch) >= BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
            await self._store()

    async def _read_file(self, path: Path) -> None:
        id_ = await asyncio.to_thread(os.path.realpath, path)
        if id_ in self._seen:
            return
        self._seen.add(id_)
        fingerprint = await asyncio.to_thread(files.find_fingerprint, path, self._limits)
        if self._is_unchanged(id_, fingerprint):
            return
        content = await asyncio.to_thread(files.read_file, path, self._limits)
        names = (info.name for info in self._known.get(id_, []) if info.name)
        name = next(names, "") or choose_name(id_, self._used)
        self._used.add(name)
        self._take(
            path,
            Document(
                id=id_,
                name=name,
                title=content.title,
                text=content.text,
                fingerprint=fingerprint,
                collection=self._collection_of(id_),
            ),
            content.notes,
        )

    async def _read_page(
        self, page: Page, load: Callable[[str], Awaitable[Loaded]], origin: str
    ) -> None:
        self._seen.add(page.url)
        for info in self._known.get(page.url, []):
            version, *rest = info.fingerprint.split(" ", 2)
            is_same = version == files.READING_VERSION and rest[1:] == [page.changed]
            if page.changed and is_same and info.collection == self._collection_of(page.url):
                self.unchanged += 1
                return
        loaded = await load(page.url)
        digest = hashlib.sha256(loaded.content).hexdigest()
        fingerprint = files.make_fingerprint(digest, *filter(None, [page.changed]))
        if self._is_unchanged(page.url, fingerprint):
            return
        content = await asyncio.to_thread(files.read_content, *loaded, self._limits)
        document = Document(
            id=page.url,
            name=page.url,
            title=content.title or loaded.name,
            text=content.text,
            fingerprint=fingerprint,
            origin=origin,
            collection=self._collection_of(page.url),
        )
        self._take(page.url, document, content.notes)

    def _collection_of(self, id_: str) -> str:
        stored = (info.collection for info in self._known.get(id_, []))
        return self._collection or next(stored, DEFAULT_COLLECTION)

    def _is_unchanged(self, id_: str, fingerprint: str) -> bool:
        stored = [(each.id, each.fingerprint, each.collection) for each in self._known.get(id_, [])]
        is_same = stored == [(id_, fingerprint, self._collection_of(id_))]
        self.unchanged += is_same
        return is_same

    def _take(self, source: Path | str, document: Document, notes: Iterable[str]) -> None:
        self.notes += [(source, note) for note in notes]
        stored = self._known.get(document.id, [])
        is_same = [(info.id, info.digest, info.collection) for info in stored] == [
            (document.id, document.digest, document.collection)
        ]
        if is_same and not stored[0].fingerprint:  # the knowledge base may store none
            self.unchanged += 1
        else:
            self._batch.append((source, document))

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


def _is_gone(path: str) -> bool:
    """Return whether there is no such file; not knowing it is no."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
