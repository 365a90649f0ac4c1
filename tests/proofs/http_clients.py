"""HTTP clients: programs that request replies from any replica, as behind a load balancer."""

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
from tests.chaos.findings import Findings
from tests.chaos.history import HistoryChecker
from tests.proofs.reference_plugin import reply_to

from palaver.messages import Conversation, Message


class HTTPClients:
    """Clients that each request one reply after the other.

    A reply is requested as a whole, as an OpenAI completion or as a completion stream.
    ``status_counts`` counts responses by status, ``retry_count`` the requests that a load balancer
    would send to another replica, because the connection was refused or closed before a response.
    """

    def __init__(
        self, pick_address: Callable[[], str], checker: HistoryChecker, rng: random.Random
    ) -> None:
        self.status_counts: Counter[int] = Counter()
        self.retry_count = 0
        self.findings = Findings()
        self._pick_address = pick_address
        self._checker = checker
        self._rng = rng
        self._numbers = itertools.count(1)
        self._stopping = False

    @property
    def server_error_count(self) -> int:
        """Number of 5xx responses."""
        return sum(count for status, count in self.status_counts.items() if status >= 500)

    async def run(self, count: int) -> None:
        """Run ``count`` clients at a time until `stop`."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(count):
                group.create_task(self._run_client(session))

    def stop(self) -> None:
        """Send no further request."""
        self._stopping = True

    async def _run_client(self, session: aiohttp.ClientSession) -> None:
        while not self._stopping:
            number = next(self._numbers)
            request = self._rng.choice((self._whole, self._completion, self._streamed))
            channel = "web" if request == self._whole else "openai_api"
            message = Message(
                conversation=Conversation("default", channel, f"call-{number}"),
                id=f"call-{number}",
                person=f"caller-{number}",  # memories about one person are limited
                text=f"call {number}",
            )
            try:
                turn, text = await request(session, message)
            except (aiohttp.ClientError, OSError, TimeoutError, LookupError) as error:
                self.findings.record("lost", f"{request.__name__} {message.id}: {error!r}")
                continue
            self._checker.record_accepted(message, turn)
            if text != reply_to(message.text):
                self.findings.record("wrong", f"{request.__name__} {message.id}: {text!r}")

    async def _whole(self, session: aiohttp.ClientSession, message: Message) -> tuple[str, str]:
        path = f"v1/conversations/{message.conversation.thread}/messages?wait=true"
        body = {"id": message.id, "text": message.text, "person": message.person}
        answer = json.loads(await self._post(session, path, body))
        return answer["turn"], answer["text"]

    async def _completion(
        self, session: aiohttp.ClientSession, message: Message
    ) -> tuple[str, str]:
        answer = json.loads(await self._complete(session, message, stream=False))
        return _turn_of(answer), answer["choices"][0]["message"]["content"]

    async def _streamed(self, session: aiohttp.ClientSession, message: Message) -> tuple[str, str]:
        answer = await self._complete(session, message, stream=True)
        *chunks, end = [line[6:] for line in answer.splitlines() if line.startswith("data: ")]
        if end != "[DONE]":
            raise LookupError(f"the stream ends with {end!r}")
        pieces = [json.loads(chunk) for chunk in chunks]
        deltas = [piece["choices"][0]["delta"] for piece in pieces]
        return _turn_of(pieces[0]), "".join(delta.get("content", "") for delta in deltas)

    async def _complete(
        self, session: aiohttp.ClientSession, message: Message, *, stream: bool
    ) -> str:
        body = {
            "model": "reference",
            "stream": stream,
            "user": message.person,
            "messages": [{"role": "user", "content": message.text}],
        }
        headers = {
            "X-Palaver-Thread": message.conversation.thread,
            "Idempotency-Key": message.id,
        }
        return await self._post(session, "v1/chat/completions", body, headers)

    async def _post(
        self,
        session: aiohttp.ClientSession,
        path: str,
        body: dict[str, Any],  # JSON values
        headers: dict[str, str] | None = None,
    ) -> str:
        """Return the body of a successful response. Raises `LookupError` for another status."""
        response = await self._post_with_retries(session, path, body, headers)
        async with response:
            self.status_counts[response.status] += 1
            text = await response.text()
            if not response.ok:
                raise LookupError(f"{response.status}: {text}")
            return text

    async def _post_with_retries(
        self,
        session: aiohttp.ClientSession,
        path: str,
        body: dict[str, Any],  # JSON values
        headers: dict[str, str] | None,
    ) -> aiohttp.ClientResponse:
        """Send the request to one replica after the other until a response begins."""
        while True:
            try:
                return await session.post(self._pick_address() + path, json=body, headers=headers)
            except aiohttp.ClientConnectionError:
                self.retry_count += 1


def _turn_of(answer: dict[str, Any]) -> str:  # JSON values
    turn: str = answer["id"].removeprefix("chatcmpl-")
    return turn
