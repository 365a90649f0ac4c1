"""One settings model: defaults live here, in code. `palaver.config.loading` fills it.

The text under a field is its documentation: it becomes ``docs/settings.md``. Secrets are given by
reference (``env:NAME`` or ``file:PATH``) and never printed.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from palaver.errors import ConfigurationError
from palaver.messages import ConcurrencyPolicy

Tree = dict[str, Any]  # Any: nested tables of TOML values
KeyPath = tuple[str, ...]
"""The way to a value: ``("server", "port")``."""
Lane = Literal["interactive", "channel", "batch"]
"""Who goes first to the engine: somebody who looks on while the reply is written, somebody who gets
it as a whole, nobody in particular."""


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was given, in words for people. ``raw``: as text, from the environment or a
    flag, to be read as whatever type its field has."""

    location: str
    is_text: bool = False


def find_origin(origins: Mapping[KeyPath, Origin], path: KeyPath) -> Origin | None:
    """Return the origin of the value at ``path``.

    A table has the origin of the first value in it, a value that was not given that of the table
    around it. None: neither was given.
    """
    for length in range(len(path), 0, -1):
        for given, origin in origins.items():
            if given[:length] == path[:length]:
                return origin
    return None


class Section(pydantic.BaseModel):
    """A table of settings. Unknown keys are refused, values are frozen."""

    model_config = pydantic.ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


class PluginSettings(pydantic.BaseModel):
    """Base of a plugin's own settings: unknown keys are refused, values are frozen.

    The text under a field is its documentation.
    """

    model_config = pydantic.ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


class BackendsSection(Section):
    """A section with a table for every backend beside its own keys: ``[section.backend]``."""

    model_config = pydantic.ConfigDict(extra="allow")

    def of(self, name: str) -> Tree:
        """The table of backend ``name`` as given, not yet validated."""
        return dict(self.tables().get(name, {}))

    def tables(self) -> dict[str, Tree]:
        """The tables of all backends as given."""
        return dict(self.model_extra or {})

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # What stands in a backend's table is not validated here and may hold a password.
        return ((name, getattr(self, name)) for name in type(self).model_fields)


class ChoiceSettings(BackendsSection):
    """A section that picks one backend."""

    use: str
    """The backend to use; its settings stand in a table of its name."""


class EnabledSettings(BackendsSection):
    """A section that picks any number of backends."""

    enabled: tuple[str, ...] = ()
    """The backends to use, in this order; their settings stand in tables of their names."""


class Secret(pydantic.RootModel[str]):
    """A secret by reference: ``env:NAME`` or ``file:PATH``. Printing it shows the reference."""

    model_config = pydantic.ConfigDict(frozen=True, hide_input_in_errors=True)

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
    """Port to listen on. 0 takes any free port and prints it."""
    data: Path = Path("data")
    """Directory for the ledger, the models and the knowledge base."""
    origins: tuple[str, ...] = ()
    """Web origins, besides the server's own, whose pages may open a websocket."""
    max_message_bytes: int = pydantic.Field(default=1_000_000, ge=1_000)
    """Largest message that a client may send, in bytes."""
    send_queue_bytes: int = pydantic.Field(default=1_000_000, ge=10_000)
    """A reader for whom more than this waits unsent, in bytes, is disconnected."""
    drain: float = pydantic.Field(default=20.0, ge=0)
    """Seconds that running turns get to end when the server stops; then other replicas go on with
    them. At most ``grace`` less 3."""
    linger: float = pydantic.Field(default=0.0, ge=0)
    """Seconds for which a stopping server, not ready any more, goes on listening at least, so that
    a load balancer stops sending first. At most ``grace`` less 3."""
    grace: float = pydantic.Field(default=25.0, ge=1)
    """Seconds after which a stopping process has ended, whatever hangs. What gives it less time,
    a container's own grace, must be longer."""


