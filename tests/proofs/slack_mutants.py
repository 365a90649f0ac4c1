"""Mutants: the Slack channel with one safeguard removed."""

import asyncio
import itertools

from aiohttp import web
from slack_sdk.http_retry.builtin_async_handlers import async_default_handlers
from slack_sdk.web.async_client import AsyncWebClient
from tests.proofs.slack_replicas import ProofChannel, ProofPlatform

from palaver import Receipt, described, public
from palaver.platforms import IncomingMessage, OutgoingPost
from palaver.testing.fakes.slack import FakeSlack
from palaver_plugins.channels.slack.connection import Connection
from palaver_plugins.channels.slack.operations import EVENTS
from palaver_plugins.channels.slack.settings import SlackSettings


class AcknowledgesFirst(ProofChannel):
    """Mutant that acknowledges a message, and stores it when it has the time."""

    async def receive(self, message: IncomingMessage) -> Receipt | None:
        storing = asyncio.create_task(self._store_later(message))
        storing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return None

    async def _store_later(self, message: IncomingMessage) -> None:
        await asyncio.sleep(0.1)
        await super().receive(message)


class DropsRetries(ProofChannel):
    """Mutant that takes what Slack delivers again for something that it has."""

    @public
    @described(EVENTS)
    async def _receive_request(self, request: web.Request) -> web.StreamResponse:
        if "X-Slack-Retry-Num" in request.headers:
            return web.Response()
        return await super()._receive_request(request)


class AnswersRepetitions(ProofChannel):
    """Mutant that tells messages apart by the delivery, as by the id of an event: a mention has
    two events."""

    _deliveries = itertools.count(1_000_000)

    async def receive(self, message: IncomingMessage) -> Receipt | None:
        self._received.clear()
        return await super().receive(
            IncomingMessage(
                source=message.source,
                id=f"{message.id}.{next(self._deliveries)}",
                text=message.text,
                order=message.order,
            )
        )


class BlindPlatform(ProofPlatform):
    """Mutant that never finds what it has posted."""

    async def find(self, post: OutgoingPost) -> str:
        return ""


class PostsBlindly(ProofChannel):
    platform_class = BlindPlatform


class ForgetfulPlatform(ProofPlatform):
    """Mutant that drops every edit that Slack does not take at once."""

    async def edit(self, post: OutgoingPost) -> None:
        try:
            await super().edit(post)
        except Exception:  # noqa: BLE001  that is its mistake
            pass


class DropsEdits(ProofChannel):
    platform_class = ForgetfulPlatform


class LeavingPlatform(ProofPlatform):
    """Mutant that leaves a stream as it is when its server has died."""

    async def delete(self, post: OutgoingPost) -> None:
        pass


class LeavesStreams(ProofChannel):
    platform_class = LeavingPlatform


class _RepeatingConnection(Connection):
    def client(self, token: str | None = None) -> AsyncWebClient:
        client = super().client(token)
        client.retry_handlers = async_default_handlers()
        return client


class RepeatsCalls(ProofChannel):
    """Mutant with the library's own handler, which repeats a call whose answer is lost."""

    def __init__(self, settings: SlackSettings, slack: FakeSlack) -> None:
        super().__init__(settings, slack)
        self._slack.__class__ = _RepeatingConnection
