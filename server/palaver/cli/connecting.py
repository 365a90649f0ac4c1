"""Connection of a model that a person has chosen: it is tried, then written down.

A model of a server goes into the settings file. A model of this machine is added to the registry
and becomes the current one; the settings file names the engine that has loaded it.
"""

import asyncio
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from palaver.app import BackendBuilder, create_data_directory
from palaver.checks import check_settings, loads_models
from palaver.cli.engine_trial import try_engine
from palaver.config.editing import (
    Changes,
    edit_settings,
    find_obstacle,
    read_settings_text,
    replace_settings,
)
from palaver.config.loading import WELL_KNOWN, load_settings, plugin_tables
from palaver.config.settings import DEFAULT_MODEL, KeyPath, Settings
from palaver.engines.boundary import EngineBoundary
from palaver.errors import ConfigurationError, InvalidInput, NotFound, PalaverError
from palaver.models.choices import (
    AddedChoice,
    HubChoice,
    Launch,
    PathChoice,
    ServerChoice,
    SetupChoice,
    SetupProgress,
)
from palaver.models.gguf import find_gguf
from palaver.models.hub import Hub
from palaver.models.registry import ModelRegistry, gguf_name
from palaver.models.servers import list_models
from palaver.plugins import PluginRegistry, load_plugins
from palaver.private_files import make_private_directory, write_private_file

KEYS_DIRECTORY = "keys"
"""Directory of keys of model servers in ``server.data``, one file each."""
TRIAL_KEY = "PALAVER_SETUP_KEY"
"""Variable of this process with the key for the trial."""
TRIAL_TOKENS = 64
TRIAL_TIMEOUT = 180.0
"""Seconds for the reply of the trial: some servers load the model first."""
START_TIMEOUT = 900.0
"""Seconds for a whole trial, with the load of a large model."""
CHECKPOINT_ENGINES = ("openvino", "vllm", "transformers")
GGUF_ENGINES = ("llamacpp",)
"""Engines for models of this machine in the order in which they are tried, after the one in use;
those of other plugins follow."""
_OF_SERVER = ("context_window", "flavor", "capabilities", "vision", "tools")
"""Settings of engine ``openai`` that describe a server, so that another one does not get them."""

Report = Callable[[SetupProgress], None]


