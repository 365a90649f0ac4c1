"""Checks: what Slack says about the tokens of the settings."""

from collections.abc import Iterable

from palaver import ConfigurationError
from palaver.platforms import PostingError
from palaver_plugins.channels.slack.api import RefusedCall, call
from palaver_plugins.channels.slack.connection import Connection
from palaver_plugins.channels.slack.credentials import Credentials
from palaver_plugins.channels.slack.installations import granted_scopes
from palaver_plugins.channels.slack.manifest import BOT_SCOPES
from palaver_plugins.channels.slack.settings import SlackSettings
from palaver_plugins.channels.slack.socket_mode import open_socket

KNOWN_CLIENT = frozenset({"invalid_code", "code_already_used"})
"""Errors of Slack that show that it knows the client and its secret."""


async def find_problems(
    settings: SlackSettings, credentials: Credentials, connection: Connection
) -> list[str]:
    """Return a sentence for each thing that keeps the app from working. Asks Slack."""
    problems = []
    if settings.public_url and not settings.public_url.startswith("https://"):
        problems.append("channels.slack.public_url does not begin with https://, as Slack requires")
    try:
        if credentials.token:
            problems += await _token_problems(credentials.token, connection)
        if settings.client_id:
            problems += await _client_problems(settings, credentials, connection)
        if settings.mode == "socket":
            await open_socket(connection, credentials.app_token)
    except ConfigurationError as error:
        problems.append(str(error))
    except PostingError as error:
        problems.append(f"Slack cannot be asked at {connection.api_url}: {error}")
    return problems


async def _token_problems(token: str, connection: Connection) -> list[str]:
    try:
        answer = await call(connection.client(token).auth_test())
    except RefusedCall as error:
        return [refused_token(error)]
    return [problem] if (problem := missing_scopes(granted_scopes(answer.headers))) else []


async def _client_problems(
    settings: SlackSettings, credentials: Credentials, connection: Connection
) -> list[str]:
    """Exchange a code that cannot exist: Slack looks at the client first."""
    exchange = connection.client().oauth_v2_access(
        client_id=settings.client_id, client_secret=credentials.client_secret, code="check"
    )
    try:
        await call(exchange)
    except RefusedCall as error:
        if error.code not in KNOWN_CLIENT:
            return [refused_client(error)]
    return []


def refused_token(error: RefusedCall) -> str:
    return (
        f"Slack refuses channels.slack.token: {error.code}; install the app in the workspace and "
        "copy the Bot User OAuth Token (xoxb-…) from OAuth & Permissions"
    )


def refused_client(error: RefusedCall) -> str:
    return (
        f"Slack refuses channels.slack.client_id or client_secret: {error.code}; copy both from "
        "Basic Information"
    )


def missing_scopes(granted: Iterable[str]) -> str:
    """Return a sentence about scopes that the token lacks, empty when it has all of them."""
    missing = [scope for scope in BOT_SCOPES if scope not in frozenset(granted)]
    if not granted or not missing:
        return ""
    return (
        f"the token of channels.slack lacks the scopes {', '.join(missing)}; add them under OAuth "
        "& Permissions, or paste the manifest of `palaver channels slack manifest`, and install "
        "the app again"
    )
