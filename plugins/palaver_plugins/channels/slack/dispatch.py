"""Dispatch: Bolt's app, as requests of Slack reach it over HTTP and Socket Mode."""

import contextlib
import logging
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from slack_bolt.app.async_app import AsyncApp
from slack_bolt.authorization import AuthorizeResult
from slack_bolt.authorization.async_authorize import AsyncAuthorize
from slack_bolt.context.async_context import AsyncBoltContext
from slack_bolt.request.async_request import AsyncBoltRequest
from slack_bolt.response import BoltResponse
from slack_sdk.web.async_client import AsyncWebClient

from palaver import InvalidInput, PalaverError, describe_error
from palaver.platforms import KeyedLocks, PostingError, RateLimited, Refused
from palaver_plugins.channels.slack.events import Json
from palaver_plugins.channels.slack.installations import BotInstallations, installation_of

RETRY_SECONDS = 2.0
"""Seconds after which Slack may deliver again; it has its own times."""
LAST_RETRY = 3
"""Number of Slack's last retry of a delivery."""

log = logging.getLogger(__name__)
_bolt_log = logging.getLogger(f"{__name__}.bolt")
_bolt_log.setLevel(logging.ERROR)  # below it Bolt's lines quote what people write


class SlackApp(AsyncApp):
    """Bolt's app. It acknowledges when its listeners are done, keeps the order of each thread,
    asks for another delivery while the server refuses, and acknowledges what no listener takes:
    Slack would deliver it again."""

    def __init__(self, client: AsyncWebClient, installations: BotInstallations) -> None:
        super().__init__(
            name=_bolt_log.name,  # Bolt sets the level of the logger with this name
            logger=_bolt_log,
            client=client,
            authorize=_Authorize(installations),  # type: ignore[arg-type]  # it is called as one
            signing_secret="",
            request_verification_enabled=False,  # `EventsRoute` has done it
            ssl_check_enabled=False,
            process_before_response=True,
        )
        self.error(_on_error)
        self._locks = KeyedLocks()

    async def async_dispatch(self, req: AsyncBoltRequest) -> BoltResponse:
        async with self._in_order(req.body):
            response = await super().async_dispatch(req)
        if response.status == 404:
            _ignore(req.body)
            return BoltResponse(status=200, body="")
        if "event" in req.body:  # Slack takes no content as the answer to an event
            response.body = ""
        return response

    def _in_order(self, body: Json) -> AbstractAsyncContextManager[None]:
        """Wait for the requests of the same thread that came before."""
        thread = _thread_of(body)
        return self._locks.hold(thread) if thread else contextlib.nullcontext()


def _thread_of(body: Json) -> str:
    """Return the channel and the thread of a message in an event, empty for everything else."""
    event = body.get("event")
    if not isinstance(event, Mapping) or event.get("type") not in ("message", "app_mention"):
        return ""
    channel = str(event.get("channel"))
    if channel.startswith("D"):  # its threads may be one conversation
        return channel
    message = event.get("message") or event.get("previous_message") or event
    return f"{channel}.{message.get('thread_ts') or message.get('ts')}"


def _ignore(body: Json) -> None:
    """Note a request that no listener takes."""
    event = body.get("event")
    kind = (event if isinstance(event, Mapping) else body).get("type")
    if kind == "app_rate_limited":
        log.warning("Slack drops events of %s: there are too many", body.get("team_id"))
    else:
        log.info("a request of Slack of the type %r is ignored", kind)


class _Authorize(AsyncAuthorize):
    """Finds the bot that a request is for. Without one, Bolt acknowledges the request."""

    def __init__(self, installations: BotInstallations) -> None:
        self._installations = installations

    async def __call__(
        self,
        *,
        context: AsyncBoltContext,
        enterprise_id: str | None,
        team_id: str | None,
        user_id: str | None,
        **actor: str | None,
    ) -> AuthorizeResult | None:
        try:
            bot = await self._installations.bot(installation_of(context))
        except Refused as error:
            log.error("a request of Slack is not answered: %s", error)
            return None
        if bot is None:
            return None
        context["bot"] = bot
        return AuthorizeResult(
            enterprise_id=enterprise_id,
            team_id=team_id,
            bot_user_id=bot.user,
            bot_id=bot.id,
            bot_token=bot.token,
        )


async def _on_error(error: Exception) -> BoltResponse:
    """Return the response after an error of a listener or of the authorization."""
    if isinstance(error, InvalidInput):
        log.warning("%s", describe_error(error))
        return BoltResponse(status=200, body="")  # it would be the same the next time
    if isinstance(error, PalaverError) and error.status in (429, 503):
        log.info("Slack has to deliver again: %s", describe_error(error))
        return BoltResponse(status=503, body="", headers=dict(error.retry_headers))
    if isinstance(error, PostingError):
        seconds = error.retry_after if isinstance(error, RateLimited) else RETRY_SECONDS
        return BoltResponse(status=503, body="", headers={"Retry-After": f"{seconds:.0f}"})
    log.error("a request of Slack failed: %s", describe_error(error))
    return BoltResponse(status=500, body="")


def is_last_delivery(request: AsyncBoltRequest) -> bool:
    """Return whether Slack delivers the request no more after this."""
    number = request.headers.get("x-slack-retry-num", ["0"])[0]
    return number.isascii() and number.isdigit() and int(number[:9]) >= LAST_RETRY
