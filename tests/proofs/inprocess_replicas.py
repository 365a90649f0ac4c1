"""In-process replicas: servers in the test's process, each behind its own proxy to Redis."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

from tests.chaos.proxy import FaultProxy

from palaver import Skill, Turn
from palaver.config.settings import LedgerSettings, RoutingSettings, ServerSettings, Settings
from palaver.messages import Attachment
from palaver.server import Server
from palaver.testing import ListKnowledge, ScriptedEngine
from palaver.web.listener import listening
from palaver_plugins.ledgers.redis import RedisLedger, RedisLedgerSettings

WORDS = "雨が降る 夜 😀😀 río naïf 👩‍👩‍👧 дождь идёт ночью 港の灯 tide ÿ".split()


def reply_to(text: str) -> str:
    """Return the reply of `LongTextSkill`, which depends on the message's text alone."""
    rng = random.Random(text)
    return f"{text}: " + " ".join(rng.choice(WORDS) for _ in range(rng.randint(40, 160)))


class LongTextSkill(Skill):
    """Say a long text in many small pieces."""

    name = "long_text"
    seconds_per_piece = 0.02

    async def answer(self, turn: Turn) -> None:
        reply = reply_to(turn.message.text)
        for start in range(0, len(reply), 20):
            await turn.say(reply[start : start + 20])
            await asyncio.sleep(self.seconds_per_piece)


class ManyEventsSkill(Skill):
    """Say a word and attach a file, as many times as the message's first word demands."""

    name = "many_events"

    async def answer(self, turn: Turn) -> None:
        rng = random.Random(turn.message.text)
        for number in range(int(turn.message.text.split()[0])):
            await turn.say(f"{rng.choice(WORDS)} ")
            turn.attach(Attachment(name=f"{number}", media_type="text/plain", url="data:,"))


class InProcessReplica:
    """A server, the address of its web surface, and the proxy between it and Redis."""

    def __init__(self, server: Server, address: str, redis_proxy: FaultProxy) -> None:
        self.server = server
        self.address = address.rstrip("/")
        self.redis_proxy = redis_proxy


@contextlib.asynccontextmanager
async def running_replica(
    url: str, skill: Skill, ledger_class: type[RedisLedger] = RedisLedger, **ledger_settings: Any
) -> AsyncIterator[InProcessReplica]:
    """Run a server on the Redis at ``url``, with these settings of its Redis ledger."""
    async with FaultProxy(url) as redis_proxy:
        timeouts: dict[str, Any] = {"connect_timeout": 1.0, "command_timeout": 1.0}
        settings = RedisLedgerSettings(url=redis_proxy.address, **(timeouts | ledger_settings))
        server = Server(
            Settings(
                server=ServerSettings(port=0, drain=0, grace=1),
                ledger=LedgerSettings(history=10_000),
                routing=RoutingSettings(default=skill.name, threshold=1.0, consult_engine=False),
            ),
            ledger=ledger_class(settings),
            engine=ScriptedEngine(),
            knowledge=ListKnowledge(),
            skills={skill.name: skill},
        )
        async with server, listening(server) as address:
            yield InProcessReplica(server, address, redis_proxy)
