"""``palaver models``: add, choose and remove models."""

from collections.abc import Iterator
from pathlib import Path

import click

from palaver.checks import find_model_choices
from palaver.cli.console import Console, echo, echo_row
from palaver.cli.download_progress import DownloadProgress, format_bytes
from palaver.cli.engine_trial import try_model
from palaver.errors import Conflict, PalaverError
from palaver.models.chat_check import check_model
from palaver.models.chat_probe import ChatProbe
from palaver.models.checkpoint import Checkpoint, read_checkpoint
from palaver.models.hub import Hub
from palaver.models.registry import ModelRegistry


@click.group()
def models() -> None:
    """Connect a real model; add, list, choose and remove models."""


def _model_registry(console: Console) -> ModelRegistry:
    return ModelRegistry(console.settings.server.data)


@models.command("list")
@click.pass_obj
def list_models(console: Console) -> None:
    """List the models; * marks the current one."""
    registry = _model_registry(console)
    current = registry.current
    users = _find_users(console, registry)
    for name, directory in registry.models().items():
        mark = "*" if name == current else " "
        echo(f"{mark} {name:<32} {_summarize_directory(directory)}")
        if name in users:
            echo(f"  {'':<32} used by {', '.join(users[name])}")
        echo(f"  {'':<32} {registry.source(name)}", dim=True)
    for name, size in registry.unfinished().items():
        echo(f"  {name:<32} download interrupted after {format_bytes(size)}")
        echo(f"  {'':<32} `pull` continues it, `remove` deletes it", dim=True)


def _find_users(console: Console, registry: ModelRegistry) -> dict[str, list[str]]:
    """Return the settings that use a model, by its name."""
    users: dict[str, list[str]] = {}
    try:
        for choice in find_model_choices(console.settings, console.registry):
            users.setdefault(choice.model or registry.current, []).append(choice.key)
    except PalaverError:  # `palaver check` says what is wrong with the settings
        pass
    return users


def _summarize_directory(directory: Path) -> str:
    try:
        return summarize(read_checkpoint(directory))
    except PalaverError as error:
        return str(error)


def summarize(model: Checkpoint) -> str:
    """Return architecture, size, data type, context and licence in one line."""
    parts = [
        model.architecture,
        f"{format_count(model.parameters)} parameters",
        f"GGUF {model.data_type}" if model.is_gguf else model.data_type,
        format_bytes(model.size),
        f"context {model.context} tokens" if model.context else "",
        model.license,
        "demonstration" if model.demonstration else "",
    ]
    return ", ".join(filter(None, parts))


def chat_template_note(model: Checkpoint) -> str:
    """Return what a person must know of a model without a chat template, else ""."""
    if model.has_chat_template:
        return ""
    return (
        "it has no chat template, so the engine refuses it until engine.llamacpp.chat_template "
        "names a file with one (base models have none; choose one that was tuned for chat)"
    )


def _echo_note(model: Checkpoint) -> None:
    if note := chat_template_note(model):
        echo(f"Note: {note}.")


def format_count(number: int) -> str:
    """Format a large number with three digits: 12.3 M."""
    for unit, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return str(number)


@models.command()
@click.argument("source")
@click.option("--name", default="", help="Name of the model here (default: its own name).")
@click.option("--revision", default="", help="Branch, tag or commit at the hub.")
@click.option("--copy", is_flag=True, help="Copy a local model instead of using it in place.")
@click.pass_obj
def add(console: Console, source: str, name: str, revision: str, copy: bool) -> None:
    """Add a model from a file, a directory or the hub.

    SOURCE is a GGUF file or a directory, or at the Hugging Face hub 'owner/model', or
    'owner/model:FILE.gguf', as for `pull`.
    """
    registry = _model_registry(console)
    if Path(source).expanduser().exists():
        if revision:
            raise click.UsageError("--revision is for models of the hub")
        name = registry.add_directory(Path(source), name, copy=copy)
        _report_added(registry, name)
    else:
        _pull(console, source, name, revision)


@models.command()
@click.argument("repository", metavar="OWNER/MODEL")
@click.option("--name", default="", help="Name of the model here (default: its own name).")
@click.option("--revision", default="", help="Branch, tag or commit at the hub.")
@click.pass_obj
def pull(console: Console, repository: str, name: str, revision: str) -> None:
    """Download a model from the Hugging Face hub.

    Run the command again to continue an interrupted download. HF_ENDPOINT names another hub.
    """
    _pull(console, repository, name, revision)


def _pull(console: Console, repository: str, name: str, revision: str) -> None:
    registry = _model_registry(console)
    token = console.settings.models.hub_token
    progress = DownloadProgress()
    hub = Hub(token.reveal() if token else None, lambda text: echo(text, err=True), progress)
    try:
        name = registry.add_from_hub(hub, repository, name, revision)
    finally:
        progress.end()
    _report_added(registry, name)


