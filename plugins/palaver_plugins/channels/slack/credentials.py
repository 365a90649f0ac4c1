"""Credentials: the secrets of the Slack app, with a sentence for each that is missing or wrong."""

import dataclasses
from collections.abc import Iterator

from palaver import ConfigurationError, Secret
from palaver_plugins.channels.slack.settings import SlackSettings

_SECTION = "channels.slack"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The revealed secrets; empty where the settings have none."""

    token: str = dataclasses.field(default="", repr=False)
    signing_secret: str = dataclasses.field(default="", repr=False)
    app_token: str = dataclasses.field(default="", repr=False)
    client_secret: str = dataclasses.field(default="", repr=False)


def read_credentials(settings: SlackSettings) -> Credentials:
    """Return the secrets; reads files. Raises `ConfigurationError` with what is missing or wrong,
    a sentence a line."""
    found: dict[str, str] = {}
    problems = list(_missing(settings))
    for field in dataclasses.fields(Credentials):
        secret: Secret | None = getattr(settings, field.name)
        if secret is not None:
            try:
                found[field.name] = secret.reveal()
            except ConfigurationError as error:
                problems.append(f"{_SECTION}.{field.name}: {error}")
    problems += _wrong(Credentials(**found))
    if problems:
        raise ConfigurationError("\n".join(problems))
    return Credentials(**found)


def _missing(settings: SlackSettings) -> Iterator[str]:
    if settings.token is None and not settings.client_id:
        yield (
            f"{_SECTION}.token is missing: refer to the token of the bot (xoxb-…), which Slack "
            "shows under OAuth & Permissions when the app is installed; or set client_id for "
            "several workspaces"
        )
    if settings.token is not None and settings.client_id:
        yield (
            f"{_SECTION} has a token and a client_id: keep token for one workspace, or client_id "
            "for several"
        )
    if settings.client_id and settings.client_secret is None:
        yield f"{_SECTION}.client_secret is missing: Slack shows it under Basic Information"
    if settings.mode == "http" and settings.signing_secret is None:
        yield (
            f"{_SECTION}.signing_secret is missing: without it nobody knows whether a request is "
            "from Slack, which shows it under Basic Information"
        )
    if settings.mode == "socket" and settings.app_token is None:
        yield (
            f"{_SECTION}.app_token is missing: make an app-level token (xapp-…) with the scope "
            "connections:write under Basic Information"
        )


def _wrong(credentials: Credentials) -> Iterator[str]:
    if credentials.token and not credentials.token.startswith(("xoxb-", "xoxe.xoxb-")):
        yield (
            f"{_SECTION}.token is not the token of a bot: it does not begin with xoxb-; copy the "
            "Bot User OAuth Token from OAuth & Permissions"
        )
    if credentials.app_token and not credentials.app_token.startswith("xapp-"):
        yield (
            f"{_SECTION}.app_token is not an app-level token: it does not begin with xapp-; make "
            "one under Basic Information"
        )
