"""Replicas in this process, each with a Redis connection of its own that can be cut."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

from tests.chaos.proxy import CuttingProxy

from palaver import Skill, Turn
from palaver.config.settings import LedgerSettings, RoutingSettings, ServerSettings, Settings
from palaver.messages import Attachment
from palaver.server import Server
from palaver.testing import ListKnowledge, ScriptedEngine
from palaver.web.listener import listening
from palaver_plugins.ledgers.redis import RedisLedger, RedisLedgerSettings

WORDS = "雨が降る 夜 😀😀 río naïf 👩‍👩‍👧 дождь идёт ночью 港の灯 tide ÿ".split()


def reply_to(text: str) -> str:
    """The reply to a message: it follows from the message alone."""
    chance = random.Random(text)
    return f"{text}: " + " ".join(chance.choice(WORDS) for _ in range(chance.randint(40, 160)))


class Talker(Skill):
    """Say something long in many small pieces."""

    name = "talker"
    pace = 0.02
    """Seconds per piece."""

    async def answer(self, turn: Turn) -> None:
        reply = reply_to(turn.message.text)
        for start in range(0, len(reply), 20):
            await turn.say(reply[start : start + 20])
            await asyncio.sleep(self.pace)


class Archivist(Skill):
    """Hand over the text's own number of leaves, each an event of its own, with a word on each."""

    name = "archivist"

    async def answer(self, turn: Turn) -> None:
        chance = random.Random(turn.message.text)
        for leaf in range(int(turn.message.text.split()[0])):
            await turn.say(f"{chance.choice(WORDS)} ")
            turn.attach(Attachment(name=f"{leaf}", media_type="text/plain", url="data:,"))


class Replica:
    """A server with the address of its web surface, and the proxy before its Redis."""

    def __init__(self, server: Server, address: str, redis: CuttingProxy) -> None:
        self.server = server
        self.address = address.rstrip("/")
        self.redis = redis


@contextlib.asynccontextmanager
async def replica(
    url: str, skill: Skill, kind: type[RedisLedger] = RedisLedger, **about: Any
) -> AsyncIterator[Replica]:
    """A server on the Redis at ``url``; ``about`` are settings of its Redis ledger."""
    async with CuttingProxy(url) as redis:
        quick: dict[str, Any] = {"connect_timeout": 1.0, "command_timeout": 1.0}
        settings = RedisLedgerSettings(url=redis.address, **(quick | about))
        server = Server(
            Settings(
                server=ServerSettings(port=0, drain=0, grace=1),
                ledger=LedgerSettings(history=10_000),
                routing=RoutingSettings(default=skill.name, threshold=1.0, consult_engine=False),
            ),
            ledger=kind(settings),
            engine=ScriptedEngine(),
            knowledge=ListKnowledge(),
            skills={skill.name: skill},
        )
        async with server, listening(server) as address:
            yield Replica(server, address, redis)
