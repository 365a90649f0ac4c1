"""Callers: programs that want a reply over HTTP, from any replica, as behind a load balancer."""

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
from tests.chaos.history import Findings, HistoryChecker
from tests.proofs.witness import reply_to

from palaver.messages import Conversation, Message

PERSON = "caller"


class Callers:
    """Each asks for one reply after the other: as a whole, and streamed in OpenAI's form.

    ``answers`` counts statuses; ``retries`` what a load balancer tries again elsewhere, because
    nobody listens or the connection was closed before an answer began.
    """

    def __init__(
        self, where: Callable[[], str], checker: HistoryChecker, chance: random.Random
    ) -> None:
        self.answers: Counter[int] = Counter()
        self.retries = 0
        self.findings = Findings()
        self._where = where
        self._checker = checker
        self._chance = chance
        self._numbers = itertools.count(1)
        self._over = False

    @property
    def errors(self) -> int:
        """Answers that blame the server."""
        return sum(count for status, count in self.answers.items() if status >= 500)

    async def run(self, count: int) -> None:
        """``count`` of them at a time, until `end`."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(count):
                group.create_task(self._call(session))

    def end(self) -> None:
        self._over = True

    async def _call(self, session: aiohttp.ClientSession) -> None:
        while not self._over:
            number = next(self._numbers)
            ask = self._chance.choice((self._whole, self._completion, self._streamed))
            message = Message(
                conversation=Conversation(
                    "default", "web" if ask == self._whole else "openai_api", f"call-{number}"
                ),
                id=f"call-{number}",
                person=PERSON,
                text=f"call {number}",
            )
            try:
                turn, text = await ask(session, message)
            except (aiohttp.ClientError, OSError, TimeoutError, LookupError) as error:
                self.findings.record("lost", f"{ask.__name__} {message.id}: {error!r}")
                continue
            self._checker.record_accepted(message, turn)
            if text != reply_to(message.text):
                self.findings.record("wrong", f"{ask.__name__} {message.id}: {text!r}")

    async def _whole(self, session: aiohttp.ClientSession, message: Message) -> tuple[str, str]:
        path = f"v1/conversations/{message.conversation.thread}/messages?wait=true"
        body = {"id": message.id, "text": message.text, "person": PERSON}
        answer = json.loads(await self._post(session, path, body))
        return answer["turn"], answer["text"]

    async def _completion(
        self, session: aiohttp.ClientSession, message: Message
    ) -> tuple[str, str]:
        answer = json.loads(await self._complete(session, message, stream=False))
        return _turn(answer), answer["choices"][0]["message"]["content"]

    async def _streamed(self, session: aiohttp.ClientSession, message: Message) -> tuple[str, str]:
        answer = await self._complete(session, message, stream=True)
        *chunks, end = [line[6:] for line in answer.splitlines() if line.startswith("data: ")]
        if end != "[DONE]":
            raise LookupError(f"the stream ends with {end!r}")
        pieces = [json.loads(chunk) for chunk in chunks]
        deltas = [piece["choices"][0]["delta"] for piece in pieces]
        return _turn(pieces[0]), "".join(delta.get("content", "") for delta in deltas)

    async def _complete(
        self, session: aiohttp.ClientSession, message: Message, *, stream: bool
    ) -> str:
        body = {
            "model": "witness",
            "stream": stream,
            "user": PERSON,
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
        """The body of a good answer. Raises `LookupError` when it was another one."""
        response = await self._begun(session, path, body, headers)
        async with response:
            self.answers[response.status] += 1
            text = await response.text()
            if not response.ok:
                raise LookupError(f"{response.status}: {text}")
            return text

    async def _begun(
        self,
        session: aiohttp.ClientSession,
        path: str,
        body: dict[str, Any],  # JSON values
        headers: dict[str, str] | None,
    ) -> aiohttp.ClientResponse:
        """An answer that has begun."""
        while True:
            try:
                return await session.post(self._where() + path, json=body, headers=headers)
            except aiohttp.ClientConnectionError:
                self.retries += 1


def _turn(answer: dict[str, Any]) -> str:  # JSON values
    turn: str = answer["id"].removeprefix("chatcmpl-")
    return turn
