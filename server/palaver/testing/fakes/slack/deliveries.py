"""Deliveries of events, interactions and commands to the app, with Slack's retries."""

import dataclasses
import hashlib
import hmac
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Literal, Protocol
from urllib.parse import urlencode

import aiohttp

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.slack.objects import Json
from palaver.testing.fakes.slack.tasks import Changes, Tasks

ACKNOWLEDGE_SECONDS = 3.0
"""Time in which the app has to acknowledge a delivery."""
RETRY_SECONDS = (0.0, 60.0, 300.0)
"""Time before each retry."""

DeliveryKind = Literal["event", "interaction", "command"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt to deliver. ``failure``: Slack's reason for the next retry, empty when the app
    has acknowledged. ``seconds``: how long the answer took in real time."""

    at: float
    url: str
    status: int = 0
    failure: str = ""
    body: bytes = b""
    seconds: float = 0.0
    may_retry: bool = True


@dataclasses.dataclass(slots=True, kw_only=True)
class Delivery:
    kind: DeliveryKind
    payload: Json
    attempts: list[Attempt] = dataclasses.field(default_factory=list)
    last_socket: object = None
    """Socket Mode: the websocket of the last attempt."""
    is_over: bool = False
    """It is acknowledged, or given up."""

    @property
    def is_acknowledged(self) -> bool:
        return bool(self.attempts) and not self.attempts[-1].failure

    @property
    def event(self) -> Json:
        """Return the event in the payload, empty for other deliveries."""
        event: Json = self.payload.get("event", {})
        return event


class Transport(Protocol):
    """How deliveries reach the app."""

    async def attempt(self, delivery: Delivery) -> Attempt:
        """Deliver once; never raises an error of the network."""


class Deliveries:
    """All deliveries, and the tasks that make them."""

    def __init__(
        self,
        clock: FakeClock,
        tasks: Tasks,
        changes: Changes,
        on_attempt: Callable[[Attempt], None],
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._changes = changes
        self._on_attempt = on_attempt
        self.all: list[Delivery] = []
        self.open_count = 0
        """Deliveries that are neither acknowledged nor given up."""

    def start(self, deliveries: Sequence[Delivery], transport: Transport, delay: float = 0) -> None:
        """Deliver one after the other: each begins when the first attempt before it is over."""
        self.all += deliveries
        self.open_count += len(deliveries)
        self._tasks.start(self._run_all(deliveries, transport, self._clock.now() + delay))

    async def _run_all(
        self, deliveries: Sequence[Delivery], transport: Transport, begins_at: float
    ) -> None:
        await self._clock.sleep_until(begins_at)
        for delivery in deliveries:
            if not await self._attempt(delivery, transport):
                self._tasks.start(self._retry(delivery, transport))

    async def _retry(self, delivery: Delivery, transport: Transport) -> None:
        for seconds in RETRY_SECONDS:
            await self._clock.sleep_until(delivery.attempts[-1].at + seconds)
            if await self._attempt(delivery, transport):
                return
        self._end(delivery)

    async def _attempt(self, delivery: Delivery, transport: Transport) -> bool:
        """Return whether the delivery is over."""
        attempt = await transport.attempt(delivery)
        delivery.attempts.append(dataclasses.replace(attempt, at=self._clock.now()))
        self._on_attempt(attempt)
        if not attempt.failure or not attempt.may_retry:
            self._end(delivery)
        self._changes.notify()
        return delivery.is_over

    def _end(self, delivery: Delivery) -> None:
        self.open_count -= not delivery.is_over
        delivery.is_over = True
        self._changes.notify()

    async def deliver_once(self, delivery: Delivery, transport: Transport) -> Attempt:
        """Deliver without retries: interactions and commands, whose user sees the failure."""
        self.all.append(delivery)
        self.open_count += 1
        await self._attempt(delivery, transport)
        self._end(delivery)
        return delivery.attempts[-1]


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return Slack's signature of a request."""
    signed = b":".join([b"v0", timestamp.encode(), body])
    return "v0=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


class HttpTransport:
    """Signed requests to one of the app's request URLs, chosen at random.

    The app compares the signature's time with its own clock, so ``signing_clock`` is the
    computer's by default, and not the fake's.
    """

    session: aiohttp.ClientSession

    def __init__(
        self,
        clock: FakeClock,
        choices: random.Random,
        *,
        signing_clock: Callable[[], float],
        secret: Callable[[], str],
        urls: Callable[[DeliveryKind], Sequence[str]],
    ) -> None:
        self._clock = clock
        self._random = choices
        self._signing_clock = signing_clock
        self._secret = secret
        self._urls = urls

    async def attempt(self, delivery: Delivery) -> Attempt:
        urls = self._urls(delivery.kind)
        if not urls:
            return Attempt(at=0, url="", failure="connection_failed")
        return await self._post(self._random.choice(urls), delivery)

    async def _post(self, url: str, delivery: Delivery) -> Attempt:
        started = time.monotonic()
        body, content_type = _body(delivery)
        headers = self.signed_headers(body) | {"Content-Type": content_type} | _retry(delivery)
        try:
            async with (
                self._clock.timeout(ACKNOWLEDGE_SECONDS),
                self.session.post(
                    url, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                answer = await response.read()
        except TimeoutError:
            return Attempt(at=0, url=url, failure="http_timeout")
        except aiohttp.ClientError:
            return Attempt(at=0, url=url, failure="connection_failed")
        return Attempt(
            at=0,
            url=url,
            status=response.status,
            failure="" if 200 <= response.status < 300 else "http_error",
            body=answer,
            seconds=time.monotonic() - started,
            may_retry=response.headers.get("x-slack-no-retry") != "1",
        )

    async def send_signed(
        self, url: str, body: bytes, *, timestamp: str = "", secret: str = ""
    ) -> tuple[int, bytes]:
        """Send a request once, signed with another time or secret when these are given; return
        status and body of the answer."""
        headers = {"Content-Type": "application/json"}
        headers |= self.signed_headers(body, timestamp=timestamp, secret=secret)
        async with self.session.post(url, data=body, headers=headers) as response:
            return response.status, await response.read()

    def signed_headers(
        self, body: bytes, *, timestamp: str = "", secret: str = ""
    ) -> dict[str, str]:
        timestamp = timestamp or str(int(self._signing_clock()))
        return {
            "User-Agent": "Slackbot 1.0 (+https://api.slack.com/robots)",
            "X-Slack-Request-Timestamp": timestamp,
            "X-Slack-Signature": sign(secret or self._secret(), timestamp, body),
        }


def _body(delivery: Delivery) -> tuple[bytes, str]:
    if delivery.kind == "event":
        return encode_json(delivery.payload), "application/json"
    fields = delivery.payload
    if delivery.kind == "interaction":
        fields = {"payload": encode_json(delivery.payload).decode()}
    return urlencode(fields).encode(), "application/x-www-form-urlencoded"


def encode_json(payload: Json) -> bytes:
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def _retry(delivery: Delivery) -> dict[str, str]:
    if not delivery.attempts:
        return {}
    return {
        "x-slack-retry-num": str(len(delivery.attempts)),
        "x-slack-retry-reason": delivery.attempts[-1].failure,
    }
