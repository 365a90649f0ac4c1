"""Commands ``palaver knowledge``: add, list, remove and search documents."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

import click

from palaver import EXIT_FAILED, Console, Document, InvalidInput, KnowledgeBase, echo, hookimpl
from palaver_plugins.knowledge import files

T = TypeVar("T")
MAX_SHOWN_CHARACTERS = 300
"""Characters of a passage that ``search`` prints."""
BATCH_DOCUMENTS, BATCH_CHARACTERS = 100, 2_000_000
"""A replaced document costs a merge of the full-text index, once for each batch."""

_tenant = click.option(
    "--tenant", default="default", show_default=True, help="Tenant that owns the documents."
)


def _run_with_knowledge(console: Console, work: Callable[[KnowledgeBase], Awaitable[T]]) -> T:
    # Both properties read files on first use, which must not block the event loop.
    _ = console.build_context, console.registry

    async def run() -> T:
        async with console.open_knowledge() as base:
            return await work(base)

    return asyncio.run(run())


def _read_limits(console: Console) -> files.ReadLimits:
    settings = console.settings.knowledge
    return files.ReadLimits(
        timeout=settings.read_timeout,
        memory=settings.read_memory_mib << 20,
        file_bytes=settings.max_file_bytes,
        text_characters=settings.max_text_characters,
    )


def _is_full(batch: list[Document]) -> bool:
    size = sum(len(document.text) for document in batch)
    return len(batch) >= BATCH_DOCUMENTS or size >= BATCH_CHARACTERS


@click.group()
def knowledge() -> None:
    """Add, list, remove and search documents that answers are taken from."""


@knowledge.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@_tenant
@click.pass_obj
def add(console: Console, paths: tuple[Path, ...], tenant: str) -> None:
    """Add files and the files in folders: Markdown, text, HTML, PDF.

    A file that was added before is replaced. A file that cannot be read is reported; the other
    files are added, and the exit code is 2.
    """
    problems: list[str] = []
    found = list(files.find_files(list(paths)))
    limits = _read_limits(console)

    async def add_all(base: KnowledgeBase) -> tuple[int, int]:
        documents = passages = 0
        batch: list[Document] = []
        hidden = not sys.stdout.isatty()
        with click.progressbar(found, label="Adding", hidden=hidden) as progress:
            for path in progress:
                try:
                    batch.append(await asyncio.to_thread(files.read_document, path, limits))
                except InvalidInput as error:
                    problems.append(f"{path}: {error}")
                if path is found[-1] or _is_full(batch):
                    passages += await base.add(tenant, batch)
                    documents += len(batch)
                    batch = []
        return documents, passages

    documents, passages = _run_with_knowledge(console, add_all)
    echo(f"Added {documents} documents with {passages} passages.")
    for problem in problems:
        echo(f"Not added: {problem}", err=True)
    if problems:
        raise SystemExit(EXIT_FAILED)


@knowledge.command(name="list")
@_tenant
@click.pass_obj
def list_documents(console: Console, tenant: str) -> None:
    """List the documents with their number of passages."""
    for info in _run_with_knowledge(console, lambda base: base.documents(tenant)):
        echo(f"{info.passages:6}  {info.id}  ({info.title})")


@knowledge.command()
@click.argument("documents", nargs=-1, required=True)
@_tenant
@click.pass_obj
def remove(console: Console, documents: tuple[str, ...], tenant: str) -> None:
    """Remove documents by the id that ``list`` shows."""

    async def remove_all(base: KnowledgeBase) -> list[str]:
        return [document for document in documents if not await base.remove(tenant, document)]

    missing = _run_with_knowledge(console, remove_all)
    echo(f"Removed {len(documents) - len(missing)} documents.")
    for document in missing:
        echo(f"There is no document {document!r}.", err=True)
    if missing:
        raise SystemExit(EXIT_FAILED)


@knowledge.command()
@click.argument("query")
@click.option("--limit", default=4, show_default=True, type=click.IntRange(1, 50))
@_tenant
@click.pass_obj
def search(console: Console, query: str, limit: int, tenant: str) -> None:
    """Show the best passages for a question."""
    found = _run_with_knowledge(console, lambda base: base.search(tenant, query, limit))
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


@hookimpl
def palaver_register_commands() -> Iterable[click.Command]:
    return [knowledge]
