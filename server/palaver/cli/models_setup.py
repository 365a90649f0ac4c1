"""``palaver models setup``: connect a real model, by a list in the terminal or by options."""

import asyncio
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import click

from palaver.cli.connecting import Connector
from palaver.cli.console import Console, echo, find_launch
from palaver.cli.download_progress import DownloadProgress, format_bytes
from palaver.errors import InvalidInput
from palaver.models.choices import (
    AddedChoice,
    HubChoice,
    PathChoice,
    ServerChoice,
    SetupChoice,
    SetupProgress,
)
from palaver.models.registry import ModelRegistry
from palaver.models.servers import USUAL_PORTS, ModelServer, find_model_servers, list_models

SHOWN_MODELS = 30
"""Models of an address that are listed; any other one is chosen by its name."""

Entry = tuple[str, Callable[[], SetupChoice]]
"""A line of the list, and what asks for the rest of the choice."""


@click.command()
@click.option("--choose", type=click.IntRange(min=1), help="Take this number of the list.")
@click.option("--url", help="Address of a server with the OpenAI API.")
@click.option("--model", default="", help="Name of the model at that server.")
@click.option(
    "--key-file", type=click.File(encoding="utf-8"), help="File with the key for it; -: a pipe."
)
@click.option("--hub", metavar="OWNER/MODEL", help="Download a model of the Hugging Face hub.")
@click.option("--path", metavar="PATH", help="Use a directory or file of this machine.")
@click.option("--added", metavar="NAME", help="Use a model that 'palaver models list' shows.")
@click.option("--list", "lists_only", is_flag=True, help="Print the numbered list only.")
@click.pass_obj
def setup(
    console: Console,
    choose: int | None,
    url: str | None,
    model: str,
    key_file: TextIO | None,
    hub: str | None,
    path: str | None,
    added: str | None,
    lists_only: bool,
) -> None:
    """Connect a real model, found on this machine or elsewhere.

    Without options, it asks. The model is tried with a short reply; then it is written into the
    settings file, which 'palaver serve' reads.
    """
    given = [option for option in (choose, url, hub, path, added) if option is not None]
    if len(given) + lists_only > 1:
        raise click.UsageError("give one of --choose, --url, --hub, --path, --added and --list")
    if url is None and (model or key_file):
        raise click.UsageError("--model and --key-file belong to --url")
    key = key_file.read().strip() if key_file else ""
    if url is not None:
        _connect(console, ServerChoice(url=url, model=model, key=key))
    elif hub is not None:
        _connect(console, HubChoice(repository=hub))
    elif path is not None:
        _connect(console, _at_path(path))
    elif added is not None:
        _connect(console, AddedChoice(name=added))
    else:
        entries = list(_find_entries(console))
        if choose is None:
            for number, (label, _) in enumerate(entries, 1):
                echo(f"{number:>3}  {label}")
        if not lists_only:
            _connect(console, _choose(entries, choose))


def _find_entries(console: Console) -> Iterator[Entry]:
    """Yield the models that are here, then the other ways."""
    settings = console.settings
    echo("Looking for model servers on this machine …", err=True)
    ports = settings.models.server_ports or tuple(USUAL_PORTS)
    for server in asyncio.run(find_model_servers(ports, own_port=settings.server.port)):
        yield from _entries_of(server)
    registry = ModelRegistry(settings.server.data)
    current = registry.current
    for name in registry.models():
        if name != current:
            yield f"{name}, added before", functools.partial(AddedChoice, name=name)
    yield "another server with the OpenAI API: address and key", _ask_address
    yield "a model of the Hugging Face hub, which is downloaded", _ask_hub
    yield "a directory or file of this machine", _ask_path


def _entries_of(server: ModelServer) -> Iterator[Entry]:
    if server.needs_key:
        label = f"{server.name} at {server.url}, with a key"
        yield label, functools.partial(_ask_key, server.url)
    for model in server.models:
        size = f" ({format_bytes(model.size)})" if model.size else ""
        choice = functools.partial(ServerChoice, url=server.url, model=model.id)
        yield f"{server.name}: {model.id}{size}", choice


def _choose(entries: list[Entry], number: int | None) -> SetupChoice:
    if number is None:
        number = click.prompt("Which one", type=click.IntRange(1, len(entries)), default=1)
    if number > len(entries):
        raise InvalidInput(f"there is no number {number} in the list: it ends at {len(entries)}")
    return entries[number - 1][1]()


def _ask_address() -> SetupChoice:
    return _ask_key(click.prompt("Address, such as http://127.0.0.1:8000/v1"))


def _ask_key(url: str) -> SetupChoice:
    """Ask for a key, then for one of the models that the server lists."""
    key = click.prompt("Key (empty: none)", default="", show_default=False, hide_input=True)
    url, models = asyncio.run(list_models(url, key))
    if len(models) == 1:
        return ServerChoice(url=url, model=models[0].id, key=key)
    for model in models[:SHOWN_MODELS]:
        echo(f"     {model.id}")
    if len(models) > SHOWN_MODELS:
        echo(f"     … and {len(models) - SHOWN_MODELS} more")
    return ServerChoice(url=url, model=click.prompt("Name of the model"), key=key)


def _ask_hub() -> SetupChoice:
    return HubChoice(repository=click.prompt("Name, such as Qwen/Qwen3-0.6B"))


def _ask_path() -> SetupChoice:
    return _at_path(click.prompt("Path"))


def _at_path(path: str) -> PathChoice:
    return PathChoice(path=str(Path(path).expanduser().absolute()))


def _connect(console: Console, choice: SetupChoice) -> None:
    launch, printer = find_launch(console), _Printer()
    connector = Connector(launch, printer.print, console.registry)
    try:
        name = connector.connect(choice)
    finally:
        printer.downloads.end()
    echo(f"{name!r} answers, and is the model from now on ({launch.settings_file}).")
    if server := console.find_server():
        echo(f"The server at {server} uses it after its next start.")
    else:
        connector.remove_old_key()
        echo("Next: palaver serve")


class _Printer:
    """Prints each new step, and the progress of a download."""

    def __init__(self) -> None:
        self.downloads = DownloadProgress()
        self._last = ""

    def print(self, progress: SetupProgress) -> None:
        if progress.total:
            self.downloads(progress.done, progress.total)
            return
        verb = "Downloading" if progress.step == "downloading" else "Trying"
        line = f"{verb} {progress.model} …"
        if progress.model and line != self._last:
            self.downloads.end()
            self._last = line
            echo(line, err=True)
