"""Findings of ``palaver check``.

The checks read only: they create no file and change no ledger, unless the engine is loaded.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from palaver.app import BackendBuilder
from palaver.authentication import check_bind, find_key_problems
from palaver.channels import CheckableChannel
from palaver.checks import (
    ModelChoice,
    find_model_choices,
    find_secrets,
    find_unknown_names,
    validate_plugin_settings,
)
from palaver.cli.channels import check_channels
from palaver.cli.console import EXIT_MISCONFIGURED, Console, exit_code
from palaver.cli.engine_trial import try_engine
from palaver.cli.exposure import find_exposed_data, find_exposed_secret, find_exposed_settings
from palaver.cli.local_server import find_server
from palaver.cli.models import chat_template_note, summarize
from palaver.cli.tool_sources import check_sources, find_source_problems
from palaver.config.loading import find_settings_file
from palaver.config.settings import DEFAULT_MODEL, AuthKey, ServerSettings, Settings, SiteSettings
from palaver.errors import (
    ConfigurationError,
    LedgerInUse,
    LedgerUnavailable,
    PalaverError,
    Unauthenticated,
)
from palaver.ledger import Guarantee, InspectableLedger, Ledger
from palaver.models.chat_check import check_model
from palaver.sites import find_site_problems
from palaver.turns.shutdown import CLOSE_SECONDS
from palaver.web.listener import check_address

LEDGER_TIMEOUT = 10.0
"""Seconds that opening the ledger may take."""

MAX_SHOWN_EXPOSED = 20

Grade = Literal["good", "note", "bad"]


class Finding(NamedTuple):
    """One result. ``code``: the exit code of a bad one."""

    grade: Grade
    text: str
    code: int = 0


Findings = Iterator[Finding]


def check_configuration(console: Console, *, load_engine: bool) -> Findings:
    """Yield the results of all checks. With ``load_engine``, load the engine too."""
    for required in (_check_settings, _check_plugins, _check_data_directory, _check_names):
        findings = list(required(console))
        yield from findings
        if any(finding.grade == "bad" for finding in findings):
            return  # the further checks need this one
    running = find_server(console.settings.server)
    yield from _check_max_wait(console)
    yield from _check_network(console, running)
    yield from _check_secrets(console)
    yield from _check_exposure(console)
    yield from _check_ledger(console, running)
    yield from _check_files(console)
    yield from _check_channels(console)
    yield from _check_tool_sources(console, running)
    yield from _check_model(console)
    yield from _check_engine(console, load_engine)


def _check_settings(console: Console) -> Findings:
    try:
        _ = console.settings
    except PalaverError as error:
        yield _bad(error)
    else:
        yield Finding("good", "settings: every key is known and every value is valid")


def _check_plugins(console: Console) -> Findings:
    try:
        registry = console.registry
        validate_plugin_settings(console.settings, registry)
    except PalaverError as error:
        yield _bad(error)
        return
    for failure in registry.failures:
        yield Finding("note", str(failure))
    plugins = len({source.name for source in registry.owners.values()})
    skills = ", ".join(sorted(registry.skills))
    yield Finding("good", f"plugins: {plugins} loaded; skills: {skills}")


def _check_data_directory(console: Console) -> Findings:
    data = console.settings.server.data.absolute()
    existing = next(path for path in (data, *data.parents) if os.path.exists(path))
    if not existing.is_dir():
        yield _bad(ConfigurationError(f"server.data {str(data)!r}: {existing} is not a directory"))
    elif not _can_write(existing):
        yield _bad(ConfigurationError(f"server.data {str(data)!r}: {existing} is not writable"))
    elif existing == data:
        yield Finding("good", f"data: {data} is writable")
    else:
        yield Finding("good", f"data: {data} will be created; {existing} is writable")


def _can_write(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)


def _check_names(console: Console) -> Findings:
    for problem in find_unknown_names(console.settings, console.registry):
        yield Finding("bad", problem, EXIT_MISCONFIGURED)


def _check_max_wait(console: Console) -> Findings:
    wait, timeout = console.settings.admission.max_wait, console.settings.engine.timeout
    if wait >= timeout:
        yield Finding(
            "note",
            f"admission.max_wait {wait:g} is not below engine.timeout {timeout:g}, which includes "
            "the wait: a message that waits that long gets no reply",
        )


# Network


def _check_network(console: Console, running: str | None) -> Findings:
    server, keys = console.settings.server, console.settings.auth.keys
    try:
        check_bind(console.settings)
        if not running:
            check_address(server)
    except PalaverError as error:
        yield _bad(error)
        return
    clients = f"clients with one of {len(keys)} keys" if keys else "this machine only, without keys"
    yield Finding("good", f"network: {server.host}:{server.port}, open to {clients}")
    for name, key in keys.items():
        yield Finding("good", f"key {name!r}: {_describe_key(key)}")
    yield from _check_sites(console.settings)
    if running:
        yield Finding("good", f"network: a server runs here: {running} answers")
    yield from _check_shutdown(server)


def _describe_key(key: AuthKey) -> str:
    if key.person:
        persons = f"person {key.person!r}"
    else:
        persons = "any person" if "impersonate" in key.rights else "a person for each browser"
    return f"tenant {key.tenant!r}, {persons}, rights {', '.join(key.rights) or 'none'}"


def _check_sites(settings: Settings) -> Findings:
    for name, site in settings.widget.sites.items():
        yield Finding("good", f"site {name!r}: {_describe_site(site)}")
        quotas = settings.admission.tenants.get(site.tenant, settings.admission.tenant)
        if not site.require_identity and not (quotas.messages_per_minute and quotas.stored_bytes):
            yield Finding(
                "note",
                f"site {name!r}: anybody can become any number of visitors; limit them together "
                f"with admission.tenants.{site.tenant}.messages_per_minute and stored_bytes",
            )
        if site.files and settings.files.tenant_bytes is None:
            yield Finding(
                "note",
                f"site {name!r}: visitors may upload files; limit those of all together with "
                "files.tenant_bytes",
            )
    if settings.widget.sites and not settings.auth.keys:
        yield Finding("note", "widget: without auth.keys only browsers on this machine can use it")


def _describe_site(site: SiteSettings) -> str:
    if site.require_identity:
        visitors = "identified visitors only"
    else:
        is_signed = site.identity_secret or site.identity_public_key
        visitors = "any visitor" + (", or an identified one" if is_signed else "")
    return f"tenant {site.tenant!r}, pages of {', '.join(site.origins)}, {visitors}"


def _check_shutdown(server: ServerSettings) -> Findings:
    limit = max(0.0, server.grace - CLOSE_SECONDS)
    for name in ("drain", "linger"):
        seconds = getattr(server, name)
        if seconds > limit:
            yield Finding(
                "note",
                f"server.{name} {seconds:g} is reduced to {limit:g}: "
                f"the process exits after server.grace {server.grace:g}",
            )


def _check_secrets(console: Console) -> Findings:
    for key, secret, is_used, channel in find_secrets(console.settings, console.registry):
        try:
            secret.reveal()
        except PalaverError as error:
            if not is_used:
                yield Finding("note", f"{key}: {error}")
            elif not channel:  # that of a channel is found with the channel
                yield _bad(error, f"{key}: ")
        else:
            yield Finding("good", f"{key}: {secret.root} is set")
    for problem in (
        *find_key_problems(console.settings.auth),
        *find_site_problems(console.settings),
    ):
        yield Finding("bad", problem, EXIT_MISCONFIGURED)
    if console.settings.ledger.use == "redis" and console.settings.auth.cookie_secret is None:
        yield Finding(
            "note",
            "auth.cookie_secret is not set: replicas with data directories of their own do not "
            "know each other's browsers and visitors",
        )


def _check_exposure(console: Console) -> Findings:
    sentences = [
        *find_exposed_data(console.settings.server.data.absolute()),
        *find_exposed_settings(find_settings_file(console.settings_path, os.environ)),
    ]
    for found in find_secrets(console.settings, console.registry):
        sentences += find_exposed_secret(found.secret)
    for sentence in sentences[:MAX_SHOWN_EXPOSED]:
        yield Finding("note", f"files: {sentence}")
    if len(sentences) > MAX_SHOWN_EXPOSED:
        yield Finding("note", f"files: and {len(sentences) - MAX_SHOWN_EXPOSED} more")


# Ledger, model, engine


def _check_ledger(console: Console, running: str | None) -> Findings:
    name = console.settings.ledger.use
    prefix = f"ledger {name!r}: "
    try:
        ledger = _builder(console).ledger()
        is_in_use, guarantee = asyncio.run(_inspect_ledger(ledger, may_be_in_use=bool(running)))
    except TimeoutError:
        yield _bad(LedgerUnavailable(f"it did not open within {LEDGER_TIMEOUT:g} s"), prefix)
        return
    except PalaverError as error:
        yield _bad(error, prefix)
        return
    if is_in_use:
        yield Finding("good", f"{prefix}the server that runs here uses it")
    yield from (Finding("good", prefix + sentence) for sentence in guarantee.promises)
    yield from (Finding("note", prefix + sentence) for sentence in guarantee.limitations)


async def _inspect_ledger(ledger: Ledger, *, may_be_in_use: bool) -> tuple[bool, Guarantee]:
    """Return whether a running server uses the ledger, and the ledger's guarantee.

    Raises `TimeoutError` and what the ledger raises.
    """
    is_in_use = False
    async with asyncio.timeout(LEDGER_TIMEOUT):
        try:
            try:
                if isinstance(ledger, InspectableLedger):
                    await ledger.inspect()
                else:
                    await ledger.start()
            except LedgerInUse:
                if not may_be_in_use:
                    raise
                is_in_use = True
            return is_in_use, await ledger.guarantee()
        finally:
            await ledger.close()


def _check_files(console: Console) -> Findings:
    """Check the store of files; a directory is created by the server."""
    settings = console.settings
    store = settings.files.store
    if not settings.files.person_count:
        yield Finding("good", "files: nobody may upload (files.person_count is 0)")
        return
    if not store and settings.ledger.use == "redis":
        yield Finding(
            "note",
            "files: kept in server.data; servers that share the ledger need a common files.store",
        )
    if store.startswith("memory:"):
        yield Finding("note", "files: in memory; they do not survive the end of the process")
    if not store or store.startswith(("file:", "memory:")):
        return
    try:
        asyncio.run(_builder(console).files().probe())
    except PalaverError as error:
        yield _bad(error, "files: ")
    else:
        yield Finding("good", f"files: {store} answers")


def _check_channels(console: Console) -> Findings:
    """Ask the enabled channels. What is wrong with one keeps only that one from running."""
    channels = _builder(console).channels()
    for name, problems in asyncio.run(check_channels(channels)).items():
        for problem in problems:
            yield Finding("bad", f"channel {name!r}: {problem}", EXIT_MISCONFIGURED)
        if not problems:
            has_check = isinstance(channels[name], CheckableChannel)
            text = "it works" if has_check else "its settings are valid"
            yield Finding("good", f"channel {name!r}: {text}")


def _check_tool_sources(console: Console, running: str | None) -> Findings:
    """Ask the server that runs here about its sources of tools, else the sources themselves."""
    if not console.settings.tool_sources.enabled:
        return
    try:
        if running:
            problems = asyncio.run(find_source_problems(running))
        else:
            problems = asyncio.run(check_sources(_builder(console).tool_sources()))
    except Unauthenticated:
        yield Finding("note", "tool sources: PALAVER_TOKEN has no key for the server that runs")
        return
    except PalaverError as error:
        yield _bad(error, "tool sources: ")
        return
    for name, sentences in problems.items():
        for sentence in sentences:
            yield Finding("note", f"tool source {name!r}: {sentence}")
        if not sentences:
            yield Finding("good", f"tool source {name!r}: it works")


def _check_model(console: Console) -> Findings:
    try:
        choices = list(find_model_choices(console.settings, console.registry))
    except PalaverError as error:
        yield _bad(error)
        return
    for choice in choices:
        yield from _check_model_of(console, choice)


def _check_model_of(console: Console, choice: ModelChoice) -> Findings:
    label = f"engine {choice.engine!r}" if choice.is_default else choice.key
    try:
        directory = _builder(console).context.resolve_model(choice.model)
        checkpoint, _ = check_model(directory)
    except PalaverError as error:
        yield _bad(error, f"{label}: ")
        return
    what = "model" if choice.is_default else choice.key
    yield Finding("good", f"{what}: {checkpoint.directory.name} ({summarize(checkpoint)})")
    if note := chat_template_note(checkpoint):
        yield Finding("note", f"{what}: {note}")
    if checkpoint.demonstration:
        yield Finding(
            "note", f"{what}: it is too small for real use; connect another: palaver models setup"
        )


def _check_engine(console: Console, load: bool) -> Findings:
    settings = console.settings
    engines = {DEFAULT_MODEL: settings.engine.use} | {
        name: model.use for name, model in settings.engine.models.items()
    }
    for model, engine in engines.items():
        label = f"engine {engine!r}" + f" of the model {model!r}" * (model != DEFAULT_MODEL)
        if load:
            yield from _try_engine_of(console, model, label)
        else:
            yield Finding("note", f"{label}: not loaded; --engine loads and tries it")


def _try_engine_of(console: Console, model: str, label: str) -> Findings:
    timeout = console.settings.engine.health_probe_timeout
    builder = _builder(console)
    try:
        engine = builder.engine() if model == DEFAULT_MODEL else builder.model(model)
        engine_info = asyncio.run(try_engine(engine, timeout))
    except PalaverError as error:
        yield _bad(error, f"{label}: ")
        return
    capabilities = ", ".join(sorted(engine_info.capabilities))
    yield Finding(
        "good",
        f"{label}: {engine_info.model} answers, context {engine_info.context_window} "
        f"tokens; can {capabilities}",
    )
    models = console.settings.models_of_skills
    for skill_name, skill in sorted(console.registry.skills.items()):
        missing = ", ".join(sorted(skill.needs - engine_info.capabilities))
        if missing and models.get(skill_name, DEFAULT_MODEL) == model:
            text = f"skill {skill_name!r} needs an engine with {missing}"
            yield Finding("bad", text, EXIT_MISCONFIGURED)


def _builder(console: Console) -> BackendBuilder:
    """Return a builder without creating the data directory, as the console's would."""
    return BackendBuilder(console.settings, console.registry)


def _bad(error: PalaverError, prefix: str = "") -> Finding:
    return Finding("bad", f"{prefix}{error}", exit_code(error))
