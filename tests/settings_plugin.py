"""A plugin with settings of every kind: engine ``echo`` and skill ``parrot``."""

from typing import Any, ClassVar, Literal

import pydantic

from palaver.engine import Engine
from palaver.hooks import Backend, PluginSettings, Site, hookimpl
from palaver.settings import Secret
from palaver.skills import Skill, Turn
from palaver.testing import ScriptedEngine


class EchoSettings(PluginSettings):
    urls: tuple[str, ...] = ()
    """Where to."""
    pause: float = pydantic.Field(default=0.0, ge=0)
    """Seconds before it answers."""
    key: Secret | None = None
    """What opens it."""
    mode: Literal["fast", "slow"] = "fast"
    """How."""
    options: dict[str, Any] = pydantic.Field(default={})
    """Anything else."""


class Parrot(Skill):
    """Say it again."""

    name: ClassVar[str] = "parrot"

    class Settings(PluginSettings):
        volume: int = pydantic.Field(default=1, ge=0)
        """How loud."""

    async def answer(self, turn: Turn) -> None:
        await turn.say(turn.message.text)


def build(settings: EchoSettings, site: Site) -> Engine:
    return ScriptedEngine()


@hookimpl
def palaver_register_engines() -> list[Backend[Engine]]:
    return [Backend(name="echo", settings=EchoSettings, build=build)]
