"""``palaver export`` and ``palaver erase``: the data of one person.

The commands open the ledger. SQLite serves one process, so the server must be stopped first; a
person can do the same over HTTP while it runs, see docs/protocol.md.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from palaver.cli.console import Console, echo, encode_json, print_json
from palaver.cli.jobs import job_store
from palaver.errors import InvalidInput
from palaver.exports import collect_export
from palaver.files.store import FileStore
from palaver.jobs.people import erase_rows
from palaver.ledger import Erasure, Export, Ledger
from palaver.messages import StoredFile, check_name
from palaver.platforms.people import find_approvals, forget_person
from palaver.private_files import make_private_directory, write_private_file

T = TypeVar("T")
tenant_option = click.option(
    "--tenant", default="default", show_default=True, help="The person's tenant."
)
person_option = click.option("--person", required=True, help="The person's id in the tenant.")


@click.command()
@tenant_option
@person_option
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file."
)
@click.option(
    "--files",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the files that the person has uploaded into this folder, by their ids.",
)
@click.pass_obj
def export(
    console: Console, tenant: str, person: str, output: Path | None, folder: Path | None
) -> None:
    """Print all data of a person as JSON.

    With SQLite, stop the server first.
    """
    check_name(tenant, "tenant")
    check_name(person, "person")

    async def collect(ledger: Ledger, files: FileStore) -> Export:
        found = await files.files(tenant, person)
        if folder is not None:
            for file in found:
                await _write_file(files, tenant, file, folder)
        data = await collect_export(ledger.export(tenant, person))
        approvals = await find_approvals(ledger, console.registry.channels, tenant, person)
        return msgspec.structs.replace(data, files=found, approvals=approvals)

    data = run_with_data(console, collect)
    if output is None:
        print_json(data)
        return
    try:
        write_private_file(output, encode_json(data).encode() + b"\n")
    except OSError as error:
        raise InvalidInput(f"{str(output)!r} cannot be written: {error.strerror}") from error
    echo(f"Wrote {output}.")


@click.command()
@tenant_option
@person_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
@click.pass_obj
def erase(console: Console, tenant: str, person: str, yes: bool, as_json: bool) -> None:
    """Remove all data of a person, and print a receipt.

    With SQLite, stop the server first.
    """
    check_name(tenant, "tenant")
    check_name(person, "person")
    if not yes:
        click.confirm(f"Erase all data of {person!r} in tenant {tenant!r} permanently?", abort=True)

    async def erase_all(ledger: Ledger, files: FileStore) -> Erasure:
        erasure = await ledger.erase(tenant, person)
        await forget_person(ledger, console.registry.channels, tenant, person)
        return msgspec.structs.replace(erasure, files=await files.erase(tenant, person))

    receipt = run_with_data(console, erase_all)
    erased = erase_rows(job_store(console).directory, tenant, person)
    receipt = msgspec.structs.replace(receipt, training_rows=sum(each.rows for each in erased))
    if as_json:
        print_json(receipt)
        return
    echo(
        f"Erased {person!r} of tenant {tenant!r}: {receipt.messages} messages and "
        f"{receipt.events} events in {receipt.conversations} conversations, "
        f"{receipt.dead_letters} dead letters, {receipt.memories} memories, {receipt.files} files, "
        f"{receipt.training_rows} rows of training data."
    )
    for each in erased:
        echo(f"  {each}")


def run_with_data(console: Console, use_data: Callable[[Ledger, FileStore], Awaitable[T]]) -> T:
    """Run ``use_data`` with the started ledger and file store, and return its result."""
    builder = console.builder  # it reads files, which would block the event loop

    async def run() -> T:
        async with console.open_ledger() as ledger:
            files = builder.files()
            await files.start()
            return await use_data(ledger, files)

    return asyncio.run(run())


async def _write_file(files: FileStore, tenant: str, file: StoredFile, folder: Path) -> None:
    """Write the content of a file. Its name is the id and the ending: the person's name for it may
    be that of another file. Raises `InvalidInput`."""
    content = b"".join([piece async for piece in files.read(tenant, file.id)])
    path = folder / f"{file.id}{Path(file.name).suffix}"
    try:
        await asyncio.to_thread(_write_into_folder, path, content)
    except OSError as error:
        raise InvalidInput(f"{str(path)!r} cannot be written: {error.strerror}") from error


def _write_into_folder(path: Path, content: bytes) -> None:
    make_private_directory(path.parent)
    write_private_file(path, content)
