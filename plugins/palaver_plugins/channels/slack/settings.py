"""Settings of the Slack channel."""

import re
from typing import Literal

import pydantic

from palaver import InvalidInput, Secret, check_name, check_url
from palaver.platforms import ChannelSettings

NAME = "slack"
_COMMAND = re.compile(r"/[a-z0-9_-]{1,31}")
_TEAM = re.compile(r"[TE][A-Z0-9]{1,30}")


class SlackSettings(ChannelSettings):
    mode: Literal["http", "socket"] = "http"
    """How Slack delivers: ``http`` (Slack calls ``/slack/events`` of this server, which it must
    reach by https) or ``socket`` (this server connects to Slack and needs no public address)."""
    token: Secret | None = None
    """Token of the bot, which begins with ``xoxb-``, as a reference. For several workspaces leave
    it out and set ``client_id`` instead."""
    signing_secret: Secret | None = None
    """Signing secret of the app, as a reference; needed with ``mode = "http"``."""
    app_token: Secret | None = None
    """App-level token, which begins with ``xapp-``, as a reference; needed with
    ``mode = "socket"``."""
    tenant: str = "default"
    """The tenant of the people who write to the bot with ``token``."""
    client_id: str = ""
    """Client id of the app, for several workspaces: whoever opens ``/slack/install`` of this server
    can add the app to their workspace."""
    client_secret: Secret | None = None
    """Client secret of the app, as a reference; needed with ``client_id``."""
    tenants: dict[str, str] = pydantic.Field(default_factory=dict)
    """Tenants of workspaces or organizations by their id, such as ``T0123456789 = "acme"``; with
    ``client_id``. One that is not named is a tenant by its id."""
    public_url: str = ""
    """Address of this server as Slack reaches it, such as ``https://bot.example.org``."""
    command: str = "/palaver"
    """The slash command."""
    agent: bool = True
    """Whether the app is an agent in Slack (``agent_view``), as its manifest says: then each direct
    message that is no reply begins a conversation of its own."""
    display_name: str = pydantic.Field(default="Palaver", min_length=1, max_length=35)
    """Name of the app and of its bot in the manifest."""
    api_url: str = "https://slack.com/api/"
    """Address of Slack's Web API. GovSlack has another one."""

    @pydantic.field_validator("command")
    @classmethod
    def _is_command(cls, value: str) -> str:
        if not _COMMAND.fullmatch(value):
            raise ValueError("a command is / and 1 to 31 small letters, digits, _ or -")
        return value

    @pydantic.field_validator("tenant")
    @classmethod
    def _is_tenant(cls, value: str) -> str:
        return _check_tenant(value)

    @pydantic.field_validator("tenants")
    @classmethod
    def _are_tenants(cls, value: dict[str, str]) -> dict[str, str]:
        for team, tenant in value.items():
            if not _TEAM.fullmatch(team):
                raise ValueError(f"{team!r} is no id of a workspace (T…) or an organization (E…)")
            _check_tenant(tenant)
        return value

    @pydantic.field_validator("api_url")
    @classmethod
    def _is_api_url(cls, value: str) -> str:
        check_url(value, ("http", "https"), "such as https://slack.com/api/")
        return f"{value.removesuffix('/')}/"

    @pydantic.field_validator("public_url")
    @classmethod
    def _is_public_url(cls, value: str) -> str:
        if value:
            check_url(value, ("http", "https"), "such as https://bot.example.org")
        return value.removesuffix("/")


def _check_tenant(value: str) -> str:
    try:
        return check_name(value, "tenant")
    except InvalidInput as error:
        raise ValueError(str(error)) from error
