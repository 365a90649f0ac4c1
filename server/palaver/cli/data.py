"""``palaver data``: prepare, show and check training data; who has consented.

Rows of the ledger and of the knowledge base are read when the command runs. With SQLite, stop the
server first; it can start again while the job runs.
"""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palaver.cli.console import Console, echo, echo_row
from palaver.cli.jobs import follow_job, job_store
from palaver.cli.people import tenant_option
from palaver.errors import InvalidInput
from palaver.jobs.folder import JobFolder
from palaver.jobs.people import (
    MANIFEST,
    PROFILE,
    SNAPSHOTS,
    PeopleNames,
    erase_rows,
)
from palaver.ledger import Ledger
from palaver.messages import check_name
from palaver.platforms.consents import EVERYONE, Consents
from palaver.private_files import make_private_directory

if TYPE_CHECKING:
    from palaver.data.recipe import Recipe, SourceTable
    from palaver.data.snapshots import Write

KIND = "data"
MEMORY_BYTES = 300_000_000
DISK_FACTOR = 6
"""Bytes of disk space for each one of the inputs, for the files of the steps."""
PROGRAM = ["-m", "palaver.data"]
recipe_path = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def data() -> None:
    """Prepare training data, and check it.

    The data is clean, without duplicates and personal data, and split without leaks.
    """


@data.command()
@click.argument("recipe", type=recipe_path)
@click.option("--name", default="", help="Name of the data (default: data-TIME).")
@click.option("--background", is_flag=True, help="Do not wait until it is prepared.")
@click.pass_obj
def prepare(console: Console, recipe: Path, name: str, background: bool) -> None:
    """Prepare training data by RECIPE, a TOML file. See docs/data.md.

    It runs as a job, which goes on when the terminal is closed: see 'palaver jobs'.
    """
    from palaver.data.program import LIBRARIES
    from palaver.data.recipe import load_recipe
    from palaver.evaluation.libraries import load_library

    for library in LIBRARIES:  # otherwise the job would find out
        load_library(library, extra="data")
    loaded = load_recipe(recipe)
    files = _find_files(loaded, recipe.parent)
    sizes = sum(path.stat().st_size for path in files.values())
    store = job_store(console)
    job = store.create(
        KIND,
        [sys.executable, *PROGRAM],
        {
            "recipe": loaded.model_dump(mode="json"),
            "files": {key: str(path) for key, path in files.items()},
        },
        inputs=list(files.values()),
        disk_bytes=DISK_FACTOR * sizes,
        memory_bytes=MEMORY_BYTES,
        name=name,
    )
    names = PeopleNames.create(job.path)
    try:
        _take_snapshots(console, loaded, recipe.parent, job, names)
        store.start(job)
    except BaseException:
        store.remove(job)
        raise
    if background:
        echo(f"Job {job.name!r} runs. Watch it with: palaver jobs show --follow {job.name}")
        return
    follow_job(job)
    if (job.path / MANIFEST).exists():  # unless somebody has stopped it
        print_summary(job)


def _find_files(recipe: "Recipe", directory: Path) -> dict[str, Path]:
    """Return the files of a recipe by the names that it has for them. Raises `InvalidInput`."""
    found = {}
    for source in recipe.sources:
        for name in (*source.files, *filter(None, [source.sql])):
            path = (directory / name).resolve()
            if not path.is_file():
                raise InvalidInput(f"source {source.name!r}: there is no file {str(path)!r}")
            found[name] = path
    return found


def _take_snapshots(
    console: Console, recipe: "Recipe", directory: Path, job: JobFolder, names: PeopleNames
) -> None:
    """Write what the job reads beside the files of the recipe."""
    from palaver.data.rows import writing
    from palaver.data.suite_texts import write_suite_texts

    folder = job.path / SNAPSHOTS
    make_private_directory(folder)
    for source in recipe.sources:
        if source.ledger or source.documents:
            with writing(folder / f"{source.name}.jsonl") as write:
                if source.ledger:
                    _read_ledger(console, source, names, write)
                else:
                    _read_documents(console, source, write)
    suites = [directory / suite for suite in recipe.split.exclude_suites]
    if suites:
        write_suite_texts(suites, folder)


def _read_ledger(
    console: Console, source: "SourceTable", names: PeopleNames, write: "Write"
) -> None:
    from palaver.data.snapshots import write_ledger_rows

    count = console.run_with_ledger(lambda ledger: write_ledger_rows(ledger, source, names, write))
    if not count:
        raise InvalidInput(
            f"source {source.name!r}: nobody who has consented has said anything that it selects "
            f"in tenant {source.tenant!r}; see: palaver data consent --help"
        )


