"""Both sides of an endpoint, with the unmodified library of Standard Webhooks."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from standardwebhooks import Webhook
from tests.server.web.live_server import LiveServer, open_live_server

from palaver import Conversation, Ledger, Record, Secret, Skill, Turn, new_id, outbox_key
from palaver.platforms import Times
from palaver.testing import MemoryLedger
from palaver_plugins.channels.webhooks.channel import WebhookChannel
from palaver_plugins.channels.webhooks.deliveries import RETRY_SECONDS
from palaver_plugins.channels.webhooks.settings import EndpointSettings, Settings

CHANNEL = "webhooks"
SLACK_SECONDS = 10.0
"""Seconds that an attempt may take in a test: a pause counts from its end."""
TIMES = Times(poll=0.01, retries=RETRY_SECONDS)
LOOPBACK = ("127.0.0.1/32",)
Json = dict[str, Any]  # JSON values


def secret_of(name: str) -> str:
    """Return the secret of an endpoint in these tests."""
    return "whsec_" + base64.b64encode(name.encode().ljust(32, b".")).decode()


class Clock:
    """Clock of the ledger, which a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Receiver:
    """The other side: takes events at ``url`` and verifies each, as a receiver should.

    ``answers`` are the next responses, of any status; without one, events are taken.
    """

    def __init__(self, *secrets: str) -> None:
        self.url = ""
        self.secrets = secrets
        self.events: list[Json] = []
        """Every attempt, in order: the event, with its headers as ``webhook``."""
        self.answers: list[web.Response] = []
        self.arrived = asyncio.Condition()
        self.hold: Callable[[], Awaitable[None]] | None = None

    @property
    def ids(self) -> list[str]:
        return [event["webhook"]["webhook-id"] for event in self.events]

    async def wait_for(self, count: int) -> list[Json]:
        """Wait until there were so many attempts, and return them."""
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(lambda: len(self.events) >= count)
        return self.events

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body, headers = await request.read(), dict(request.headers)
        for secret in self.secrets:
            event = Webhook(secret).verify(body, headers)
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        event["webhook"] = {name: headers[name] for name in names}
        event["webhook"]["size"] = len(body)
        async with self.arrived:
            self.events.append(event)
            self.arrived.notify_all()
        if self.hold is not None:
            await self.hold()
        return self.answers.pop(0) if self.answers else web.Response(status=204)


def receiving(*secrets: str) -> contextlib.AbstractAsyncContextManager[Receiver]:
    return receiving_by(Receiver(*secrets))


ReceiverT = TypeVar("ReceiverT", bound=Receiver)


