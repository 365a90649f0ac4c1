"""A plugin with settings of every kind: engine ``echo``, ledger ``memory``, knowledge ``list`` and
skill ``parrot``."""

from typing import Any, ClassVar, Literal

import pydantic

from palaver.engine import Ability, Engine
from palaver.errors import ConfigurationError
from palaver.hooks import Backend, PluginSettings, Site, hookimpl
from palaver.knowledge import KnowledgeBase
from palaver.ledger import Ledger
from palaver.settings import Secret
from palaver.skills import Skill, Turn
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine


class EchoSettings(PluginSettings):
    urls: tuple[str, ...] = ()
    """Where to."""
    pause: float = pydantic.Field(default=0.0, ge=0)
    """Seconds before it answers."""
    key: Secret | None = None
    """What opens it."""
    mode: Literal["fast", "slow"] = "fast"
    """How."""
    lacks: tuple[Ability, ...] = ()
    """What it cannot do."""
    options: dict[str, Any] = pydantic.Field(default={})
    """Anything else."""


class Parrot(Skill):
    """Say it again."""

    name: ClassVar[str] = "parrot"
    needs: ClassVar[frozenset[Ability]] = frozenset({"generate", "seed"})

    class Settings(PluginSettings):
        volume: int = pydantic.Field(default=1, ge=0)
        """How loud."""

    async def answer(self, turn: Turn) -> None:
        await turn.say(turn.message.text * self.settings.volume)


class MemorySettings(PluginSettings):
    pass


def build(settings: EchoSettings, site: Site) -> Engine:
    if settings.mode == "slow":
        raise ConfigurationError("there is no slow echo")
    return ScriptedEngine("Hello.", lacks=settings.lacks)


@hookimpl
def palaver_register_engines() -> list[Backend[Engine]]:
    return [Backend(name="echo", settings=EchoSettings, build=build)]


@hookimpl
def palaver_register_ledgers() -> list[Backend[Ledger]]:
    return [Backend(name="memory", settings=MemorySettings, build=lambda s, site: MemoryLedger())]


@hookimpl
def palaver_register_knowledge() -> list[Backend[KnowledgeBase]]:
    return [Backend(name="list", settings=MemorySettings, build=lambda s, site: ListKnowledge())]
