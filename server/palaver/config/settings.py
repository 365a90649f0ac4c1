"""The settings model with its defaults. `palaver.config.loading` fills it.

The text under a field is its documentation and becomes ``docs/settings.md``. Secrets are references
(``env:NAME`` or ``file:PATH``) and never printed.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from palaver.addresses import parse_network
from palaver.config.text_files import BYTE_ORDER_MARK, read_text_file
from palaver.errors import ConfigurationError, InvalidInput
from palaver.messages import ConcurrencyPolicy, check_name
from palaver.origins import parse_host_pattern, parse_origin

Tree = dict[str, Any]  # Any: nested tables of TOML values
KeyPath = tuple[str, ...]
"""The path of a value: ``("server", "port")``."""
Lane = Literal["interactive", "channel", "batch"]
"""Order of generations that wait for the engine: replies that a person reads as they are written,
replies that are sent as a whole, background work."""
Right = Literal["talk", "read", "export", "erase", "operate", "metrics", "impersonate"]
"""What a key may do; docs/security.md has a table."""


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was given, in words for people. ``is_text``: the value is text from the
    environment or a flag, to be parsed as its field's type."""

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
    """A section that has a table for each backend: ``[section.backend]``."""

    model_config = pydantic.ConfigDict(extra="allow")

    def of(self, name: str) -> Tree:
        """Return the table of backend ``name`` as given, not validated."""
        return dict(self.tables().get(name, {}))

    def tables(self) -> dict[str, Tree]:
        """Return the tables of all backends as given."""
        return dict(self.model_extra or {})

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # A backend's table is not validated here and may hold a password.
        return ((name, getattr(self, name)) for name in type(self).model_fields)


class ChoiceSettings(BackendsSection):
    """A section that chooses one backend."""

    use: str
    """The backend to use; the table of its name has its settings."""


class EnabledSettings(BackendsSection):
    """A section that chooses any number of backends."""

    enabled: tuple[str, ...] = ()
    """The backends to use, in this order; the tables of their names have their settings."""


class Secret(pydantic.RootModel[str]):
    """A secret by reference: ``env:NAME`` or ``file:PATH``. Printing it shows the reference."""

    model_config = pydantic.ConfigDict(frozen=True, hide_input_in_errors=True)

    @pydantic.field_validator("root")
    @classmethod
    def _is_reference(cls, value: str) -> str:
        if not value.startswith(("env:", "file:")):
            raise ValueError("a secret must be a reference: 'env:NAME' or 'file:PATH'")
        return value

    def reveal(self) -> str:
        """Return the secret, without space around it. Raises `ConfigurationError` when it is empty
        or does not exist."""
        kind, _, name = self.root.partition(":")
        if kind == "env":
            value = os.environ.get(name, "").removeprefix(BYTE_ORDER_MARK)
        else:
            value = read_text_file(Path(name), self.root)
        value = value.strip()
        if not value:
            raise ConfigurationError(f"{self.root} is empty or not set")
        return value


