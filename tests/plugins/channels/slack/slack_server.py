"""A server with the Slack channel, which a fake Slack calls."""

import asyncio
import contextlib
import hashlib
import hmac
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
from tests.plugins.channels.paying import Pays
from tests.server.platforms.board import Board

from palaver.config.settings import RoutingSettings, Secret, ServerSettings, Settings
from palaver.errors import LedgerUnavailable
from palaver.files.store import FileStore
from palaver.ledger import QUEUE_ALL, ConcurrencyPolicies, Ledger, Receipt
from palaver.messages import Conversation, HistoryEntry, Message
from palaver.platforms import ConnectionTimes, Times
from palaver.server import Server
from palaver.testing import ListKnowledge, ScriptedEngine
from palaver.testing.channels import Obeys
from palaver.testing.fakes.slack import FakeSlack
from palaver.testing.ledger import MemoryLedger
from palaver.web.listener import listening
from palaver_plugins.channels.slack.channel import SlackChannel
from palaver_plugins.channels.slack.manifest import EVENTS_PATH
from palaver_plugins.channels.slack.settings import SlackSettings


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds. Raises `TimeoutError` after 10 seconds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  it depends on parts that set no event
            await asyncio.sleep(0.005)


FORM = "application/x-www-form-urlencoded"


def secret(name: str, value: str) -> Secret:
    """Return a secret in the environment of this process."""
    os.environ[f"TEST_OF_SLACK_{name}"] = value
    return Secret(f"env:TEST_OF_SLACK_{name}")


def slack_settings(slack: FakeSlack, **changes: Any) -> SlackSettings:  # Any: values of settings
    """Return settings with which everybody may write."""
    given: dict[str, Any] = {
        "token": secret("TOKEN", slack.bot_token),
        "signing_secret": secret("SIGNING", slack.signing_secret),
        "app_token": secret("APP", slack.app_token),
        "api_url": slack.api_url,
        "direct_messages": "open",
    }
    return SlackSettings(**given | changes)


class UnreliableLedger(MemoryLedger):
    """A ledger that does not accept the next messages, nor changes of them."""

    failures = 0

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        if self.failures:
            self.failures -= 1
            raise LedgerUnavailable("the store is away", retry_after=7.0)
        return await super().accept(message, policies)

    async def change_waiting(
        self,
        conversation: Conversation,
        message: str,
        text: str | None,
        policies: ConcurrencyPolicies = QUEUE_ALL,
    ) -> bool:
        if self.failures:
            self.failures -= 1
            raise LedgerUnavailable("the store is away", retry_after=7.0)
        return await super().change_waiting(conversation, message, text, policies)


class QuickChannel(SlackChannel):
    """A channel that begins a turn at once, although an earlier message may still arrive."""

    start_delay = 0.0


class SlackServer:
    """One server. What the bot posts is on ``board``: these tests are about what it receives."""

    def __init__(
        self, slack: FakeSlack, server: Server, channel: SlackChannel, board: Board, skill: Obeys
    ) -> None:
        self.slack = slack
        self.server = server
        self.channel = channel
        self.board = board
        self.skill = skill
        self.url = ""

    @property
    def events_url(self) -> str:
        return f"{self.url}{EVENTS_PATH}"

    async def send_event(self, event: dict[str, Any]) -> int:  # Any: JSON values
        """Send an event of a test's own making, signed; return the status of the answer."""
        authorization = {"team_id": self.slack.team, "user_id": self.slack.bot_user, "is_bot": True}
        payload = {
            "type": "event_callback",
            "team_id": self.slack.team,
            "api_app_id": self.slack.app.id,
            "authorizations": [authorization],
            "event": event,
        }
        return await self.slack.send_forged(self.events_url, payload)

    def conversation(self, place: str, root: str = "", tenant: str = "default") -> Conversation:
        thread = ".".join(filter(None, (self.slack.team, place, root)))
        return Conversation(tenant, "slack", thread)

    async def said(self, conversation: Conversation) -> list[HistoryEntry | Message]:
        """Return what people have written in a conversation, also what is not answered yet."""
        snapshot = await self.server.snapshot(conversation)
        settled = [entry for entry in snapshot.history if entry.role == "user"]
        return [*settled, *(message for turn in snapshot.pending for message in turn.messages)]

    async def until_answered(self, conversation: Conversation, count: int = 1) -> list[str]:
        """Wait until that many replies are posted, and return all that are."""
        await until(lambda: len(self.board.shown(conversation)) >= count)
        return self.board.shown(conversation)


def signature(secret: str, timestamp: str, body: bytes) -> str:
    signed = b"v0:" + timestamp.encode() + b":" + body
    return "v0=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


async def send(
    bot: SlackServer, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, str, dict[str, str]]:
    """Send a request, signed unless ``headers`` say otherwise. Return status, body, headers."""
    timestamp = str(int(time.time()))
    given = {
        "Content-Type": "application/json",
        "X-Slack-Request-Timestamp": timestamp,
        "X-Slack-Signature": signature(bot.slack.signing_secret, timestamp, body),
    }
    given |= headers or {}
    async with (
        aiohttp.ClientSession() as session,
        session.post(bot.events_url, data=body, headers=given) as response,
    ):
        return response.status, await response.text(), dict(response.headers)


@contextlib.asynccontextmanager
async def serving(
    slack: FakeSlack,
    *,
    ledger: Ledger | None = None,
    files: FileStore | None = None,
    skill: Obeys | None = None,
    ping_seconds: float = 5.0,
    **changes: Any,  # Any: values of settings
) -> AsyncIterator[SlackServer]:
    """Run a server whose Slack channel has `slack_settings` with ``changes``."""
    board, skill = Board(), skill or Obeys()
    channel = QuickChannel(slack_settings(slack, **changes), lambda installations: board)
    channel.times = Times(poll=0.02)
    channel.connection_times = ConnectionTimes(pauses=(1.0,), stable=0.5)
    channel.ping_seconds = ping_seconds
    server = Server(
        Settings(
            server=ServerSettings(port=0, drain=0.0, grace=3.0),
            routing=RoutingSettings(default="obeys", threshold=1.0, consult_engine=False),
        ),
        ledger=ledger or MemoryLedger(),
        engine=ScriptedEngine(),
        knowledge=ListKnowledge(),
        skills={"obeys": skill},
        tools=skill.tools if isinstance(skill, Pays) else {},
        channels={"slack": channel},
        files=files,
    )
    async with server, listening(server) as address:
        bot = SlackServer(slack, server, channel, board, skill)
        bot.url = address.rstrip("/")
        slack.request_urls.append(bot.events_url)
        try:
            yield bot
        finally:
            slack.request_urls.remove(bot.events_url)