def _report_added(registry: ModelRegistry, name: str) -> None:
    echo(f"Added {name!r}: {_summarize_directory(registry.find(name))}.")
    model = read_checkpoint(registry.find(name))
    _echo_note(model)
    command = "setup --added" if model.is_gguf else "use"  # it may need another engine
    echo(f"Choose it with: palaver models {command} {name}")


@models.command()
@click.argument("name")
@click.option("--no-trial", is_flag=True, help="Do not load the model before it is chosen.")
@click.pass_obj
def use(console: Console, name: str, no_trial: bool) -> None:
    """Make NAME the current model. A running server uses it after its next start.

    The engine of the settings loads it first, and generates a token.
    """
    registry = _model_registry(console)
    choices = find_model_choices(console.settings, console.registry)
    chosen = next((choice for choice in choices if choice.is_default), None)

    def trial() -> None:
        if chosen is not None and not no_trial:
            try_model(console, chosen.engine, name)

    model = registry.use(name, trial)
    echo(f"The current model is {name!r}: {summarize(model)}.")
    _echo_note(model)
    if chosen is None:
        engine = console.settings.engine.use
        echo(f"The engine {engine!r} of the settings has models of its own, and does not load it.")
    elif chosen.model:
        echo(f"{chosen.key} names another model, {chosen.model!r}, which the server uses instead.")


@models.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Remove a model that is current or in use.")
@click.pass_obj
def remove(console: Console, name: str, force: bool) -> None:
    """Remove NAME, or its interrupted download. Files that are used in place are kept."""
    registry = _model_registry(console)
    directory = registry.models().get(name)
    users = _find_users(console, registry).get(name)
    if users and name != registry.current and not force:
        raise Conflict(f"model {name!r} is used by {', '.join(users)}; --force removes it anyway")
    freed = registry.remove(name, force=force)
    if freed:
        echo(f"Removed {name!r} and its files, {format_bytes(freed)}.")
    else:
        echo(f"Removed {name!r}; its files stay in {directory}.")


@models.command()
@click.argument("name", default="")
@click.option("--verify", is_flag=True, help="Compare the files with their recorded SHA-256.")
@click.pass_obj
def info(console: Console, name: str, verify: bool) -> None:
    """Describe NAME (default: the current model)."""
    registry = _model_registry(console)
    name = name or registry.current
    model, chat = check_model(registry.find(name))
    rows = {
        "name": name,
        "directory": str(model.directory),
        "source": registry.source(name),
        "used by": ", ".join(_find_users(console, registry).get(name, ())),
        "architecture": model.architecture,
        "parameters": f"{model.parameters:_} ({format_count(model.parameters)})",
        "data type": model.data_type,
        "weights": format_bytes(model.size),
        "on disk": format_bytes(registry.size_on_disk(name)),
        "context": f"{model.context} tokens" if model.context else "",
        "chat template": _describe_template(chat) if model.has_chat_template else "none",
        "languages": ", ".join(model.languages),
        "made for": ", ".join(_describe_reach(model)),
        "licence": model.license,
        "scores": ", ".join(f"{key} {value:g}" for key, value in model.scores.items()),
        "note": "a demonstration model, too small for real use" if model.demonstration else "",
        "tokens": _describe_tokens(model, chat),
    }
    for key, value in rows.items():
        if value:
            echo_row(key, value)
    if verify:
        _verify(registry, name)


def _describe_template(chat: ChatProbe) -> str:
    system = "takes a system message" if chat.has_system_role else "takes no system message"
    return f"{system}, {'shows tools' if chat.shows_tools else 'shows no tools'}"


def _describe_tokens(model: Checkpoint, chat: ChatProbe) -> str:
    """Return a warning where the tokenizer has tokens that the model does not know."""
    if not model.embeddings or chat.vocabulary <= model.embeddings:
        return ""
    return (
        f"the tokenizer has {chat.vocabulary}, the weights {model.embeddings}: "
        "a text with one of the others is refused"
    )


def _describe_reach(model: Checkpoint) -> Iterator[str]:
    for task, reach in (model.reach or {}).items():
        words = f"{reach.words} words" if reach.words else ""
        limits = " ".join(filter(None, (*reach.requests, *reach.languages, words)))
        yield f"{task} ({limits})" if limits else task


def _verify(registry: ModelRegistry, name: str) -> None:
    changed = registry.changed_files(name)
    if changed:
        raise PalaverError(f"model {name!r} has changed since it was added: {', '.join(changed)}")
    echo("files         unchanged since the model was added")