class ServerSettings(Section):
    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach requires ``auth.keys``."""
    port: int = pydantic.Field(default=7252, ge=0, le=65535)
    """Port to listen on. 0 takes any free port; `palaver serve` prints it."""
    data: Path = Path("data")
    """Directory for the ledger, the models and the knowledge base."""
    origins: tuple[str, ...] = ()
    """Web origins whose pages may use the server, in addition to its own, such as
    ``https://www.example.org``: websockets, HTTP, event streams and modules (CORS)."""
    sharing: bool = True
    """Whether people may share a snapshot of a conversation with everybody who has its link."""
    max_message_bytes: int = pydantic.Field(default=1_000_000, ge=1_000)
    """Largest message that a client may send, in bytes."""
    send_queue_bytes: int = pydantic.Field(default=1_000_000, ge=10_000)
    """Largest backlog of one connection, in bytes. A client that reads too slowly is
    disconnected."""
    drain: float = pydantic.Field(default=20.0, ge=0)
    """Graceful shutdown: seconds that running turns have to end; then other replicas take them
    over. At most ``grace`` minus 3."""
    linger: float = pydantic.Field(default=0.0, ge=0)
    """Graceful shutdown: seconds for which the server keeps listening after ``/readyz`` reports
    that it is not ready, so that a load balancer can stop sending first. At most ``grace``
    minus 3."""
    grace: float = pydantic.Field(default=25.0, ge=1)
    """Graceful shutdown: seconds after which the process exits in any case. A container's or
    service manager's own grace period must be longer."""

    @pydantic.field_validator("origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(parse_origin(origin.removesuffix("/")) for origin in value)


class ConnectionSettings(Section):
    total: int = pydantic.Field(default=10_000, ge=1)
    """Most connections at once, and never more than the limit on open files has room for. Above it
    the oldest connection without a request is closed; when there is none, further ones are refused,
    except for health and metrics."""
    per_address: int = pydantic.Field(default=0, ge=0)
    """Most connections of one client's address. 0: three quarters of ``total``, 2,000 at most. Set
    ``trusted_proxies`` behind a reverse proxy, or all clients have its address."""
    per_person: int = pydantic.Field(default=100, ge=1)
    """Most websockets, event streams and requests that wait for a reply, of one person."""
    per_tenant: int = pydantic.Field(default=0, ge=0)
    """Most connections of one tenant that are being served. 0: half of ``total``, and all of them
    where all keys and sites belong to one tenant."""
    pending: int = pydantic.Field(default=0, ge=0)
    """Most connections that wait for a complete request or for a hello. 0: half of ``total``, 1,000
    at most. Above it the oldest is closed."""
    head_timeout: float = pydantic.Field(default=10.0, gt=0)
    """Seconds that a client has for its request line and headers, from the connection or from their
    first byte on."""
    body_timeout: float = pydantic.Field(default=30.0, gt=0)
    """Seconds that a client has for the body of a request, and for each 64 KiB of a file."""
    hello_timeout: float = pydantic.Field(default=5.0, gt=0)
    """Seconds that a client has for the hello of a websocket."""
    keep_alive_timeout: float = pydantic.Field(default=75.0, gt=0)
    """Seconds for which a connection without a request stays open."""
    write_timeout: float = pydantic.Field(default=30.0, gt=0)
    """Seconds in which a client must take what was sent to it; of more than 64 KiB, at least so
    much. Otherwise it is disconnected."""
    buffer_bytes: int = pydantic.Field(default=16_000_000, ge=100_000)
    """Bytes that the server holds for all connections together: what clients have not read, and
    bodies and frames that are not complete. Above it the connections that hold the most for the
    longest time are closed. Keep it far above ``server.max_message_bytes``."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of reverse proxies, such as ``10.0.0.0/8``. Only from them
    ``X-Forwarded-For`` is believed, and limits by address hold for the clients behind them."""

    @pydantic.field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            parse_network(network)
        return value


class AuthKey(Section):
    secret: Secret
    """The bearer key, as a reference. It has at least 16 characters, and no other key has it; make
    one with ``openssl rand -hex 32``."""
    tenant: str = "default"
    """The tenant of the key."""
    person: str = ""
    """The person of the key. Empty: each browser is a person of its own, and programs share one
    identity, unless the key has the right ``impersonate``."""
    rights: tuple[Right, ...] = ("talk", "read")
    """What the key may do: ``talk`` (send messages, stop turns), ``read`` (conversations and their
    events), ``export`` and ``erase`` (a person's data), ``operate`` (the details of ``/readyz``,
    the channels and the people who may write to them, of all tenants), ``metrics``
    (``/metrics``), ``impersonate`` (name any person of the tenant)."""


class AuthSettings(Section):
    keys: dict[str, AuthKey] = {}
    """Bearer keys by name. Without keys the server accepts only this machine, as tenant
    ``default``."""
    failures_per_minute: float = pydantic.Field(default=30.0, gt=0)
    """Wrong keys per minute from one address that are answered with 401; all of them may arrive at
    once. Further ones get 429. A right key is never refused. An IPv6 client is its /64 network."""
    cookie_secret: Secret | None = None
    """Secret that signs the cookies of browsers and the tokens of visitors, as a reference.
    Replicas need the same one. Without it the server makes one and keeps it in ``server.data``."""
    previous_cookie_secret: Secret | None = None
    """An earlier ``cookie_secret`` that is still valid: browsers and visitors keep their persons,
    and get cookies and tokens with the new one when they come back."""


class SiteSettings(Section):
    key: str
    """The public key of the site, which stands in its pages: ``pk_`` and at least 13 letters,
    digits, ``_`` or ``-``. Each site has its own; make one with
    ``echo pk_$(openssl rand -hex 16)``."""
    origins: tuple[str, ...]
    """Web origins of the pages that may use the key, such as ``https://www.example.org``."""
    tenant: str = "default"
    """The tenant of the site's visitors. Give a public site a tenant of its own."""
    identity_secret: Secret | None = None
    """Secret of at least 32 characters with which the site's own backend signs who a visitor is
    (JWT, HS256), as a reference."""
    identity_public_key: str = ""
    """Public key, as PEM, of the site's own backend, which signs who a visitor is: RSA (JWT with
    RS256), P-256 (ES256) or Ed25519 (EdDSA)."""
    require_identity: bool = False
    """Refuse visitors without a signed identity."""
    skills: tuple[str, ...] = ()
    """Skills that may answer visitors, and that a model may call for them. Empty: all. More than
    one must include ``routing.default``."""
    collections: tuple[str, ...] = ()
    """Collections of the knowledge base that replies to visitors may rest on. Empty: all of the
    tenant."""
    files: bool = False
    """Whether visitors may upload files and send them."""
    messages_per_minute: float = pydantic.Field(default=20.0, gt=0)
    """Messages of one visitor accepted per minute; all of them may arrive at once. It stands for
    ``admission.person.messages_per_minute``; the other quotas of a person hold as well."""
    new_visitors_per_minute: float = pydantic.Field(default=120.0, gt=0)
    """Visitors per minute that are unknown and not identified; all of them may arrive at once.
    Further ones get 429; those that are known already are not affected."""

    @pydantic.field_validator("key")
    @classmethod
    def _is_public_key(cls, value: str) -> str:
        if not re.fullmatch(r"pk_[A-Za-z0-9_-]{13,97}", value):
            raise ValueError("expected 'pk_' and 13 to 97 letters, digits, '_' or '-'")
        return value

    @pydantic.field_validator("origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("expected at least one origin such as 'https://www.example.org'")
        return tuple(parse_origin(origin.removesuffix("/")) for origin in value)

    @pydantic.field_validator("tenant")
    @classmethod
    def _is_tenant(cls, value: str) -> str:
        try:
            return check_name(value, "tenant")
        except InvalidInput as error:
            raise ValueError(str(error)) from error


class WidgetSettings(Section):
    sites: dict[str, SiteSettings] = {}
    """Sites whose pages may show the widget, by name."""
    token_requests_per_minute: float = pydantic.Field(default=60.0, gt=0)
    """Tokens that one address may ask for per minute; all requests may arrive at once. A visitor
    needs one every ten minutes. An IPv6 client is its /64 network."""

    @pydantic.field_validator("sites")
    @classmethod
    def _have_names(cls, value: dict[str, SiteSettings]) -> dict[str, SiteSettings]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
                raise ValueError(
                    f"the site {name[:60]!r} needs a name of 1 to 40 letters, digits, '_' or '-'"
                )
        return value


class PluginsSettings(Section):
    strict: bool = False
    """Refuse to start when a plugin fails to load, instead of starting without it."""
    disabled: tuple[str, ...] = ()
    """Plugins, by entry point, that are not loaded."""


DEFAULT_MODEL = "default"
"""Name of the model of ``engine.use``, beside those of ``engine.models``."""
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


class ModelSettings(Section):
    model_config = pydantic.ConfigDict(extra="allow")

    use: str
    """The engine that runs the model. Its other settings stand beside this one."""

    @property
    def own(self) -> Tree:
        """Return the settings of the engine, as given."""
        return dict(self.model_extra or {})

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [("use", self.use)]  # the others may hold a password


class EngineSettings(ChoiceSettings):
    use: str = "openvino"
    """The engine that generates text for all skills, unless ``skills.NAME.model`` names another
    model."""
    models: dict[str, ModelSettings] = {}
    """Further models by name, each with an engine and a queue of its own: ``use`` names the engine,
    whose other settings stand beside it. See docs/engines.md."""
    health_probe_interval: float = pydantic.Field(default=15.0, gt=0)
    """Seconds without output of the engine after which a health probe generates one token."""
    health_probe_timeout: float = pydantic.Field(default=30.0, gt=0)
    """Seconds after which an unfinished health probe means that the engine hangs."""
    restart_backoff: float = pydantic.Field(default=1.0, gt=0)
    """Seconds before the first restart of a failed engine; doubles each time, up to 10."""
    timeout: float = pydantic.Field(default=120.0, gt=0)
    """Seconds that one generation may take, its wait for the engine included."""
    restart_timeout: float = pydantic.Field(default=60.0, ge=0)
    """Seconds that a request waits while the engine restarts."""
    max_attempts: int = pydantic.Field(default=3, ge=1)
    """Attempts of one generation: it fails when the engine dies during each of them."""

    @pydantic.field_validator("models")
    @classmethod
    def _have_names(cls, value: dict[str, ModelSettings]) -> dict[str, ModelSettings]:
        for name in value:
            if not MODEL_NAME.fullmatch(name) or name in (DEFAULT_MODEL, "auto"):
                raise ValueError(
                    f"the model {name[:60]!r} needs a name of 1 to 40 letters, digits, '.', '_' or "
                    f"'-', other than 'auto' and {DEFAULT_MODEL!r}"
                )
        return value


NO_EMBEDDINGS = "none"
"""Value of ``embedding.use`` without an embedder."""


class EmbeddingSettings(ChoiceSettings):
    use: str = ""
    """What turns texts into vectors, for the routing and for the search by meaning: an embedder, or
    an engine with its settings in ``[engine.NAME]``. ``none``: nothing does. Empty: the engine that
    generates, where it embeds, else ``universal_sentence_encoder`` where that is installed."""


class LedgerSettings(ChoiceSettings):
    use: str = "sqlite"
    """The store of messages, turns and events."""
    history: int = pydantic.Field(default=40, ge=0)
    """Most history entries that a skill or a client gets at once."""
    history_bytes: int = pydantic.Field(default=262_144, ge=1_000)
    """Most bytes of history, as JSON, that a skill or a client gets at once. The newest entries are
    kept; one that is larger is cut. The default is about 64,000 tokens, more than most models
    read."""


class KnowledgeSettings(ChoiceSettings):
    use: str = "sqlite"
    """The store of documents for grounded answers."""
    read_timeout: float = pydantic.Field(default=30.0, gt=0)
    """Seconds for reading one file that is added."""
    read_memory_mib: int = pydantic.Field(default=1024, ge=64)
    """Memory of the process that reads one file, in MiB."""
    max_file_bytes: int = pydantic.Field(default=50_000_000, ge=1)
    """Largest file that may be added, in bytes."""
    max_text_characters: int = pydantic.Field(default=10_000_000, ge=1)
    """Longest text of a file that may be added, in characters."""
    tool_collections: tuple[str, ...] = ()
    """Collections that the tool ``search_knowledge`` searches. Empty: all."""


class ChannelsSettings(EnabledSettings):
    enabled: tuple[str, ...] = ()
    """Channels that run. A channel opens network routes, so none runs by default."""


class InterceptorsSettings(EnabledSettings):
    enabled: tuple[str, ...] = ()
    """Interceptors around every turn, the first outermost."""


class ToolSourcesSettings(EnabledSettings):
    enabled: tuple[str, ...] = ()
    """Sources of tools that run. A source runs or calls other programs, so none runs by
    default."""


FILE_STORES = ("s3", "gs", "az", "file", "memory")
"""Schemes of `FilesSettings.store`."""


class FilesSettings(Section):
    store: str = ""
    """Where the files that people upload are kept: ``s3://BUCKET/FOLDER``, ``gs://BUCKET/FOLDER``,
    ``az://ACCOUNT/CONTAINER/FOLDER``, ``file:///FOLDER`` or ``memory:///``. Empty: the folder
    ``files`` in ``server.data``. Replicas need the same one. Credentials come from the provider's
    own environment variables, such as ``AWS_ACCESS_KEY_ID``."""
    max_file_bytes: int = pydantic.Field(default=25_000_000, ge=1)
    """Largest file that a person may upload, in bytes."""
    per_message: int = pydantic.Field(default=10, ge=0)
    """Most files of one message."""
    person_count: int = pydantic.Field(default=500, ge=0)
    """Files that are kept for one person; above it uploads are refused. 0: nobody may upload."""
    person_bytes: int = pydantic.Field(default=500_000_000, ge=1)
    """Bytes of files that are kept for one person; above it uploads are refused."""
    tenant_bytes: int | None = pydantic.Field(default=None, ge=1)
    """Bytes of files that are kept for one tenant; above it uploads are refused. Each replica
    counts its own uploads at once, those of others once an hour."""
    uploads: int = pydantic.Field(default=16, ge=1)
    """Uploads at once in this process; more are refused. Each takes about 20 MB of memory."""
    expiry: float = pydantic.Field(default=86_400.0, gt=0)
    """Seconds after which a file that was not sent with a message is deleted."""

    @pydantic.field_validator("store")
    @classmethod
    def _is_store(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if value and (scheme not in FILE_STORES or not separator):
            raise ValueError(f"expected a URL of {', '.join(FILE_STORES)}, such as s3://bucket")
        if "@" in rest or "?" in rest:
            raise ValueError("credentials belong into the provider's environment variables")
        return value


class FetchSettings(Section):
    enabled: bool = False
    """Let tools fetch pages and files of the web, of public addresses only."""
    hosts: tuple[str, ...] = ()
    """The only hosts that are reached, such as ``docs.python.org``, or ``*.example.org`` for those
    below a domain. Empty: every host. Redirects to other hosts are refused."""
    only_written: bool = True
    """Fetch only addresses that people have written in the conversation. Otherwise the model makes
    up addresses, in which it can send what it knows to a server that a page has named."""
    allowed_networks: tuple[str, ...] = ()
    """Networks beside the public internet that are reached, such as ``10.20.0.0/16``."""
    timeout: float = pydantic.Field(default=20.0, gt=0)
    """Seconds for one page, its redirects included."""
    max_bytes: int = pydantic.Field(default=5_000_000, ge=1)
    """Largest page or file, in bytes."""

    @pydantic.field_validator("hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(parse_host_pattern, value))

    @pydantic.field_validator("allowed_networks")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            parse_network(network)
        return value


class ModelsSettings(Section):
    hub_token: Secret | None = None
    """Token for gated and private models of the Hugging Face hub, as a reference."""
    server_ports: tuple[Annotated[int, pydantic.Field(ge=1, le=65535)], ...] = ()
    """Ports of this machine on which ``palaver models setup`` and the page look for model servers.
    Empty: those that Ollama, LM Studio, llama.cpp, vLLM and others use."""


class JobsSettings(Section):
    max_running: int = pydantic.Field(default=1, ge=1)
    """Jobs that run at once."""
    background: bool = True
    """Jobs compute only when no other process wants to, so that the server keeps its response
    times. False: on a machine that serves nothing."""
    keep_days: float = pydantic.Field(default=0.0, ge=0)
    """Days after its end for which a job is kept, with what it has made; older ones are removed
    when another one is created. 0: for ever."""


class RoutingSettings(Section):
    default: str = "chat"
    """The skill that answers when no other fits."""
    threshold: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Least probability of a choice by meaning that is made without the engine."""
    margin: float = pydantic.Field(default=0.1, ge=0, le=1)
    """Least lead of a choice by meaning over the second skill, in probability."""
    consult_engine: bool = True
    """Let the engine choose the skill when the evidence is uncertain, if it has chosen right, much
    more often than by chance, for examples of the skills."""
    max_characters: int = pydantic.Field(default=100_000, ge=1)
    """Longest message that is compared with the patterns of the skills. A longer one goes to the
    skill that it names or whose examples are like its beginning and end; its arguments are those
    that a program gives."""


class DispatchSettings(Section):
    max_running: int = pydantic.Field(default=1024, ge=1)
    """Turns that this process runs at once, those that wait for the engine included. More turns
    wait in the ledger, where the fair queue of tenants does not apply."""
    lease: float = pydantic.Field(default=3.0, ge=0.5)
    """Seconds after which another process takes over a turn that its worker did not renew."""
    max_attempts: int = pydantic.Field(default=3, ge=1)
    """Attempts of one turn: when its worker dies during each of them, the turn fails and becomes a
    dead letter."""
    turn_timeout: float = pydantic.Field(default=600.0, gt=0)
    """Seconds that one turn may take."""
    approval_timeout: float = pydantic.Field(default=86_400.0, gt=0)
    """Seconds for which a person may approve the call of a tool; a later approval asks again."""
    max_reply_characters: int = pydantic.Field(default=400_000, ge=1_000)
    """Most characters of one reply. A skill that writes more fails."""
    max_journal_bytes: int = pydantic.Field(default=4_000_000, ge=10_000)
    """Most bytes of the results, as JSON, that the journal of one turn holds. A skill whose steps
    return more fails."""


class AgentSettings(Section):
    tools: tuple[str, ...] | None = None
    """Tools and skills that the skills ``chat`` and ``agent`` let the model call, by name. Not set:
    ``chat`` uses none, and ``agent`` the tools that only read, and the other skills. One of a tool
    source is left out while it cannot be called."""
    steps: int = pydantic.Field(default=16, ge=1)
    """Times that a model may call tools for one answer, several at once each time. At this limit
    and those of ``calls``, ``seconds``, ``tokens`` and ``repeated_calls`` the model is asked for a
    last answer without tools."""
    calls: int = pydantic.Field(default=48, ge=1)
    """Calls of tools for one answer."""
    calls_per_step: int = pydantic.Field(default=8, ge=1)
    """Calls that a model may make at once; it is told that the others were not made."""
    parallel_calls: int = pydantic.Field(default=4, ge=1)
    """Calls that run side by side, of tools that allow it."""
    seconds: float = pydantic.Field(default=300.0, gt=0)
    """Seconds that the steps of one answer may take; a tool that still runs is then cancelled. The
    last answer comes after it, within ``dispatch.turn_timeout``."""
    tokens: int = pydantic.Field(default=200_000, ge=1)
    """Tokens of prompts and replies for the steps of one answer."""
    result_bytes: int = pydantic.Field(default=16_384, ge=64)
    """Bytes of one result that the model gets; a longer one is cut, with a mark."""
    repeated_calls: int = pydantic.Field(default=3, ge=1)
    """Calls of the same tool with the same arguments for one answer."""
    depth: int = pydantic.Field(default=2, ge=0)
    """Depth to which skills that the model calls may let it call skills in turn. 0: none."""


class ConcurrencyPolicySettings(Section):
    default: ConcurrencyPolicy = "queue"
    """Policy for a message that arrives while a turn of its conversation runs. ``queue``: a later
    turn answers it. ``merge``: one turn answers messages that follow each other closely.
    ``interrupt``: the running turn is stopped, and the next turn answers both messages. ``steer``:
    the running skill may take it; otherwise a later turn answers it."""
    channels: dict[str, ConcurrencyPolicy] = {}
    """Policy by channel: ``web`` and those of ``channels.enabled``."""
    skills: dict[str, ConcurrencyPolicy] = {}
    """Policy by running skill. It overrides the skill's own policy and the channel's."""
    merge_window: float = pydantic.Field(default=1.0, gt=0)
    """With ``merge``: seconds without a further message after which the turn starts."""


class QuotaSettings(Section):
    turns: int | None = pydantic.Field(default=None, ge=1)
    """Most turns at once that are not settled."""
    messages_per_minute: float | None = pydantic.Field(default=None, gt=0)
    """Messages accepted per minute; all of them may arrive at once."""
    tokens_per_minute: float | None = pydantic.Field(default=None, gt=0)
    """Tokens per minute, prompts and replies; above it new messages are refused."""
    stored_bytes: int | None = pydantic.Field(default=None, ge=1)
    """Bytes of messages, as JSON, and of replies in all conversations that are stored; above it new
    messages are refused. A running turn always ends."""
    conversations: int | None = pydantic.Field(default=None, ge=1)
    """Conversations that are stored; above it messages that begin or join another are refused."""
    data_requests_per_minute: float | None = pydantic.Field(default=60.0, gt=0)
    """Exports and erasures per minute over HTTP; all of them may arrive at once."""


class PersonSettings(QuotaSettings):
    turns: int | None = pydantic.Field(default=100, ge=1)
    """Most turns at once that are not settled."""
    stored_bytes: int | None = pydantic.Field(default=100_000_000, ge=1)
    """Bytes of messages, as JSON, and of replies in all conversations that are stored; above it new
    messages are refused. A running turn always ends."""
    conversations: int | None = pydantic.Field(default=10_000, ge=1)
    """Conversations that are stored; above it messages that begin or join another are refused."""
    data_requests_per_minute: float | None = pydantic.Field(default=5.0, gt=0)
    """Exports and erasures per minute over HTTP; all of them may arrive at once."""


class TenantSettings(QuotaSettings):
    weight: float = pydantic.Field(default=1.0, gt=0)
    """Share of the engine relative to the other tenants' weights, while they all wait for it."""


class AdmissionSettings(Section):
    max_generations: int = pydantic.Field(default=0, ge=0)
    """Generations that the engine gets at once; others wait in the fair queue. 0: as many as the
    engine runs at once, or 64 when it does not report a number. A larger number moves the wait into
    the engine, where the fair queue does not apply."""
    batch_share: float = pydantic.Field(default=0.75, gt=0, le=1)
    """Share of ``max_generations`` that the lane ``batch`` may use. A running generation is not
    interrupted, so the rest stays free for other lanes."""
    reserved_share: float = pydantic.Field(default=0.0625, ge=0, lt=1)
    """Share of ``max_generations`` that stays free for tenants with few generations, once the
    server has seen more than one tenant. 0: no reserve."""
    lanes: dict[str, Lane] = {}
    """The lane of each channel: ``interactive``, ``channel`` or ``batch``. Of those not named,
    ``web`` is interactive and every other one is ``channel``."""
    queue_tokens: int = pydantic.Field(default=524_288, ge=1)
    """Tokens of unsettled messages above which new messages are refused. A message counts its own
    length and 512 for the reply."""
    tenant_share: float = pydantic.Field(default=0.5, gt=0, le=1)
    """Share of ``queue_tokens`` that a single tenant may use. With more tenants each gets less, so
    that there is always room for another tenant."""
    inbox_limit: int = pydantic.Field(default=16, ge=1)
    """Messages that may wait in one conversation. The ledger counts them for all servers."""
    inbox_bytes: int = pydantic.Field(default=4_000_000, ge=1_000)
    """Bytes, as JSON, that the messages without a reply in one conversation may take together. A
    message is always accepted when there are no others."""
    max_wait: float = pydantic.Field(default=30.0, gt=0)
    """Seconds of estimated wait for the engine above which a message is refused. Keep it below
    ``engine.timeout``, which includes the wait."""
    max_data_requests: int = pydantic.Field(default=4, ge=1)
    """Exports and erasures over HTTP that run at once in this process; more are refused."""
    person: PersonSettings = PersonSettings()
    """Quotas of each person."""
    tenant: TenantSettings = TenantSettings()
    """Quotas of each tenant."""
    tenants: dict[str, TenantSettings] = {}
    """Quotas of single tenants, by name."""


SKILL_MODEL = "model"
"""Key of every skill's table: the server reads it, not the skill."""


class Settings(Section):
    """Everything that can be set, by section."""

    server: ServerSettings = ServerSettings()
    """The process and its web interface."""
    connections: ConnectionSettings = ConnectionSettings()
    """Limits of connections and requests; see docs/security.md."""
    auth: AuthSettings = AuthSettings()
    """Keys for clients."""
    widget: WidgetSettings = WidgetSettings()
    """The widget in pages of other sites; see docs/security.md."""
    plugins: PluginsSettings = PluginsSettings()
    """The plugins to load."""
    engine: EngineSettings = EngineSettings()
    """The engine, which generates text for all skills."""
    embedding: EmbeddingSettings = EmbeddingSettings()
    """Vectors of texts; see docs/embeddings.md."""
    ledger: LedgerSettings = LedgerSettings()
    """The ledger, which stores all conversations."""
    knowledge: KnowledgeSettings = KnowledgeSettings()
    """The knowledge base, a store of documents for grounded answers."""
    files: FilesSettings = FilesSettings()
    """Files that people upload and send with their messages; see docs/security.md."""
    fetch: FetchSettings = FetchSettings()
    """Pages and files that tools fetch from the web; see docs/security.md."""
    models: ModelsSettings = ModelsSettings()
    """Downloads of models."""
    jobs: JobsSettings = JobsSettings()
    """Long work in processes of their own, such as preparing data."""
    routing: RoutingSettings = RoutingSettings()
    """The choice of a skill for each message."""
    dispatch: DispatchSettings = DispatchSettings()
    """The execution of turns."""
    agents: AgentSettings = AgentSettings()
    """Models that call tools."""
    concurrency_policy: ConcurrencyPolicySettings = ConcurrencyPolicySettings()
    """Policies for messages that arrive while a turn runs."""
    admission: AdmissionSettings = AdmissionSettings()
    """Admission control, quotas and the fair queue. The ledger counts unsettled turns, for all
    replicas together; each replica counts its own messages and tokens per minute."""
    channels: ChannelsSettings = ChannelsSettings()
    """Channels, which bring messages and deliver replies."""
    interceptors: InterceptorsSettings = InterceptorsSettings()
    """Interceptors, which run around every turn."""
    tool_sources: ToolSourcesSettings = ToolSourcesSettings()
    """Sources of tools that come and go while the server runs, such as those of MCP servers."""
    skills: dict[str, Tree] = pydantic.Field(default={}, repr=False)
    """Settings of skills, one table for each. Every table may have the key `model`: the model of
    `engine.models` that writes for the skill, `default` where it is absent."""

    _origins: dict[KeyPath, Origin] = pydantic.PrivateAttr(default_factory=dict)

    @pydantic.field_validator("skills")
    @classmethod
    def _name_models(cls, value: dict[str, Tree]) -> dict[str, Tree]:
        for name, table in value.items():
            if not isinstance(table.get(SKILL_MODEL, ""), str):
                raise ValueError(f"{name}.{SKILL_MODEL} must be the name of a model")
        return value

    @property
    def models_of_skills(self) -> dict[str, str]:
        """Return the model that each skill is bound to, for those that are."""
        return {
            name: table[SKILL_MODEL] for name, table in self.skills.items() if SKILL_MODEL in table
        }

    def tenants(self) -> frozenset[str]:
        """Return the tenants of all keys and sites."""
        of_keys = (key.tenant for key in self.auth.keys.values())
        return frozenset((*of_keys, *(site.tenant for site in self.widget.sites.values())))

    def origin(self, keys: KeyPath) -> Origin | None:
        """Return the origin of the value at ``keys``; see `find_origin`."""
        return find_origin(self._origins, keys)
