"""Commands ``palaver knowledge``: add, sync, list, remove, search and embed documents."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

import click

from palaver import (
    DEFAULT_COLLECTION,
    EXIT_FAILED,
    ConfigurationError,
    Console,
    DocumentInfo,
    InvalidInput,
    KnowledgeBase,
    NotFound,
    PalaverError,
    Passage,
    ReadLimits,
    SearchByMeaning,
    check_name,
    echo,
    hookimpl,
)
from palaver_plugins.knowledge import files
from palaver_plugins.knowledge.ingestion import Ingestion, Loaded
from palaver_plugins.knowledge.names import find_documents
from palaver_plugins.knowledge.sitemaps import find_pages

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])
MAX_SHOWN_CHARACTERS = 300
"""Characters of a passage that ``search`` prints."""

_tenant = click.option(
    "--tenant", default="default", show_default=True, help="Tenant that owns the documents."
)


def _check_collection(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    try:
        return value if value is None else check_name(value, "collection")
    except InvalidInput as error:
        raise click.BadParameter(str(error)) from error


def _collection(meaning: str) -> Callable[[F], F]:
    return click.option("--collection", metavar="NAME", callback=_check_collection, help=meaning)


_into_collection = _collection(
    "Collection of the documents. Without it, documents stay in theirs, and new ones get into "
    f"{DEFAULT_COLLECTION!r}."
)


def _run_with_knowledge(
    console: Console, work: Callable[[KnowledgeBase], Awaitable[T]], *, by_meaning: bool = False
) -> T:
    # Both properties read files on first use, which must not block the event loop.
    _ = console.build_context, console.registry

    async def run() -> T:
        async with console.open_knowledge(by_meaning=by_meaning) as base:
            return await work(base)

    return asyncio.run(run())


def _read_limits(console: Console) -> ReadLimits:
    settings = console.settings.knowledge
    return ReadLimits(
        timeout=settings.read_timeout,
        memory=settings.read_memory_mib << 20,
        file_bytes=settings.max_file_bytes,
        text_characters=settings.max_text_characters,
    )


async def _embed(base: KnowledgeBase) -> bool:
    """Wait until all passages have a vector, with a progress bar. Return whether they have."""
    if not isinstance(base, SearchByMeaning):
        return False
    hidden = not sys.stdout.isatty()
    with click.progressbar(length=1, label="Computing vectors", hidden=hidden) as progress:

        def show(done: int, total: int) -> None:
            progress.length = total
            progress.update(done - progress.pos)

        return await base.wait_until_embedded(show)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@click.group()
def knowledge() -> None:
    """Add, list, remove and search documents for grounded answers."""


@knowledge.command()
@click.argument("paths", nargs=-1, required=True)
@_tenant
@_into_collection
@click.pass_obj
def add(console: Console, paths: tuple[str, ...], tenant: str, collection: str | None) -> None:
    """Add files and folders: Markdown, text, HTML, PDF, Word.

    A file that was added before is replaced if it has changed. A file that cannot be read is
    reported; the other files are added, and the exit code is 2.
    """
    if "" in paths:
        raise click.BadParameter("a path is empty; '.' is the current folder")
    work = _Work(console, tenant, collection)
    found = work.find_files(paths)

    async def add_all(base: KnowledgeBase) -> None:
        ingestion = work.start(base)
        with _progress(found, "Adding") as progress:
            await ingestion.run(progress)
        await _embed(base)

    _run_with_knowledge(console, add_all, by_meaning=True)
    work.report("file")


@knowledge.command()
@click.argument("sources", nargs=-1, required=True)
@_tenant
@_into_collection
@click.pass_obj
def sync(console: Console, sources: tuple[str, ...], tenant: str, collection: str | None) -> None:
    """Bring the documents up to date with folders and sitemaps.

    What is new or has changed is added, what has vanished is removed. A source is a folder, or the
    address of a sitemap: its pages are fetched by the rules of the
    settings [fetch]. A file that has not changed is not read again; a page that has not changed
    since the time in the sitemap is not fetched again.
    """
    work = _Work(console, tenant, collection)
    for source in sources:
        if "://" not in source and not Path(source).is_dir():
            raise click.BadParameter(f"{source!r} is neither a folder nor the address of a sitemap")
    found = {source: work.find_files([source]) for source in sources if "://" not in source}

    async def sync_all(base: KnowledgeBase) -> None:
        async with console.make_fetcher() as fetcher:
            for source in sources:
                if source in found:
                    await work.sync_folder(base, source, found[source])
                else:
                    await work.sync_sitemap(base, source, fetcher.fetch)
        await _embed(base)

    _run_with_knowledge(console, sync_all, by_meaning=True)
    work.report("source")


class Fetched(Protocol):
    """A page that was fetched."""

    @property
    def name(self) -> str: ...
    @property
    def media_type(self) -> str: ...
    @property
    def content(self) -> bytes: ...


class Fetch(Protocol):
    """Fetching of a page by the rules of the settings ``[fetch]``."""

    async def __call__(
        self, url: str, written: Iterable[str], *, any_type: bool = False
    ) -> Fetched: ...


class _Work:
    """Work of one command: sources that become documents, and the report about them."""

    def __init__(self, console: Console, tenant: str, collection: str | None) -> None:
        self._tenant = tenant
        self._collection = collection
        self._limits = _read_limits(console)
        self._done: list[Ingestion] = []
        self._problems: list[tuple[Path | str, str]] = []
        self._notes: list[tuple[Path | str, str]] = []

    def find_files(self, paths: Iterable[str]) -> list[Path]:
        return list(
            files.find_files(
                [Path(path) for path in paths],
                lambda *problem: self._problems.append(problem),
                lambda *note: self._notes.append(note),
            )
        )

    def start(self, base: KnowledgeBase) -> Ingestion:
        self._done.append(Ingestion(base, self._tenant, self._limits, self._collection))
        return self._done[-1]

    async def sync_folder(self, base: KnowledgeBase, folder: str, found: Sequence[Path]) -> None:
        if not found:  # perhaps a disk that is not there
            self._problems.append((folder, "it holds no file that can be read; nothing is removed"))
            return
        ingestion = self.start(base)
        with _progress(found, f"Reading {folder}") as progress:
            await ingestion.run(progress)
        await ingestion.remove_vanished(Path(folder))

    async def sync_sitemap(
        self,
        base: KnowledgeBase,
        url: str,
        fetch: Fetch,
    ) -> None:
        async def load(address: str) -> Loaded:
            file = await fetch(address, ())
            return Loaded(file.name, file.media_type, file.content)

        async def load_sitemap(address: str) -> bytes:
            return (await fetch(address, (), any_type=True)).content  # it may be compressed

        try:
            pages = await find_pages(url, load_sitemap, lambda *note: self._notes.append(note))
        except PalaverError as error:
            self._problems.append((url, f"{error}; nothing is removed"))
            return
        ingestion = self.start(base)
        with _progress(pages, f"Fetching {url}") as progress:
            await ingestion.run_pages(progress, load, url)
        await ingestion.remove_unlisted(url)

    def report(self, noun: str) -> None:
        """Print what was done. Exits with `EXIT_FAILED` after problems."""
        done = self._done
        documents, passages = sum(d.documents for d in done), sum(d.passages for d in done)
        problems = [*self._problems, *(each for d in done for each in d.problems)]
        parts = [f"Added {_count(documents, 'document')} with {_count(passages, 'passage')}."]
        if unchanged := sum(d.unchanged for d in done):
            parts.append(f"{_count(unchanged, 'document')} unchanged.")
        if removed := sum(d.removed for d in done):
            parts.append(f"Removed {_count(removed, 'document')}.")
        if problems:
            parts.append(f"{_count(len(problems), noun)} failed.")
        echo(" ".join(parts))
        for path, note in [*self._notes, *(each for d in done for each in d.notes)]:
            echo(f"Note: {path}: {note}", err=True)
        for path, problem in problems:
            echo(f"Not added: {path}: {problem}", err=True)
        if problems:
            raise SystemExit(EXIT_FAILED)


def _progress(items: Sequence[T], label: str) -> AbstractContextManager[Iterable[T]]:
    return click.progressbar(items, label=label, hidden=not sys.stdout.isatty())


@knowledge.command(name="list")
@click.argument("documents", nargs=-1)
@_tenant
@_collection("Only documents of this collection.")
@click.pass_obj
def list_documents(
    console: Console, documents: tuple[str, ...], tenant: str, collection: str | None
) -> None:
    """List the documents with their number of passages.

    With DOCUMENTS, list those only: by path in any spelling, or by name.
    """
    infos = _run_with_knowledge(console, lambda base: _find_infos(base, tenant, collection))
    found = find_documents(documents, infos)
    for info in [info for info in found.values() if info] if documents else infos:
        is_named = info.name not in ("", info.id, info.id.rpartition("/")[2])
        named = f", named {info.name!r}" if is_named else ""
        is_special = info.collection != DEFAULT_COLLECTION
        where = f", in collection {info.collection!r}" if is_special else ""
        echo(f"{info.passages:6}  {info.id}  ({info.title}){named}{where}")
    _report_missing(typed for typed, info in found.items() if not info)


async def _find_infos(
    base: KnowledgeBase, tenant: str, collection: str | None
) -> tuple[DocumentInfo, ...]:
    """Return the documents of a collection; None: of all. Raises `NotFound` for one without any."""
    infos = await base.documents(tenant)
    found = tuple(info for info in infos if collection in (None, info.collection))
    if collection is not None and not found:
        known = ", ".join(sorted({repr(info.collection) for info in infos})) or "none"
        raise NotFound(f"there is no collection {collection!r}; there are: {known}")
    return found


def _report_missing(documents: Iterable[str]) -> None:
    missing = list(documents)
    for document in missing:
        echo(f"There is no document {document!r}.", err=True)
    if missing:
        raise SystemExit(EXIT_FAILED)


@knowledge.command()
@click.argument("documents", nargs=-1)
@_tenant
@_collection("Only documents of this collection; all of them without DOCUMENTS.")
@click.pass_obj
def remove(
    console: Console, documents: tuple[str, ...], tenant: str, collection: str | None
) -> None:
    """Remove documents, or all of a collection.

    Each is named by its path, in any spelling, or by the name that answers cite.
    The files need not exist any more.
    """
    if not documents and collection is None:
        raise click.UsageError("name documents, or a collection with --collection")

    async def remove_all(base: KnowledgeBase) -> tuple[int, list[str]]:
        infos = await _find_infos(base, tenant, collection)
        found = await asyncio.to_thread(find_documents, documents, infos)
        removed = {info.id for info in (found.values() if documents else infos) if info}
        for id_ in removed:
            await base.remove(tenant, id_)
        return len(removed), [typed for typed, info in found.items() if not info]

    number, missing = _run_with_knowledge(console, remove_all)
    echo(f"Removed {_count(number, 'document')}.")
    _report_missing(missing)


@knowledge.command()
@click.argument("query")
@click.option("--limit", default=4, show_default=True, type=click.IntRange(1, 50))
@_tenant
@_collection("Only passages of this collection.")
@click.pass_obj
def search(console: Console, query: str, limit: int, tenant: str, collection: str | None) -> None:
    """Show the best passages for a question."""

    async def find(base: KnowledgeBase) -> tuple[Passage, ...]:
        if collection is not None:
            await _find_infos(base, tenant, collection)
        wanted = None if collection is None else frozenset([collection])
        return await base.search(tenant, query, limit, wanted)

    found = _run_with_knowledge(console, find, by_meaning=True)
    if not found:
        echo("Nothing matches.")
    for number, passage in enumerate(found, 1):
        where = f"{passage.document}, passage {passage.number}"
        heading = " > ".join(part for part in (passage.title, passage.section) if part)
        text = passage.text
        if len(text) > MAX_SHOWN_CHARACTERS:
            text = f"{text[:MAX_SHOWN_CHARACTERS]}…"
        echo(f"[{number}] {heading} ({where}, score {passage.score:.3f})")
        echo(f"{text}\n", keep_lines=True)


@knowledge.command()
@click.pass_obj
def embed(console: Console) -> None:
    """Compute the vectors that passages of any tenant lack.

    A server does so by itself, in the background. Vectors of another embedder are replaced.
    """
    if console.builder.embedder() is None:
        raise ConfigurationError(
            "there is no embedder here: the server's engine embeds when the server runs, or "
            "embedding.use has to name one; see docs/embeddings.md"
        )
    if not _run_with_knowledge(console, _embed, by_meaning=True):
        echo("Not all passages have a vector.", err=True)
        raise SystemExit(EXIT_FAILED)
    echo("All passages have a vector.")


@hookimpl
def palaver_register_commands() -> Iterable[click.Command]:
    return [knowledge]
