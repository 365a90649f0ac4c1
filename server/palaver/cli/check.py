"""``palaver check``: what a configuration guarantees, what it does not, and what is wrong."""

import asyncio
import dataclasses
import tempfile
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

import click
import pydantic

from palaver.cli.console import EXIT_MISCONFIGURED, Console
from palaver.cli.models import one_line
from palaver.config.loading import plugin_settings, validate_plugin_settings
from palaver.config.settings import Secret, ServerSettings, Settings
from palaver.engine import ChatMessage, Engine, EngineInfo, GenerationRequest, Sampling
from palaver.errors import PalaverError
from palaver.hooks import Backend
from palaver.ledger import Guarantee, Ledger
from palaver.messages import new_id
from palaver.models.checkpoint import read_checkpoint
from palaver.turns.shutdown import CLOSE_SECONDS

MARKS = {"good": ("✓", "green"), "note": ("!", "yellow"), "bad": ("✗", "red")}
LEDGER_SECONDS = 10.0
"""Seconds that opening the ledger may take."""

Grade = Literal["good", "note", "bad"]
Findings = Iterator[tuple[Grade, str]]


@click.command()
@click.option("--engine", is_flag=True, help="Load the model too, and generate one token.")
@click.option("--redis", metavar="URL", help="Check this Redis as the ledger.")
@click.pass_obj
def check(console: Console, engine: bool, redis: str | None) -> None:
    """Explain the configuration: ✓ holds, ! worth knowing, ✗ does not work.

    Exit status 78 when anything does not work.
    """
    if redis:
        flags = ("ledger.use=redis", f"ledger.redis.url={redis}")
        console = dataclasses.replace(console, overrides=console.overrides + flags)
    bad = 0
    for grade, sentences in _examine(console, load_engine=engine):
        bad += grade == "bad"
        for sentence in sentences.splitlines():
            mark, colour = MARKS[grade]
            click.echo(f"{click.style(mark, fg=colour)} {sentence}")
    if bad:
        click.get_current_context().exit(EXIT_MISCONFIGURED)


def _examine(console: Console, *, load_engine: bool) -> Findings:
    try:
        _ = console.settings
    except PalaverError as error:
        yield "bad", str(error)
        return
    yield "good", "settings: every key is known and every value fits"
    for stage in (_plugins, _data):  # what comes after them stands on them
        findings = list(stage(console))
        yield from findings
        if any(grade == "bad" for grade, _ in findings):
            return
    for stage in (_names, _line, _network, _secrets, _ledger, _model):
        yield from stage(console)
    yield from _engine(console, load_engine)


def _plugins(console: Console) -> Findings:
    try:
        registry = console.registry
        validate_plugin_settings(console.settings, registry)
    except PalaverError as error:
        yield "bad", str(error)
        return
    for failure in registry.failures:
        yield "note", str(failure)
    plugins = len({source.name for source in registry.owners.values()})
    yield "good", f"plugins: {plugins} loaded; skills: {', '.join(sorted(registry.skills))}"


def _names(console: Console) -> Findings:
    """Names in the settings that no plugin answers to."""
    settings, registry = console.settings, console.registry
    used: list[tuple[str, str, Collection[str]]] = [
        ("engine.use", settings.engine.use, registry.engines),
        ("ledger.use", settings.ledger.use, registry.ledgers),
        ("knowledge.use", settings.knowledge.use, registry.knowledge),
        ("routing.default", settings.routing.default, registry.skills),
    ]
    used += [("channels.enabled", name, registry.channels) for name in settings.channels.enabled]
    used += [
        ("interceptors.enabled", name, registry.interceptors)
        for name in settings.interceptors.enabled
    ]
    chosen, channels = settings.concurrency_policy, {"web", *registry.channels}
    used += [("concurrency_policy.skills", name, registry.skills) for name in chosen.skills]
    used += [("concurrency_policy.channels", name, channels) for name in chosen.channels]
    used += [("admission.lanes", name, channels) for name in settings.admission.lanes]
    for setting, name, installed in used:
        if name not in installed:
            yield "bad", f"{setting} names {name!r}; installed are: {sorted(installed)}"


def _line(console: Console) -> Findings:
    """Seconds in line that leave none for the reply."""
    wait, timeout = console.settings.admission.max_wait, console.settings.engine.timeout
    if wait >= timeout:
        yield (
            "note",
            (
                f"admission.max_wait {wait:g} is not below engine.timeout {timeout:g}, "
                "which the waiting is part of: who waits as long gets no reply"
            ),
        )


def _network(console: Console) -> Findings:
    from palaver.authentication import check_bind

    try:
        check_bind(console.settings)
    except PalaverError as error:
        yield "bad", str(error)
        return
    server, keys = console.settings.server, console.settings.auth.keys
    held = "1 key" if len(keys) == 1 else f"{len(keys)} keys"
    who = f"holders of {held}" if keys else "this machine only, without keys"
    yield "good", f"network: listens on {server.host}:{server.port}, open to {who}"
    yield from _departure(server)


def _departure(server: ServerSettings) -> Findings:
    """What is cut because the process must have ended by then."""
    left = max(0.0, server.grace - CLOSE_SECONDS)
    for name in ("drain", "linger"):
        seconds = getattr(server, name)
        if seconds > left:
            yield (
                "note",
                (
                    f"server.{name} {seconds:g} is cut to {left:g}: "
                    f"server.grace {server.grace:g} is when the process has ended"
                ),
            )