class AuthKey(Section):
    secret: Secret
    """The bearer key itself, by reference."""
    tenant: str = "default"
    """The tenant that the key belongs to."""
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


class EngineSettings(ChoiceSettings):
    use: str = "openvino"
    """The engine that generates text for all skills."""
    health_probe_interval: float = pydantic.Field(default=15.0, gt=0)
    """Seconds between two probes of one generated token, while the engine is otherwise silent."""
    health_probe_timeout: float = pydantic.Field(default=30.0, gt=0)
    """Seconds after which a probe that has not ended declares the engine hung."""
    restart_backoff: float = pydantic.Field(default=1.0, gt=0)
    """Seconds before the first restart of a dead engine; doubles up to ten seconds."""
    timeout: float = pydantic.Field(default=120.0, gt=0)
    """Seconds that one generation may take."""
    restart_timeout: float = pydantic.Field(default=60.0, ge=0)
    """Seconds that a request waits for an engine that is being started again."""
    max_attempts: int = pydantic.Field(default=3, ge=1)
    """Deaths of the engine after which a generation that each of them cut fails."""


class LedgerSettings(ChoiceSettings):
    use: str = "sqlite"
    """The store of messages, turns and events."""
    history: int = pydantic.Field(default=40, ge=0)
    """Lines of history that a skill gets at most."""


class KnowledgeSettings(ChoiceSettings):
    use: str = "sqlite"
    """The store of documents that grounded answers are taken from."""


class ChannelsSettings(EnabledSettings):
    enabled: tuple[str, ...] = ()
    """Channels that run. Each opens network routes, so each is named."""


class InterceptorsSettings(EnabledSettings):
    enabled: tuple[str, ...] = ()
    """Interceptors that wrap every turn, the first outermost."""


class ModelsSettings(Section):
    hub_token: Secret | None = None
    """Token for gated and private models of the Hugging Face hub."""


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
    max_running: int = pydantic.Field(default=1024, ge=1)
    """Turns that this process runs at once, those in line for the engine included. What is beyond
    waits in the ledger, where tenants do not take turns."""
    lease: float = pydantic.Field(default=3.0, ge=0.5)
    """Seconds after which another process takes over the turn of a silent one."""
    max_attempts: int = pydantic.Field(default=3, ge=1)
    """Attempts after which a turn that no process survives is given up: it fails, and becomes a
    dead letter."""
    turn_timeout: float = pydantic.Field(default=600.0, gt=0)
    """Seconds that a turn may take in all."""


class ConcurrencyPolicySettings(Section):
    default: ConcurrencyPolicy = "queue"
    """What becomes of a message that comes while a turn of its conversation runs. ``queue``: it
    is answered after that. ``merge``: messages that follow each other closely are answered as
    one. ``interrupt``: the running turn is stopped, and the next one answers both. ``steer``: it
    is handed to the running skill, and if that does not take it, it is answered after that."""
    channels: dict[str, ConcurrencyPolicy] = {}
    """The same for single channels: ``web`` and those of ``channels.enabled``."""
    skills: dict[str, ConcurrencyPolicy] = {}
    """The same for as long as a certain skill runs; stronger than what the skill itself says, and
    than the channel."""
    merge_window: float = pydantic.Field(default=1.0, gt=0)
    """Seconds without a further message after which a burst is over, with ``merge``."""


class QuotaSettings(Section):
    turns: int | None = pydantic.Field(default=None, ge=1)
    """Turns that may be unsettled at once."""
    messages_per_minute: float | None = pydantic.Field(default=None, gt=0)
    """Messages that are accepted per minute; a minute's worth may come at once."""
    tokens_per_minute: float | None = pydantic.Field(default=None, gt=0)
    """Tokens per minute, of prompts and replies; messages are refused while more was used."""


class PersonSettings(QuotaSettings):
    turns: int | None = pydantic.Field(default=100, ge=1)
    """Turns that may be unsettled at once."""