class Connector:
    """Connects models for one way to start the server. ``report`` gets the progress."""

    def __init__(
        self, launch: Launch, report: Report, registry: PluginRegistry | None = None
    ) -> None:
        self._file = Path(launch.settings_file)
        self._overrides = launch.overrides
        self._report = report
        self._settings = self._load({})
        plugins = self._settings.plugins
        self._plugins = registry or load_plugins(disabled=plugins.disabled, strict=plugins.strict)
        self._models = ModelRegistry(self._settings.server.data)

    def connect(self, choice: SetupChoice) -> str:
        """Try the chosen model and write it down; return its name. Blocks.

        Raises `PalaverError` with a sentence for the person; nothing is written then.
        """
        if obstacle := find_obstacle(self._file):
            raise ConfigurationError(obstacle)
        create_data_directory(self._settings)
        match choice:
            case ServerChoice():
                return self._connect_server(choice)
            case HubChoice():
                return self._connect_added(self._download(choice))
            case PathChoice():
                return self._connect_path(Path(choice.path).expanduser())
            case AddedChoice():
                self._models.find(choice.name)
                return self._connect_added(choice.name)

    # A server

    def _connect_server(self, choice: ServerChoice) -> str:
        self._report(SetupProgress(step="checking", model=choice.model))
        url, listed = asyncio.run(list_models(choice.url, choice.key))
        names = [model.id for model in listed]
        model = choice.model or (names[0] if len(names) == 1 else "")
        if not model:
            raise InvalidInput(f"{url} needs the name of a model; it has: {_some(names)}")
        self._report(SetupProgress(step="checking", model=model))
        key_file = self._keys / f"openai-{secrets.token_hex(4)}" if choice.key else None
        changes: Changes = {
            ("engine", "use"): "openai",
            ("engine", "openai", "urls"): [url],
            ("engine", "openai", "model"): model,
            ("engine", "openai", "api_key"): f"file:{key_file}" if key_file else None,
            **{("engine", "openai", name): None for name in _OF_SERVER},
        }
        self._load(changes, check_fixed=True)
        # The key is not stored before the server has taken it: this process may be killed.
        os.environ[TRIAL_KEY] = choice.key
        trial = (f"engine.openai.api_key=env:{TRIAL_KEY}",) if choice.key else ()
        self._try(self._load(changes, trial))
        if key_file:
            make_private_directory(self._keys)
            write_private_file(key_file, f"{choice.key}\n".encode())
        self._write(changes)
        return model

    @property
    def _keys(self) -> Path:
        return self._settings.server.data / KEYS_DIRECTORY

    def remove_old_key(self) -> None:
        """Remove the file of the key that the settings named before, if a setup has made it. A
        running server may read it until it has restarted."""
        before = plugin_tables(self._settings, "engine").get("openai", {}).get("api_key", "")
        file = Path(str(before).removeprefix("file:"))
        now = plugin_tables(self._load({}), "engine").get("openai", {}).get("api_key", "")
        if file.parent == self._keys and before != now:
            file.unlink(missing_ok=True)

    # Models of this machine

    def _download(self, choice: HubChoice) -> str:
        """Return the name of a model of the hub, which is downloaded unless it is here."""
        repository, _, gguf = choice.repository.partition(":")
        name = gguf_name(PurePosixPath(gguf).name) if gguf else repository.partition("/")[2]
        source = self._models.source(name) if name in self._models.models() else ""
        if source.startswith(f"hub {repository} at ") and not choice.revision:
            return name
        self._report(SetupProgress(step="downloading", model=name))

        def report(done: int, total: int) -> None:
            self._report(SetupProgress(step="downloading", model=name, done=done, total=total))

        token = self._settings.models.hub_token
        hub = Hub(token.reveal() if token else None, lambda text: None, report)
        return self._models.add_from_hub(hub, choice.repository, revision=choice.revision)

    def _connect_path(self, path: Path) -> str:
        if not path.is_absolute():
            raise InvalidInput(f"{str(path)!r} is not an absolute path")
        if not path.exists():
            raise NotFound(f"there is nothing at {str(path)!r} on the server's machine")
        for name, place in self._models.models().items():
            if place.resolve() == path.resolve():
                return self._connect_added(name)
        self._report(SetupProgress(step="checking", model=path.name))
        short = gguf_name(path.name) if path.is_file() else path.resolve().name
        name = self._models.add_directory(path, self._free_name(short))
        try:
            return self._connect_added(name)
        except BaseException:
            self._models.remove(name)
            raise

    def _free_name(self, name: str) -> str:
        """Return a name for a new model that no other one has."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")[:90] or "model"
        names = (plain, *(f"{plain}-{number}" for number in range(2, 1000)))
        return next(each for each in names if each not in self._models.models())

    def _connect_added(self, name: str) -> str:
        """Make a model of the registry the current one, with the first engine that runs it."""
        self._report(SetupProgress(step="checking", model=name))
        problems = []
        for engine in self._find_engines(name):
            changes: dict[KeyPath, str | list[str] | None] = {("engine", engine, "model"): None}
            if engine != self._settings.engine.use:
                changes["engine", "use"] = engine
            settings = self._load(changes, (f"engine.{engine}.model={_quote(name)}",))
            try:
                self._load(changes, check_fixed=True)
                self._try(settings)
            except PalaverError as error:
                problems.append(f"{engine}: {error}")
                continue
            self._write(changes)
            self._models.use(name)
            return name
        raise ConfigurationError(f"no engine here runs {name!r}: {'; '.join(problems) or 'none'}")

    def _find_engines(self, model: str) -> Iterator[str]:
        """Yield the engines that may load a model of the registry, the one in use first."""
        engines = [name for name, backend in self._plugins.engines.items() if loads_models(backend)]
        is_gguf = find_gguf(self._models.find(model)) is not None
        preferred = GGUF_ENGINES if is_gguf else CHECKPOINT_ENGINES
        others = [name for name in engines if name not in CHECKPOINT_ENGINES + GGUF_ENGINES]
        order = sorted((*preferred, *others), key=lambda name: name != self._settings.engine.use)
        yield from (name for name in order if name in engines)

    # Settings

    def _load(
        self, changes: Changes, overrides: tuple[str, ...] = (), *, check_fixed: bool = False
    ) -> Settings:
        """Return the settings of a server that starts after ``changes`` of the file. Raises
        `ConfigurationError`; with ``check_fixed``, also when a change would have no effect."""
        text = self._edit(changes)
        overrides = (*self._overrides, *overrides)
        settings = load_settings(self._file, os.environ, overrides, file_text=text)
        if check_fixed:
            for keys, wanted in changes.items():
                _check_effect(settings, keys, wanted)
        return settings

    def _edit(self, changes: Changes) -> str:
        return edit_settings(read_settings_text(self._file), changes, str(self._file))

    def _write(self, changes: Changes) -> None:
        before = read_settings_text(self._file)
        text = self._edit(changes)
        if text != before:
            replace_settings(self._file, text)

    def _try(self, settings: Settings) -> None:
        """Raise `PalaverError` unless a server with the settings would start and generate."""
        check_settings(settings, self._plugins)
        engine = EngineBoundary(BackendBuilder(settings, self._plugins).engine())

        async def run() -> None:
            async with asyncio.timeout(START_TIMEOUT):
                info = await try_engine(engine, TRIAL_TIMEOUT, TRIAL_TOKENS)
            for name, skill in self._plugins.skills.items():
                is_default = settings.models_of_skills.get(name, DEFAULT_MODEL) == DEFAULT_MODEL
                if is_default and (missing := skill.needs - info.capabilities):
                    raise ConfigurationError(
                        f"skill {name!r} needs an engine with {', '.join(sorted(missing))}"
                    )

        try:
            asyncio.run(run())
        except TimeoutError:
            raise ConfigurationError(f"no reply came within {START_TIMEOUT:g} s") from None


def _check_effect(settings: Settings, keys: KeyPath, wanted: str | list[str] | None) -> None:
    """Refuse a change of the file that a flag or the environment overrides."""
    if keys == ("engine", "use"):
        actual: object = settings.engine.use
    else:
        actual = plugin_tables(settings, "engine").get(keys[1], {}).get(keys[2])
    origin = settings.origin(keys)
    is_same = actual == wanted or (isinstance(wanted, list) and actual == ",".join(wanted))
    if is_same or origin is None:
        return
    if origin.location.removeprefix("environment ") in WELL_KNOWN:
        return
    raise ConfigurationError(
        f"{'.'.join(keys)} is fixed by {origin.location}, which overrides the settings file: "
        "start the server without it, then choose again"
    )


def _some(names: list[str]) -> str:
    """Return names for a sentence."""
    shown = ", ".join(names[:10]) or "none"
    return f"{shown}, …" if len(names) > 10 else shown


def _quote(text: str) -> str:
    """Return a text as a TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
