"""``palaver models``: add, choose and remove models."""

from pathlib import Path

import click

from palaver.cli.console import Console, echo, echo_row
from palaver.errors import PalaverError
from palaver.models.checkpoint import Checkpoint, read_checkpoint
from palaver.models.hub import Hub
from palaver.models.registry import ModelRegistry


@click.group()
def models() -> None:
    """List, add, choose, inspect and remove models."""


def _model_registry(console: Console) -> ModelRegistry:
    return ModelRegistry(console.settings.server.data)


@models.command("list")
@click.pass_obj
def list_models(console: Console) -> None:
    """List the models; * marks the current one."""
    registry = _model_registry(console)
    current = registry.current
    for name, directory in registry.models().items():
        mark = "*" if name == current else " "
        echo(f"{mark} {name:<32} {_summarize_directory(directory)}")
        echo(f"  {'':<32} {registry.source(name)}", dim=True)


def _summarize_directory(directory: Path) -> str:
    try:
        return summarize(read_checkpoint(directory))
    except PalaverError as error:
        return str(error)


def summarize(model: Checkpoint) -> str:
    """Return architecture, size and context in one line."""
    parts = [model.architecture, f"{format_count(model.parameters)} parameters"]
    if model.is_gguf:
        parts.append(f"GGUF {model.data_type}")
    if model.context:
        parts.append(f"context {model.context} tokens")
    if model.demonstration:
        parts.append("demonstration")
    return ", ".join(parts)


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
    'owner/model:FILE.gguf'.
    HF_ENDPOINT names another hub. Run the command again to continue an interrupted download.
    """
    registry = _model_registry(console)
    if Path(source).expanduser().exists():
        if revision:
            raise click.UsageError("--revision is for models of the hub")
        name = registry.add_directory(Path(source), name, copy=copy)
    else:
        token = console.settings.models.hub_token
        hub = Hub(token.reveal() if token else None, lambda text: echo(text, err=True))
        name = registry.add_from_hub(hub, source, name, revision)
    echo(f"Added {name!r}: {_summarize_directory(registry.find(name))}.")
    _echo_note(read_checkpoint(registry.find(name)))
    echo(f"Choose it with: palaver models use {name}")


@models.command()
@click.argument("name")
@click.pass_obj
def use(console: Console, name: str) -> None:
    """Make NAME the current model. A running server uses it after its next start."""
    model = _model_registry(console).use(name)
    echo(f"The current model is {name!r}: {summarize(model)}.")
    _echo_note(model)


@models.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Remove the current model too.")
@click.pass_obj
def remove(console: Console, name: str, force: bool) -> None:
    """Remove NAME. The files of a model that is used in place are kept."""
    registry = _model_registry(console)
    directory = registry.find(name)
    deleted = registry.remove(name, force=force)
    files = " and its files" if deleted else f"; its files stay in {directory}"
    echo(f"Removed {name!r}{files}.")


@models.command()
@click.argument("name", default="")
@click.option("--verify", is_flag=True, help="Compare the files with their recorded SHA-256.")
@click.pass_obj
def info(console: Console, name: str, verify: bool) -> None:
    """Describe NAME (default: the current model)."""
    registry = _model_registry(console)
    name = name or registry.current
    model = read_checkpoint(registry.find(name))
    rows = {
        "name": name,
        "directory": str(model.directory),
        "source": registry.source(name),
        "architecture": model.architecture,
        "parameters": f"{model.parameters:_} ({format_count(model.parameters)})",
        "weights": f"{model.size / 1e6:.1f} MB",
        "data type": model.data_type,
        "chat template": "" if not model.is_gguf else "yes" if model.has_chat_template else "none",
        "context": f"{model.context} tokens" if model.context else "",
        "languages": ", ".join(model.languages),
        "licence": model.license,
        "scores": ", ".join(f"{key} {value:g}" for key, value in model.scores.items()),
        "note": "a demonstration model, too small for real use" if model.demonstration else "",
    }
    for key, value in rows.items():
        if value:
            echo_row(key, value)
    if verify:
        _verify(registry, name)


def _verify(registry: ModelRegistry, name: str) -> None:
    changed = registry.changed_files(name)
    if changed:
        raise PalaverError(f"model {name!r} has changed since it was added: {', '.join(changed)}")
    echo("files         unchanged since the model was added")