class TenantSettings(QuotaSettings):
    weight: float = pydantic.Field(default=1.0, gt=0)
    """Share of the engine, against the other tenants' weights, while all of them wait for it."""


class AdmissionSettings(Section):
    max_generations: int = pydantic.Field(default=0, ge=0)
    """Generations that the engine gets at once; the others wait here in line. 0: as many as it
    runs at once, or 64 when it does not tell. More only move the line into the engine, where
    tenants do not take turns."""
    batch_share: float = pydantic.Field(default=0.75, gt=0, le=1)
    """Part of ``requests`` that the lane ``batch`` may fill: a generation that runs is not
    interrupted, so the rest is left free for those who come."""
    reserved_share: float = pydantic.Field(default=0.0625, ge=0, lt=1)
    """Part of ``requests`` that is left free for tenants who have few of them, for the same reason,
    as soon as the server has seen more than one. 0: none is ever free while somebody waits."""
    lanes: dict[str, Lane] = {}
    """The lane of each channel: ``interactive``, ``channel`` or ``batch``. Of those not named,
    ``web`` is interactive and every other one is ``channel``."""
    queue_tokens: int = pydantic.Field(default=524_288, ge=1)
    """Tokens of unsettled messages above which new ones are refused; a message counts by its
    length, and 512 for the reply."""
    tenant_share: float = pydantic.Field(default=0.5, gt=0, le=1)
    """Part of ``queue_tokens`` that one tenant alone may fill. The more tenants fill it, the less
    each gets, so that there is always room for another one."""
    inbox_limit: int = pydantic.Field(default=16, ge=1)
    """Messages that may wait in one conversation. It is the ledger's own limit, the same for all
    servers that share one."""
    max_wait: float = pydantic.Field(default=30.0, gt=0)
    """A message that would wait longer than this in line is refused, in seconds, as far as the
    pace of the line tells. Keep it below ``engine.timeout``, which the waiting is part of."""
    person: PersonSettings = PersonSettings()
    """What each person may use."""
    tenant: TenantSettings = TenantSettings()
    """What each tenant may use."""
    tenants: dict[str, TenantSettings] = {}
    """What a tenant may use that is named here, instead."""


class Settings(Section):
    """Everything that can be set, by section."""

    server: ServerSettings = ServerSettings()
    """The process and its web surface."""
    auth: AuthSettings = AuthSettings()
    """Who may talk to it."""
    plugins: PluginsSettings = PluginsSettings()
    """What is loaded."""
    engine: EngineSettings = EngineSettings()
    """What generates text."""
    ledger: LedgerSettings = LedgerSettings()
    """What remembers conversations."""
    knowledge: KnowledgeSettings = KnowledgeSettings()
    """What grounded answers are taken from."""
    models: ModelsSettings = ModelsSettings()
    """Where models come from."""
    routing: RoutingSettings = RoutingSettings()
    """How a message finds its skill."""
    dispatch: DispatchSettings = DispatchSettings()
    """How turns are run."""
    concurrency_policy: ConcurrencyPolicySettings = ConcurrencyPolicySettings()
    """What becomes of a message that comes while a turn runs."""
    admission: AdmissionSettings = AdmissionSettings()
    """Who gets the engine, and what is refused. Each server process counts for itself: behind two
    of them twice as much is accepted."""
    channels: ChannelsSettings = ChannelsSettings()
    """Where messages come from and replies go."""
    interceptors: InterceptorsSettings = InterceptorsSettings()
    """What happens around every turn."""
    skills: dict[str, Tree] = pydantic.Field(default={}, repr=False)
    """Settings of skills, in a table per skill."""

    _origins: dict[KeyPath, Origin] = pydantic.PrivateAttr(default_factory=dict)

    def origin(self, keys: KeyPath) -> Origin | None:
        """See `find_origin`."""
        return find_origin(self._origins, keys)