def _read_documents(console: Console, source: "SourceTable", write: "Write") -> None:
    from palaver.data.snapshots import write_documents

    async def read() -> None:
        async with console.open_knowledge() as knowledge:
            await write_documents(knowledge, source, write)

    _ = console.builder  # it reads files, which would block the event loop
    asyncio.run(read())


@data.command()
@click.argument("name")
@click.pass_obj
def show(console: Console, name: str) -> None:
    """Show the numbers of prepared data, and where its files are."""
    print_summary(find_data(console, name))


def find_data(console: Console, name: str) -> JobFolder:
    """Return the job that has prepared the data. Raises `NotFound` and `InvalidInput`."""
    job = job_store(console).find(name)
    if job.describe().kind != KIND:
        raise InvalidInput(f"job {name!r} prepares no data")
    if not (job.path / MANIFEST).exists():
        raise InvalidInput(f"{name!r} is not prepared: the job is {job.state()}")
    return job


def print_summary(job: JobFolder) -> None:
    from palaver.data.profile import write_profile

    manifest = job.read(MANIFEST)
    if not (job.path / PROFILE).exists():  # an erasure has removed it
        write_profile(job.path)
    echo_row("kind", manifest["kind"])
    echo_row("raw rows", f"{manifest['steps']['read']['in']:,}")
    for step, report in manifest["steps"].items():
        for reason, count in report["dropped"].items():
            echo_row(f"  {step}", f"-{count:,}  {reason}")
    replaced = manifest["steps"]["redact"]["redactions"]
    if replaced:
        echo_row("replaced", ", ".join(f"{kind} {count:,}" for kind, count in replaced.items()))
    for file, about in manifest["outputs"].items():
        echo_row(Path(file).stem, f"{about['rows']:,} rows  {job.path / file}")
    if manifest["erased_rows"]:
        echo_row("erased", f"{manifest['erased_rows']:,} rows and examples, later")
    echo_row("profile", str(job.path / PROFILE))


@data.command()
@click.argument("name")
@click.option(
    "--suite", "suites", multiple=True, type=recipe_path, help="A suite of 'palaver evaluate'."
)
@click.pass_obj
def check(console: Console, name: str, suites: tuple[Path, ...]) -> None:
    """Check that files are as they were written, every row is valid, and nothing leaks.

    Nothing may be in two parts, or in a suite, even in nearly the same words.
    """
    from palaver.data.checking import check_data

    job = find_data(console, name)
    problems = check_data(job.path, suites)
    for problem in problems:
        echo(problem, err=True)
    if problems:
        raise InvalidInput(f"{name!r} has {len(problems)} problems")
    echo(f"{name!r} is as it was written, valid, and without leaks.")


@data.group()
def consent() -> None:
    """Note who has consented to the use of what they say as training data. By default nobody has.

    With SQLite, stop the server first.
    """


people_option = click.option("--person", help="The person's id in the tenant.")
everyone_option = click.option("--everyone", is_flag=True, help="All people of the tenant.")


def _named(tenant: str, person: str | None, everyone: bool) -> str:
    check_name(tenant, "tenant")
    if everyone == bool(person):
        raise InvalidInput("name a person with --person, or everybody with --everyone")
    return EVERYONE if person is None else check_name(person, "person")


@consent.command()
@tenant_option
@people_option
@everyone_option
@click.pass_obj
def give(console: Console, tenant: str, person: str | None, everyone: bool) -> None:
    """Note that a person, or everybody in a tenant, has consented."""
    name = _named(tenant, person, everyone)
    console.run_with_ledger(lambda ledger: Consents(ledger).give(tenant, name))
    echo(f"Noted: {_describe(name)} of tenant {tenant!r} has consented.")


@consent.command()
@tenant_option
@people_option
@everyone_option
@click.pass_obj
def withdraw(console: Console, tenant: str, person: str | None, everyone: bool) -> None:
    """Note that a consent is withdrawn. Rows of the person in prepared data are removed."""
    name = _named(tenant, person, everyone)
    console.run_with_ledger(lambda ledger: Consents(ledger).withdraw(tenant, name))
    echo(f"Noted: {_describe(name)} of tenant {tenant!r} has withdrawn the consent.")
    if name != EVERYONE:
        for each in erase_rows(job_store(console).directory, tenant, name):
            echo(str(each))


@consent.command("list")
@tenant_option
@click.pass_obj
def list_consents(console: Console, tenant: str) -> None:
    """List who has consented, and who has withdrawn that."""
    check_name(tenant, "tenant")

    async def find(ledger: Ledger) -> dict[str, list[Any]]:
        consents = Consents(ledger)
        return {
            "given": await consents.given(tenant),
            "withdrawn": await consents.withdrawn(tenant),
        }

    for what, people in console.run_with_ledger(find).items():
        for each in people:
            echo_row(what, _describe(each.person))


def _describe(person: str) -> str:
    return "everybody" if person == EVERYONE else repr(person)
