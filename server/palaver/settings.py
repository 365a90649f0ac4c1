"""One settings model: defaults live here, in code.

Values come from, in rising order: these defaults, well-known bare environment names
(``REDIS_URL``, …), one TOML file, ``PALAVER__SECTION__KEY`` in the environment, flags.
Secrets are given by reference (``env:NAME`` or ``file:PATH``) and never printed.
"""

import os
from pathlib import Path
from typing import Any

import pydantic

from palaver.errors import ConfigurationError

ENVIRONMENT_PREFIX = "PALAVER__"
Tree = dict[str, Any]  # nested tables of TOML values

WELL_KNOWN: dict[str, tuple[str, ...]] = {
    "REDIS_URL": ("ledger", "redis", "url"),
    "OPENAI_API_KEY": ("engine", "openai", "api_key"),
    "OPENAI_BASE_URL": ("engine", "openai", "urls"),
    "HF_TOKEN": ("models", "hub_token"),
}


class Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Secret(pydantic.RootModel[str]):
    """A secret by reference: ``env:NAME`` or ``file:PATH``. Printing it shows the reference."""

    model_config = pydantic.ConfigDict(frozen=True)

    @pydantic.field_validator("root")
    @classmethod
    def _is_reference(cls, value: str) -> str:
        if not value.startswith(("env:", "file:")):
            raise ValueError("a secret is given by reference: 'env:NAME' or 'file:PATH'")
        return value

    def reveal(self) -> str:
        """The secret itself. Raises `ConfigurationError` when the reference leads nowhere."""
        kind, _, place = self.root.partition(":")
        if kind == "env":
            value = os.environ.get(place, "")
        else:
            try:
                value = Path(place).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigurationError(f"secret {self.root!r}: {error.strerror}") from error
        if not value:
            raise ConfigurationError(f"secret {self.root!r} is empty or not set")
        return value


class ServerSettings(Section):
    host: str = "127.0.0.1"
    """Address to listen on. One that others can reach requires ``auth.keys``."""
    port: int = pydantic.Field(default=7252, ge=0, le=65535)
    """0 takes any free port and prints it."""
    data: Path = Path("data")
    """Directory for the ledger, the models and the knowledge base."""
    origins: tuple[str, ...] = ()
    """Web origins, besides the server's own, whose pages may open a websocket."""
    max_message_bytes: int = pydantic.Field(default=1_000_000, ge=1_000)
    """Largest message that a client may send, in bytes."""
    send_queue_bytes: int = pydantic.Field(default=1_000_000, ge=10_000)
    """A reader for whom more than this waits unsent is disconnected."""
    drain: float = pydantic.Field(default=20.0, ge=0)
    """Seconds that running turns get to end when the server stops."""


class AuthKey(Section):
    secret: Secret
    tenant: str = "default"
    person: str = ""
    """The person that the key speaks for; empty lets the client name the person."""


class AuthSettings(Section):
    keys: dict[str, AuthKey] = {}
    """Bearer keys by name. Without any, only loopback is served, to tenant ``default``."""


class PluginsSettings(Section):
    strict: bool = False
    """Refuse to start when any plugin fails, instead of starting without it."""
    disabled: tuple[str, ...] = ()
    """Entry points that are not loaded."""


class ChoiceSettings(pydantic.BaseModel):
    """A section whose ``use`` names a backend, with that backend's settings beside it."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    use: str

    def of(self, name: str) -> Tree:
        """The table ``[section.name]`` as given, not yet validated."""
        return dict((self.model_extra or {}).get(name, {}))


class EngineSettings(ChoiceSettings):
    use: str = "openvino"
    canary_interval: float = pydantic.Field(default=15.0, gt=0)
    """Seconds between two probes of one generated token, while the engine is otherwise silent."""
    canary_deadline: float = pydantic.Field(default=30.0, gt=0)
    """Seconds after which a probe that has not ended declares the engine hung."""
    restart_backoff: float = pydantic.Field(default=1.0, gt=0)
    """Seconds before the first restart of a dead engine; doubles up to a minute."""
    deadline: float = pydantic.Field(default=120.0, gt=0)
    """Seconds that one generation may take."""


class LedgerSettings(ChoiceSettings):
    use: str = "sqlite"
    history: int = pydantic.Field(default=40, ge=0)
    """Lines of history that a skill gets at most."""


class KnowledgeSettings(ChoiceSettings):
    use: str = "sqlite"


class EnabledSettings(pydantic.BaseModel):
    """A section whose ``enabled`` names backends, with their settings beside it."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    enabled: tuple[str, ...] = ()

    def of(self, name: str) -> Tree:
        return dict((self.model_extra or {}).get(name, {}))


class ModelsSettings(Section):
    hub_token: Secret | None = None
    """Token for private models of the hub."""


class RoutingSettings(Section):
    default: str = "chat"
    """The skill that answers when no other fits."""
    threshold: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Probability from which the choice by meaning stands without asking the engine."""
    margin: float = pydantic.Field(default=0.1, ge=0, le=1)
    """Lead over the second skill that the choice by meaning needs."""
    consult_engine: bool = True
    """Let the engine choose when the choice by meaning is uncertain."""


class DispatchSettings(Section):
    concurrency: int = pydantic.Field(default=256, ge=1)
    """Turns that this process runs at once."""
    lease: float = pydantic.Field(default=3.0, ge=0.5)
    """Seconds after which another process takes over the turn of a silent one."""
    attempts: int = pydantic.Field(default=3, ge=1)
    """Attempts after which a turn fails."""
    turn_deadline: float = pydantic.Field(default=600.0, gt=0)
    """Seconds that a turn may take in all."""


class Settings(Section):
    """Everything that can be set, by section."""

    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    plugins: PluginsSettings = PluginsSettings()
    engine: EngineSettings = EngineSettings()
    ledger: LedgerSettings = LedgerSettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()
    models: ModelsSettings = ModelsSettings()
    routing: RoutingSettings = RoutingSettings()
    dispatch: DispatchSettings = DispatchSettings()
    channels: EnabledSettings = EnabledSettings()
    interceptors: EnabledSettings = EnabledSettings()
    skills: dict[str, Tree] = {}
    """Settings of skills, by skill name."""
