"""HTTP: the route that Slack calls with events, commands and pressed buttons."""

import logging
import re
from collections.abc import Callable, Sequence
from urllib.parse import parse_qs

from aiohttp import web
from slack_bolt.adapter.aiohttp import to_aiohttp_response
from slack_bolt.request.async_request import AsyncBoltRequest
from slack_sdk.signature import Clock, SignatureVerifier

from palaver import InvalidInput, Unauthenticated
from palaver_plugins.channels.slack.dispatch import SlackApp

log = logging.getLogger(__name__)

_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_PASSED_HEADERS = ("Content-Type", "X-Slack-Retry-Num", "X-Slack-Retry-Reason")
"""Headers that Bolt needs. It believes others that anybody can send."""
WRONG_SIGNATURE = (
    "a request that names a signature of Slack does not have the right one: compare "
    "channels.slack.signing_secret with Basic Information of the app, and this computer's clock "
    "with the time"
)
MAX_PROBE_BYTES = 2_000
"""Largest request by which Slack looks whether there is a certificate."""


class SlackClock(Clock):
    """A clock for the library: seconds since the epoch."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def now(self) -> float:
        return self._now()


class SlackRequests:
    """Checks that requests are from Slack before anything of them is read.

    ``report`` is called with a sentence when the first signature is wrong, and with nothing when
    one is right. Nothing else tells of a wrong secret: Slack cannot be asked about it.
    """

    def __init__(
        self,
        app: SlackApp,
        signing_secret: str,
        clock: Callable[[], float],
        report: Callable[[str], None],
    ) -> None:
        self._report = report
        self._has_right, self._has_wrong = False, False
        self._app = app
        self._verifier = SignatureVerifier(signing_secret, SlackClock(clock))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request. Raises `Unauthenticated` when it is not from Slack."""
        content = await request.read()
        text = self._verified(request, content)
        if text is None:
            if _is_probe(content):
                return web.Response()
            self._doubt(request)
            raise Unauthenticated("the request is not signed by Slack, or too old")
        if not self._has_right:
            self._has_right = True
            self._report("")
        response = await self._app.async_dispatch(_bolt_request(request, text))
        return await to_aiohttp_response(response)

    def _doubt(self, request: web.Request) -> None:
        if not (self._has_right or self._has_wrong) and "X-Slack-Signature" in request.headers:
            self._has_wrong = True
            self._report(WRONG_SIGNATURE)
            log.warning("%s", WRONG_SIGNATURE)

    def _verified(self, request: web.Request, content: bytes) -> str | None:
        """Return the body of a request with a valid signature."""
        timestamp = request.headers.get("X-Slack-Request-Timestamp", "")
        signature = request.headers.get("X-Slack-Signature", "")
        if not _TIMESTAMP.fullmatch(timestamp) or not signature.isascii():
            return None  # the library raises at these
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return None
        return text if self._verifier.is_valid(text, timestamp, signature) else None


def _is_probe(content: bytes) -> bool:
    """Return whether Slack only looks whether there is a certificate; it signs nothing then."""
    if len(content) > MAX_PROBE_BYTES:
        return False
    return parse_qs(content.decode(errors="replace")).get("ssl_check") == ["1"]


def _bolt_request(request: web.Request, text: str) -> AsyncBoltRequest:
    headers: dict[str, str | Sequence[str]] = {
        name: request.headers[name] for name in _PASSED_HEADERS if name in request.headers
    }
    try:
        return AsyncBoltRequest(body=text, query=request.query_string, headers=headers)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InvalidInput("the body of the request is not of Slack's form") from error
