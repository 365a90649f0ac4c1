"""Clients of Responses in the background through a load balancer while replicas are killed: the
official Python client, which goes on after the last number that it has seen."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx2
import openai
from openai import AsyncOpenAI
from tests.chaos.findings import Findings
from tests.proofs.reference_plugin import reply_to

TURN_SECONDS = 120.0
"""A machine that is busy may take long."""
RETRY_SECONDS = 0.1
LOST = (openai.OpenAIError, httpx2.HTTPError, OSError)
"""What a client sees of the death of its replica."""

Event = dict[str, Any]  # JSON values
ResultT = TypeVar("ResultT")


class ResponsesClients:
    """Clients that each create one response after the other and read all of its stream.

    ``resumed`` counts streams that went on at another replica, ``compared`` the responses that two
    replicas have streamed again, event by event as the client has read them.
    """

    def __init__(
        self, url: str, replicas: Callable[[], list[str]], seconds: float = TURN_SECONDS
    ) -> None:
        """``replicas`` returns the base URLs of the replicas that run now. ``seconds``: after which
        a response without an end is lost."""
        self._seconds = seconds
        self.findings = Findings()
        self.count = 0
        self.resumed = 0
        self.compared = 0
        self._url = url
        self._replicas = replicas
        self._numbers = itertools.count(1)
        self._stopping = False

    async def run(self, count: int) -> None:
        """Run ``count`` clients at a time until `stop`."""
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self._run_client())

    def stop(self) -> None:
        """Create no further response."""
        self._stopping = True

    async def _run_client(self) -> None:
        async with _client(self._url) as client:
            while not self._stopping:
                text = f"response {next(self._numbers)}"
                events: list[Event] = []
                try:
                    async with asyncio.timeout(self._seconds):
                        await self._read_one(client, text, events)
                except TimeoutError:
                    last = events[-1:]
                    self.findings.record("lost", f"{text!r}: {len(events)} events, then {last}")
                self.count += 1

    async def _read_one(self, client: AsyncOpenAI, text: str, events: list[Event]) -> None:
        created = await _repeat(lambda: self._create(client, text))
        while not _is_end(events):
            if events:
                self.resumed += 1
            await self._read_on(client, created.id, events)
        self._check(text, events)
        await self._compare(created.id, events)

    async def _create(self, client: AsyncOpenAI, text: str) -> Any:
        return await client.responses.create(
            model="reference",
            input=text,
            background=True,
            extra_headers={"Idempotency-Key": text},
        )

    async def _read_on(self, client: AsyncOpenAI, id: str, events: list[Event]) -> None:
        """Add the events after the last one, as far as they come."""
        after: dict[str, Any] = {"starting_after": len(events) - 1} if events else {}
        try:
            stream = await client.responses.retrieve(id, stream=True, **after)
            async with stream:
                async for event in stream:
                    events.append(event.model_dump(mode="json"))  # noqa: PERF401 - kept if it ends
        except LOST:
            await asyncio.sleep(RETRY_SECONDS)

    def _check(self, text: str, events: list[Event]) -> None:
        numbers = [event["sequence_number"] for event in events]
        if numbers != list(range(len(events))):
            self.findings.record("gaps", f"the numbers of {text!r} are {numbers}")
        deltas = [it["delta"] for it in events if it["type"] == "response.output_text.delta"]
        if "".join(deltas) != reply_to(text) or events[-1]["type"] != "response.completed":
            self.findings.record("wrong", f"{text!r} → {events[-1]}")

    async def _compare(self, id: str, events: list[Event]) -> None:
        """Read the whole stream from two replicas. Each has the same events."""

        async def read(at: int) -> list[Event]:
            async with _client(self._replicas()[at]) as client:
                stream = await client.responses.retrieve(id, stream=True)
                return [event.model_dump(mode="json") async for event in stream]

        for at in (0, 1):
            if await _repeat(lambda at=at: read(at)) != events:  # type: ignore[misc]
                self.findings.record("wrong", f"another replica streams {id} otherwise")
        self.compared += 1


def _client(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url=f"{url}v1",
        api_key="none",
        max_retries=0,
        timeout=TURN_SECONDS,
        _strict_response_validation=True,
    )


async def _repeat(attempt: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Return what the first attempt returns that reaches a replica."""
    while True:
        try:
            return await attempt()
        except LOST:
            await asyncio.sleep(RETRY_SECONDS)


def _is_end(events: list[Event]) -> bool:
    ends = ("response.completed", "response.incomplete", "response.failed", "error")
    return bool(events) and events[-1]["type"] in ends
