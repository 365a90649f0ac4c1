"""Checks of the settings against the installed plugins. They read only, and start nothing."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from palaver.authentication import find_key_problems
from palaver.config.loading import WELL_KNOWN, model_settings, plugin_settings, plugin_tables
from palaver.config.settings import DEFAULT_MODEL, NO_EMBEDDINGS, Origin, Secret, Settings
from palaver.config.validation import (
    closest_path,
    describe_unknown_key,
    find_unknown_keys,
    format_suggestion,
    validate_or_explain,
)
from palaver.engine import Engine
from palaver.errors import ConfigurationError
from palaver.hooks import Backend, BuildContext
from palaver.plugins import PluginRegistry
from palaver.sites import find_site_problems


class SecretReference(NamedTuple):
    """A secret of the settings. ``is_used``: what it belongs to is in use. ``channel``: the channel
    that does not run without it, empty for a secret without which the server does not."""

    key: str
    secret: Secret
    is_used: bool
    channel: str = ""


def check_settings(settings: Settings, registry: PluginRegistry) -> None:
    """Refuse settings that cannot work with the installed plugins. What keeps only a channel from
    working is left to the channel.

    Raises `ConfigurationError` with one line for each problem.
    """
    validate_plugin_settings(settings, registry)
    problems = [
        *find_unknown_names(settings, registry),
        *find_key_problems(settings.auth),
        *find_site_problems(settings),
    ]
    for key, secret, is_used, channel in find_secrets(settings, registry):
        try:
            secret.reveal()
        except ConfigurationError as error:
            problems += [f"{key}: {error}"] if is_used and not channel else []
    if problems:
        raise ConfigurationError("\n".join(problems))


# The tables of plugins


def validate_plugin_settings(settings: Settings, registry: PluginRegistry) -> None:
    """Check the tables of all backends and skills, whether they are in use or not; those of
    channels only for unknown keys.

    Raises `ConfigurationError` with one line for each wrong value, and for each table without an
    installed plugin.
    """
    problems: list[str] = []
    for section, models in plugin_models(registry).items():
        for name, tree in plugin_tables(settings, section).items():
            origin = settings.origin((section, name))
            if name in models and section == "channels":
                problems += find_unknown_keys(models[name], tree, settings.origin, (section, name))
            elif name in models:
                _, found = validate_or_explain(models[name], tree, settings.origin, (section, name))
                problems += found
            elif not _may_lack_plugin(settings, registry, origin):
                hint = format_suggestion(closest_path((section, name), models))
                problems.append(describe_unknown_key((section, name), origin, hint))
    for name, model in settings.engine.models.items():
        if model.use in registry.engines:
            own = registry.engines[model.use].settings
            path = ("engine", "models", name)
            problems += validate_or_explain(own, model.own, settings.origin, path)[1]
    if problems:
        raise ConfigurationError("\n".join(problems))


def plugin_models(registry: PluginRegistry) -> dict[str, dict[str, type[pydantic.BaseModel]]]:
    """Return the settings model of everything installed: section → name → model."""
    models: dict[str, dict[str, type[pydantic.BaseModel]]] = {
        section: {name: backend.settings for name, backend in backends.items()}
        for section, backends in installed_backends(registry).items()
    }
    models["skills"] = {name: skill.Settings for name, skill in registry.skills.items()}
    return models


def installed_backends(registry: PluginRegistry) -> dict[str, Mapping[str, Backend[Any]]]:
    """Return the backends by the section of the settings that chooses among them."""
    return {
        "engine": registry.engines,
        "embedding": registry.embedders,
        "ledger": registry.ledgers,
        "knowledge": registry.knowledge,
        "channels": registry.channels,
        "interceptors": registry.interceptors,
        "tool_sources": registry.tool_sources,
    }


def _may_lack_plugin(settings: Settings, registry: PluginRegistry, origin: Origin | None) -> bool:
    """Return True when a table without a plugin need not be a mistake.

    Its plugin failed or is disabled, or the value comes from an environment name that other
    programs use too.
    """
    is_well_known = (
        origin is not None and origin.location.removeprefix("environment ") in WELL_KNOWN
    )
    return is_well_known or bool(registry.failures) or bool(settings.plugins.disabled)


# Names


def find_unknown_names(settings: Settings, registry: PluginRegistry) -> Iterator[str]:
    """Yield a sentence for each name in the settings that no installed plugin has."""
    names: list[tuple[str, Collection[str], Collection[str]]] = []
    for section, backends in installed_backends(registry).items():
        chosen = getattr(settings, section)
        if section == "embedding":
            embedding = {NO_EMBEDDINGS, *backends, *registry.engines}
            names.append(("embedding.use", [chosen.use] if chosen.use else [], embedding))
        elif hasattr(chosen, "use"):
            names.append((f"{section}.use", [chosen.use], backends))
        else:
            names.append((f"{section}.enabled", chosen.enabled, backends))
    if len(registry.skills) != 1:  # a single skill answers everything
        names.append(("routing.default", [settings.routing.default], registry.skills))
    policy, channels = settings.concurrency_policy, {"web", *registry.channels}
    names += [
        ("concurrency_policy.skills", policy.skills, registry.skills),
        ("concurrency_policy.channels", policy.channels, channels),
        ("admission.lanes", settings.admission.lanes, channels),
    ]
    names += [
        (f"widget.sites.{name}.skills", site.skills, registry.skills)
        for name, site in settings.widget.sites.items()
    ]
    names += [
        (f"engine.models.{name}.use", [model.use], registry.engines)
        for name, model in settings.engine.models.items()
    ]
    for setting, given, installed in names:
        for name in given:
            if name not in installed:
                yield describe_unknown_name(setting, name, installed)
    yield from _find_unknown_models(settings, registry)


def _find_unknown_models(settings: Settings, registry: PluginRegistry) -> Iterator[str]:
    models = {DEFAULT_MODEL, *settings.engine.models}
    for skill, model in settings.models_of_skills.items():
        if model not in models:
            known = ", ".join(sorted(models))
            yield f"skills.{skill}.model names {model!r}; the models of the settings are: {known}"
    for name in settings.engine.models:
        if name in registry.skills:  # programs name both in the same way
            yield f"engine.models.{name} has the name of a skill; give the model another name"


def describe_unknown_name(setting: str, name: str, installed: Collection[str]) -> str:
    return f"{setting} names {name!r}; installed are: {', '.join(sorted(installed)) or 'none'}"


def _used_names(settings: Settings, section: str) -> tuple[str, ...]:
    chosen = getattr(settings, section)
    if section == "engine":
        return (settings.engine.use, settings.embedding.use)
    return (chosen.use,) if hasattr(chosen, "use") else chosen.enabled


# Secrets


def find_secrets(settings: Settings, registry: PluginRegistry) -> Iterator[SecretReference]:
    """Yield every secret of the settings, those of backends that are not in use included."""
    for key, secret in _secrets_of(settings):
        yield SecretReference(key, secret, is_used=True)
    for section, backends in installed_backends(registry).items():
        used = _used_names(settings, section)
        for name in sorted({*used, *plugin_tables(settings, section)} & backends.keys()):
            try:
                model = plugin_settings(settings, section, name, backends[name].settings)
            except ConfigurationError:
                if section != "channels":
                    raise
                continue  # the channel does not run, for this reason
            channel = name if section == "channels" else ""
            for key, secret in _secrets_of(model, f"{section}.{name}."):
                yield SecretReference(key, secret, name in used, channel)
    for name, chosen in settings.engine.models.items():
        if chosen.use in registry.engines:
            own = model_settings(settings, name, registry.engines[chosen.use].settings)
            for key, secret in _secrets_of(own, f"engine.models.{name}."):
                yield SecretReference(key, secret, is_used=True)


def check_secrets(model: pydantic.BaseModel, prefix: str) -> None:
    """Refuse settings with a secret that cannot be read. Raises `ConfigurationError`."""
    for key, secret in _secrets_of(model, prefix):
        try:
            secret.reveal()
        except ConfigurationError as error:
            raise ConfigurationError(f"{key}: {error}") from error


def _secrets_of(model: pydantic.BaseModel, prefix: str = "") -> Iterator[tuple[str, Secret]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        items = value.items() if isinstance(value, dict) else [("", value)]
        for inner, item in items:
            key = f"{prefix}{name}.{inner}".rstrip(".")
            if isinstance(item, Secret):
                yield key, item
            elif isinstance(item, pydantic.BaseModel):
                yield from _secrets_of(item, f"{key}.")


# The model


def loads_models(backend: Backend[Engine]) -> bool:
    """Return True for an engine that loads models of the registry: one whose settings have the
    field ``model: str = ""``."""
    field = backend.settings.model_fields.get("model")
    return field is not None and field.annotation is str and field.default == ""


class ModelChoice(NamedTuple):
    """The setting ``key`` that chooses a model of the registry for ``engine``; "": the current
    model. ``is_default``: for the default engine."""

    key: str
    engine: str
    model: str
    is_default: bool


def find_model_choices(settings: Settings, registry: PluginRegistry) -> Iterator[ModelChoice]:
    """Yield the choices of all engines in use that load models of the registry, the default one
    first. Raises `ConfigurationError`."""
    engines = registry.engines
    backend = engines.get(settings.engine.use)
    if backend is not None and loads_models(backend):
        own = plugin_settings(settings, "engine", backend.name, backend.settings)
        key = f"engine.{backend.name}.model"
        yield ModelChoice(key, backend.name, getattr(own, "model", ""), is_default=True)
    for name, chosen in settings.engine.models.items():
        backend = engines.get(chosen.use)
        if backend is not None and loads_models(backend):
            own = model_settings(settings, name, backend.settings)
            key = f"engine.models.{name}.model"
            yield ModelChoice(key, backend.name, getattr(own, "model", ""), is_default=False)


def find_models(
    settings: Settings, registry: PluginRegistry, build_context: BuildContext
) -> dict[str, Path]:
    """Return the directories of the models that the engines in use load, by the setting that
    chooses each. Raises `ConfigurationError` when there is no such model."""
    return {
        choice.key: build_context.resolve_model(choice.model)
        for choice in find_model_choices(settings, registry)
    }