@contextlib.asynccontextmanager
async def receiving_by(receiver: ReceiverT) -> AsyncIterator[ReceiverT]:
    """Let a receiver listen."""
    runner = web.ServerRunner(web.Server(receiver.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
        yield receiver
    finally:
        await runner.cleanup()


class Says(Skill):
    """Say what the message says."""

    name = "says"

    async def answer(self, turn: Turn) -> None:
        await turn.say(turn.message.text)


class Gate(Skill):
    """Wait for the test, then say what the message says."""

    name = "gate"

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()

    async def answer(self, turn: Turn) -> None:
        await self.open.wait()
        await turn.say(turn.message.text)


class Caller:
    """A sender, and a server with the endpoints ``orders`` and ``billing``."""

    def __init__(self, live: LiveServer, clock: Clock, channels: list[WebhookChannel]) -> None:
        self.live = live
        self.clock = clock
        self.server = live.server
        self._channels = channels

    def wake(self) -> None:
        """Let the channel look for outboxes that are due."""
        self._channels[-1]._callbacks.wake()

    async def restart(self, channel: WebhookChannel) -> None:
        """Kill what delivers events, and let ``channel`` go on after the lease of the dead one."""
        await self._channels[-1].close()
        self.clock.now += TIMES.lease + 1
        await channel.start(self.server)
        self._channels.append(channel)

    async def post(
        self,
        body: Any,  # JSON, or the bytes to send
        *,
        endpoint: str = "orders",
        id: str = "",
        secret: str = "",
        at: datetime | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Sign a body as the library does, and post it."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        id, at = id or f"msg_{new_id()}", at or datetime.now(UTC)
        signature = Webhook(secret or secret_of(endpoint)).sign(id, at, raw.decode())
        signed = {
            "webhook-id": id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": signature,
        }
        return await self.live.post(
            f"/webhooks/{endpoint}", json=None, data=raw, headers=signed | (headers or {})
        )

    async def say(self, text: str, *, thread: str = "t", id: str = "", **about: Any) -> str:
        """Send a message that is accepted, and return its turn."""
        endpoint = about.pop("endpoint", "orders")
        data = {"thread": thread, "person": "ada", "text": text, "skill": "says", **about}
        status, answer = await self.post(
            {"type": "message", "data": data}, endpoint=endpoint, id=id
        )
        assert status == 202, answer
        turn: str = answer["turn"]
        return turn

    def conversation(self, thread: str = "t", endpoint: str = "orders") -> Conversation:
        return Conversation("default", CHANNEL, f"{endpoint}.{thread}")

    async def outbox(self, thread: str = "t", endpoint: str = "orders") -> Record:
        key = outbox_key(self.conversation(thread, endpoint))
        record = await self.server.records.read_record(CHANNEL, key)
        assert record is not None
        return record

    async def until(self, condition: Callable[[Json], bool], thread: str = "t") -> Json:
        """Wait until nobody owns the outbox of a thread and its content is so; return it."""
        async with asyncio.timeout(10):
            while True:
                record = await self.outbox(thread)
                content = json.loads(record.value or b"{}")
                if record.due_at is None and condition(content):
                    return content  # type: ignore[no-any-return]
                await asyncio.sleep(0.002)

    async def until_delivered(self, count: int = 1, thread: str = "t") -> Json:
        return await self.until(lambda content: len(content.get("posted", ())) >= count, thread)

    async def until_waiting(self, attempts: int, thread: str = "t") -> float:
        """Wait until the only delivery of a thread waits for its next attempt, after so many of
        them; return the seconds until then."""

        def is_waiting(content: Json) -> bool:
            return [state["attempts"] for state in states(content)] == [str(attempts)]

        (state,) = states(await self.until(is_waiting, thread))
        return float(state["due_at"]) - self.clock.now

    async def pass_pause(self, attempts: int, thread: str = "t") -> float:
        """Move the clock to the next attempt after so many of them; return by how much."""
        pause = await self.until_waiting(attempts, thread)
        self.clock.now += pause
        return pause


async def read(caller: Caller, turn: str, thread: str = "t") -> tuple[int, Any]:
    """Ask for a reply until it is there."""
    body = {"type": "reply.read", "data": {"thread": thread, "turn": turn}}
    async with asyncio.timeout(5):
        while (answer := await caller.post(body))[0] == 202:  # noqa: ASYNC110  a request
            await asyncio.sleep(0.005)
    return answer


def states(content: Json) -> list[Json]:
    """Return the deliveries of an outbox that are not taken."""
    return [turn["posts"][0]["notes"] for turn in content.get("open", ())]


def endpoint_settings(folder: Path, name: str, **about: Any) -> EndpointSettings:
    """Return the settings of an endpoint, with its secret in a file."""
    path = folder / f"{name}.secret"
    path.write_text(about.pop("secret", secret_of(name)), encoding="utf-8")
    about.setdefault("allowed_networks", LOOPBACK)
    return EndpointSettings(secret=Secret(f"file:{path}"), **about)


@contextlib.asynccontextmanager
async def calling(
    folder: Path,
    callback: str = "",
    *,
    ledger: Ledger | None = None,
    clock: Clock | None = None,
    skills: tuple[Skill, ...] = (),
    orders: Json | None = None,
    **about: Any,
) -> AsyncIterator[Caller]:
    """Yield a running server with the endpoints ``orders``, with the callback, and ``billing``."""
    clock = clock or Clock()
    endpoints = {
        "orders": endpoint_settings(folder, "orders", callback=callback, **(orders or {})),
        "billing": endpoint_settings(folder, "billing", **about.pop("billing", {})),
    }
    channels = [channel_of(endpoints, **about.pop("channel", {}))]
    ledger = ledger or MemoryLedger(clock=clock, monotonic=clock)
    async with open_live_server(
        channels=tuple(channels), ledger=ledger, skills=(Says(), *skills), **about
    ) as live:
        try:
            yield Caller(live, clock, channels)
        finally:
            for channel in channels:
                await channel.close()


def channel_of(endpoints: dict[str, EndpointSettings], **about: Any) -> WebhookChannel:
    about.setdefault("times", TIMES)
    return WebhookChannel(Settings(endpoints=endpoints), **about)
