"""API: calls of Slack's Web API, with errors that `Poster` understands."""

import contextlib
from collections.abc import Awaitable, Iterator, Mapping
from typing import Any, Protocol

import aiohttp
from slack_sdk.errors import SlackApiError, SlackTokenRotationError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from palaver.platforms import MessageGone, PostingError, RateLimited, Refused, Unreachable

GONE = frozenset(
    ("message_not_found", "cant_update_message", "cant_delete_message", "edit_window_closed")
)
PASSING = frozenset(
    ("fatal_error", "internal_error", "request_timeout", "service_unavailable", "team_added_to_org")
)
"""Errors after which the same call may succeed. Those that are not listed are final."""
DEFAULT_RETRY_AFTER = 30.0
"""Seconds to wait where Slack does not say how long."""


class RefusedCall(Refused):
    """A call that Slack refuses for good. ``code`` is Slack's name of the error, ``details`` its
    whole answer."""

    def __init__(self, code: str, details: Mapping[str, Any]) -> None:  # Any: JSON values
        super().__init__(f"Slack answers {code!r}")
        self.code = code
        self.details = details


class Installations(Protocol):
    """The workspaces that have installed the app."""

    async def client(self, team: str) -> AsyncWebClient:
        """Return a client with the bot's token of a workspace, made with ``retry_handlers=[]``: the
        library would post twice. Raises `Refused` when the app is not installed there."""


async def call(answer: Awaitable[AsyncSlackResponse]) -> AsyncSlackResponse:
    """Return the answer to a call. Raises `PostingError`."""
    with translated():
        return await answer


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise `PostingError` for what the library raises when a call fails."""
    try:
        yield
    except SlackApiError as error:
        raise _translate(error) from error
    except SlackTokenRotationError as error:
        raise _translate(error.api_error) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unreachable(f"Slack gives no answer: {type(error).__name__}") from error


def _translate(error: SlackApiError) -> PostingError:
    response = error.response
    if not isinstance(response, AsyncSlackResponse) or not isinstance(response.data, dict):
        return Unreachable("Slack's answer is no JSON")
    code = str(response.data.get("error", ""))
    if response.status_code == 429 or code in ("ratelimited", "rate_limited"):
        return RateLimited(_retry_after(response.headers))
    if response.status_code >= 500 or code in PASSING or not code:
        return Unreachable(f"Slack answers {code or response.status_code!r}")
    if code in GONE:
        return MessageGone(f"Slack answers {code!r}")
    return RefusedCall(code, response.data)


def _retry_after(headers: Mapping[str, str]) -> float:
    value = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    return float(value) if value.isascii() and value.isdigit() else DEFAULT_RETRY_AFTER
