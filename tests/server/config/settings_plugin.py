"""A plugin that contributes one of each kind, with settings of every type."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import pydantic
from aiohttp import web

from palaver.authentication import public
from palaver.channels import Channel, ConversationService
from palaver.config.settings import PluginSettings, Secret
from palaver.engine import Capability, Engine, EngineInfo
from palaver.errors import ConfigurationError
from palaver.hooks import Backend, BuildContext, Interceptor, hookimpl
from palaver.knowledge import KnowledgeBase
from palaver.ledger import Ledger
from palaver.records import RecordStore
from palaver.skills import Skill
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine
from palaver.tool_sources import OfferedTool, ToolSource
from palaver.tools import Tool
from palaver.turns.turn import Turn


class EchoSettings(PluginSettings):
    urls: tuple[str, ...] = ()
    """Where to."""
    pause: float = pydantic.Field(default=0.0, ge=0)
    """Seconds before it answers."""
    key: Secret | None = None
    """What opens it."""
    mode: Literal["fast", "slow"] = "fast"
    """How."""
    lacks: tuple[Capability, ...] = ()
    """What it cannot do."""
    options: dict[str, Any] = pydantic.Field(default={})
    """Anything else."""


class Parrot(Skill):
    """Say it again."""

    name: ClassVar[str] = "parrot"
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate", "seed"})

    class Settings(PluginSettings):
        volume: int = pydantic.Field(default=1, ge=0)
        """How loud."""

    async def answer(self, turn: Turn) -> None:
        await turn.say(turn.message.text * self.settings.volume)


class NoSettings(PluginSettings):
    pass


engine_starts: list[float] = []
"""The times at which an engine of this plugin was started."""


class EchoEngine(ScriptedEngine):
    async def start(self) -> EngineInfo:
        engine_starts.append(time.monotonic())
        return await super().start()


def build(settings: EchoSettings, build_context: BuildContext) -> Engine:
    if settings.mode == "slow":
        raise ConfigurationError("there is no slow echo")
    return EchoEngine("Hello.", missing_capabilities=settings.lacks)


class Shout:
    """An interceptor that adds to every reply."""

    async def intercept(self, turn: Turn, call_next: Callable[[], Awaitable[None]]) -> None:
        await call_next()
        await turn.say("!")


class Bell:
    """A channel with one route."""

    async def start(self, service: ConversationService) -> None: ...

    async def close(self) -> None: ...

    def routes(self) -> Iterable[web.RouteDef]:
        return [web.get("/bell", self._ring)]

    @public
    async def _ring(self, request: web.Request) -> web.Response:
        return web.Response(text="ding")


class Box:
    """A source without a tool."""

    tools: Mapping[str, Tool] = {}
    problems: Sequence[str] = ("it is empty",)

    async def start(self, records: RecordStore) -> None: ...

    async def close(self) -> None: ...

    async def check(self) -> Sequence[str]:
        return self.problems

    def may_offer(self, name: str) -> bool:
        return name == "news"

    def offered(self) -> Sequence[OfferedTool]:
        return ()

    async def approve(self, digests: Mapping[str, str]) -> None: ...


@hookimpl
def palaver_register_engines() -> list[Backend[Engine]]:
    return [Backend(name="echo", settings=EchoSettings, build=build)]


@hookimpl
def palaver_register_ledgers() -> list[Backend[Ledger]]:
    return [
        Backend(name="memory", settings=NoSettings, build=lambda s, build_context: MemoryLedger())
    ]


@hookimpl
def palaver_register_knowledge() -> list[Backend[KnowledgeBase]]:
    return [
        Backend(name="list", settings=NoSettings, build=lambda s, build_context: ListKnowledge())
    ]


@hookimpl
def palaver_register_interceptors() -> list[Backend[Interceptor]]:
    return [Backend(name="shout", settings=NoSettings, build=lambda s, build_context: Shout())]


@hookimpl
def palaver_register_channels() -> list[Backend[Channel]]:
    return [Backend(name="bell", settings=NoSettings, build=lambda s, build_context: Bell())]


@hookimpl
def palaver_register_tool_sources() -> list[Backend[ToolSource]]:
    return [Backend(name="box", settings=NoSettings, build=lambda s, build_context: Box())]
