"""Settings of the MCP client."""

from pathlib import Path

import pydantic

from palaver import PluginSettings, Secret, check_url
from palaver_plugins.networks import Networks
from palaver_plugins.tools.pinned.names import check_names
from palaver_plugins.tools.pinned.source import Kind

NAME = "mcp"
RECORDS = "mcp-client"
"""The name under which the client keeps its records."""
KIND = Kind(name=NAME, records=RECORDS, noun="server", title="MCP server")
ALL = "*"


class OAuthSettings(PluginSettings):
    client_id: str
    """Id of this client at the authorization server."""
    client_secret: Secret | None = None
    """Its secret, as a reference. Without ``refresh_token``, it is what a token is given for."""
    refresh_token: Secret | None = None
    """A refresh token that an operator has got, as a reference. The newest one is kept in the
    ledger."""
    issuer: str
    """The authorization server's issuer URL: credentials are sent to that server only."""
    scope: str = ""
    """Scopes to ask for, with spaces between them. Empty: those that the server names."""

    @pydantic.field_validator("issuer")
    @classmethod
    def _is_issuer(cls, value: str) -> str:
        check_url(value, ("http", "https"), "such as https://auth.example.org")
        return value

    @pydantic.model_validator(mode="after")
    def _has_a_secret(self) -> "OAuthSettings":
        if self.client_secret is None and self.refresh_token is None:
            raise ValueError("set client_secret, refresh_token or both")
        return self


class McpServerSettings(PluginSettings):
    command: str = ""
    """The program to run, which speaks MCP on its standard input and output. Or set ``url``."""
    args: tuple[str, ...] = ()
    """Arguments of the program."""
    env: dict[str, str] = pydantic.Field(default_factory=dict)
    """Environment variables of the program. Of the server's own it gets only ``PATH``, ``HOME``,
    ``USER`` and those for language, time zone and temporary files."""
    secrets: dict[str, Secret] = pydantic.Field(default_factory=dict)
    """Environment variables of the program whose values are secrets, as references."""
    directory: Path | None = None
    """Working directory of the program. By default that of the server."""
    url: str = ""
    """Address of a server that speaks streamable HTTP, such as ``https://mcp.example.org/mcp``."""
    token: Secret | None = None
    """Bearer token for ``url``, as a reference."""
    oauth: OAuthSettings | None = None
    """OAuth for ``url``, in place of ``token``."""
    allowed_networks: Networks = ()
    """Networks beside the public internet in which ``url`` may be, such as ``127.0.0.0/8``; by http
    only these are reached."""
    tools: tuple[str, ...] = ()
    """The tools that are used, by the names that the server gives them. Empty: all."""
    read_only: tuple[str, ...] = ()
    """Tools that have no effect, in the operator's opinion; ``*`` stands for all."""
    idempotent: tuple[str, ...] = ()
    """Tools that may run twice, in the operator's opinion; ``*`` stands for all. After a lost
    connection only these are called again."""
    needs_approval: tuple[str, ...] = ()
    """Tools that ask the person before each call; ``*`` stands for all. One that the server itself
    calls destructive always asks."""
    trust_annotations: bool = False
    """Believe the server when it says that a tool is read-only or idempotent."""
    timeout: float = pydantic.Field(default=60.0, gt=0)
    """Seconds in which a call must end or report progress."""
    max_timeout: float = pydantic.Field(default=600.0, gt=0)
    """Seconds in which a call must end, whatever progress it reports."""
    connect_timeout: float = pydantic.Field(default=30.0, gt=0)
    """Seconds in which the server must start and list its tools."""
    refresh: float = pydantic.Field(default=300.0, gt=0)
    """Seconds between two lists of the tools. A server that says that its list has changed is asked
    at once."""
    max_tools: int = pydantic.Field(default=100, ge=1)
    """Most tools of the server; further ones are left out."""
    max_description_characters: int = pydantic.Field(default=2_000, ge=1)
    """Most characters of a tool's description, and of one of its arguments; longer ones are cut."""
    max_result_characters: int = pydantic.Field(default=50_000, ge=1)
    """Most characters of a result; longer ones are cut."""
    max_message_bytes: int = pydantic.Field(default=4_000_000, ge=1_000)
    """Most bytes of a message of the server, and most bytes that are read of it in a second."""

    @pydantic.field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value:
            check_url(value, ("http", "https"), "such as https://mcp.example.org/mcp")
        return value

    @pydantic.model_validator(mode="after")
    def _is_one_of_both(self) -> "McpServerSettings":
        if bool(self.command) == bool(self.url):
            raise ValueError("set either command or url")
        of_url = (self.token, self.oauth, self.allowed_networks)
        if self.command and any(of_url):
            raise ValueError("token, oauth and allowed_networks are for url")
        if self.url and (self.args or self.env or self.secrets or self.directory):
            raise ValueError("args, env, secrets and directory are for command")
        if self.token and self.oauth:
            raise ValueError("set either token or oauth")
        return self


class McpSettings(PluginSettings):
    servers: dict[str, McpServerSettings] = pydantic.Field(default_factory=dict)
    """MCP servers by name. Their tools are called ``NAME__TOOL``."""

    @pydantic.field_validator("servers")
    @classmethod
    def _have_names(cls, value: dict[str, McpServerSettings]) -> dict[str, McpServerSettings]:
        check_names(value, KIND.noun)
        return value


def names(tools: tuple[str, ...], tool: str) -> bool:
    """Return whether a setting that lists tools names one."""
    return ALL in tools or tool in tools