def _data(console: Console) -> Findings:
    directory = console.settings.server.data
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        yield "bad", f"server.data {str(directory)!r} cannot be written: {error.strerror}"
        return
    yield "good", f"data: {directory.resolve()} can be written"


# Secrets


def _secrets(console: Console) -> Findings:
    """Every secret that the settings refer to; those of backends not in use need not be there."""
    for key, secret, needed in _all_secrets(console):
        try:
            secret.reveal()
        except PalaverError as error:
            yield ("bad" if needed else "note"), f"{key}: {error}"
        else:
            yield "good", f"{key}: {secret.root} is there"


def _all_secrets(console: Console) -> Iterator[tuple[str, Secret, bool]]:
    settings = console.settings
    yield from ((key, secret, True) for key, secret in find_secrets(settings))
    used = {
        "engine": {settings.engine.use},
        "ledger": {settings.ledger.use},
        "knowledge": {settings.knowledge.use},
        "channels": set(settings.channels.enabled),
        "interceptors": set(settings.interceptors.enabled),
    }
    for section, names in used.items():
        backends = _backends(console, section)
        for name in sorted({*names, *getattr(settings, section).tables()} & backends.keys()):
            model = _settings_of(settings, section, backends[name])
            for key, secret in find_secrets(model, f"{section}.{name}."):
                yield key, secret, name in names


def find_secrets(model: pydantic.BaseModel, above: str = "") -> Iterator[tuple[str, Secret]]:
    """Every secret in ``model``, also in tables below it, with its key."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        items = value.items() if isinstance(value, dict) else [("", value)]
        for inner, item in items:
            key = f"{above}{name}.{inner}".rstrip(".")
            if isinstance(item, Secret):
                yield key, item
            elif isinstance(item, pydantic.BaseModel):
                yield from find_secrets(item, f"{key}.")


def _backends(console: Console, section: str) -> Mapping[str, Backend[Any]]:
    registry = console.registry
    return {
        "engine": registry.engines,
        "ledger": registry.ledgers,
        "knowledge": registry.knowledge,
        "channels": registry.channels,
        "interceptors": registry.interceptors,
    }[section]


def _settings_of(settings: Settings, section: str, backend: Backend[Any]) -> pydantic.BaseModel:
    return plugin_settings(settings, section, backend.name, backend.settings)


# Ledger, model, engine


def _ledger(console: Console) -> Findings:
    name = console.settings.ledger.use
    backend = console.registry.ledgers.get(name)
    if backend is None:
        return
    try:
        ledger = backend.build(
            _settings_of(console.settings, "ledger", backend), console.build_context
        )
        guarantee = asyncio.run(_ask_ledger(ledger))
    except TimeoutError:
        yield "bad", f"ledger {name!r}: it did not open within {LEDGER_SECONDS:g} s"
        return
    except PalaverError as error:
        yield "bad", f"ledger {name!r}: {error}"
        return
    for sentence in guarantee.promises:
        yield "good", f"ledger {name!r}: {sentence}"
    for sentence in guarantee.limitations:
        yield "note", f"ledger {name!r}: {sentence}"


async def _ask_ledger(ledger: Ledger) -> Guarantee:
    async with asyncio.timeout(LEDGER_SECONDS):
        try:
            await ledger.start()
            return await ledger.guarantee()
        finally:
            await ledger.close()


def _model(console: Console) -> Findings:
    """The model of an engine that loads one: its ``model`` is a plain name. Where it may be None,
    it is a name at a server, which knows its models itself."""
    name = console.settings.engine.use
    backend = console.registry.engines.get(name)
    if backend is None:
        return
    try:
        settings = _settings_of(console.settings, "engine", backend)
        field = type(settings).model_fields.get("model")
        if field is None or field.annotation is not str:
            return
        checkpoint = read_checkpoint(
            console.build_context.resolve_model(getattr(settings, "model", ""))
        )
    except PalaverError as error:
        yield "bad", f"engine {name!r}: {error}"
        return
    yield "good", f"model: {checkpoint.directory.name} ({one_line(checkpoint)})"
    if checkpoint.demonstration:
        yield "note", "model: it is too small for real use; see: palaver models add --help"


def _engine(console: Console, load: bool) -> Findings:
    name = console.settings.engine.use
    backend = console.registry.engines.get(name)
    if backend is None:
        return
    if not load:
        yield "note", f"engine {name!r}: not loaded; --engine loads it and tries it"
        return
    try:
        engine = backend.build(
            _settings_of(console.settings, "engine", backend), console.build_context
        )
        engine_info = asyncio.run(_try_engine(engine, console.settings.engine.health_probe_timeout))
    except PalaverError as error:
        yield "bad", f"engine {name!r}: {error}"
        return
    can = ", ".join(sorted(engine_info.capabilities))
    answers = f"{engine_info.model} answers, context {engine_info.context_window} tokens; can {can}"
    yield "good", f"engine {name!r}: {answers}"
    for skill_name, skill in sorted(console.registry.skills.items()):
        lacking = skill.needs - engine_info.capabilities
        if lacking:
            needs = ", ".join(sorted(lacking))
            yield "bad", f"skill {skill_name!r} needs an engine with {needs}"


async def _try_engine(engine: Engine, probe_timeout: float) -> EngineInfo:
    """Start it and generate one token: being there is not answering."""
    request = GenerationRequest(
        id=new_id(),
        messages=(ChatMessage("user", "Hello"),),
        tenant="check",
        sampling=Sampling(max_tokens=1),
        timeout=probe_timeout,
    )
    try:
        engine_info = await engine.start()
        await engine.generate(request, lambda text: None)
        return engine_info
    finally:
        await engine.close()
