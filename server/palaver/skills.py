"""Skill: what an author writes."""

from collections.abc import Sequence
from typing import Any, ClassVar

import pydantic

from palaver.config.settings import PluginSettings
from palaver.engine import Capability
from palaver.messages import ConcurrencyPolicy
from palaver.turns.turn import Turn


class NoArguments(pydantic.BaseModel):
    """The arguments of a skill that takes none."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Skill:
    """Answers turns. Subclass it, name it, give examples, write ``answer``.

    The docstring's first line is the description that people and the router read. One instance
    serves all turns at once: keep nothing about a turn on ``self``.
    """

    name: ClassVar[str]
    """1 to 40 characters of ``a-z0-9_-``; people type it as ``/name``."""
    aliases: ClassVar[Sequence[str]] = ()
    """Other words that people may type as ``/word``."""
    examples: ClassVar[Sequence[str]] = ()
    """Messages that this skill should get, as people would write them."""
    patterns: ClassVar[Sequence[str]] = ()
    """Regular expressions, matched without regard to case against the whole message. A match
    chooses the skill, and named groups fill its arguments."""
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate"})
    """What the engine must be able to do; a server whose engine cannot refuses the skill."""
    concurrency_policy: ClassVar[ConcurrencyPolicy | None] = None
    """What becomes of a message that comes while this skill runs; None leaves it to the settings.
    With ``steer``, ask for them with `Turn.steering`."""

    class Settings(PluginSettings):
        """Settings under ``[skills.NAME]``; override with fields of your own."""

    Arguments: ClassVar[type[pydantic.BaseModel]] = NoArguments
    """What the skill needs to know, as a pydantic model; nest a class of this name."""

    def __init__(self, settings: PluginSettings | None = None) -> None:
        self.settings: Any = settings or self.Settings()  # Any: the subclass's own Settings

    @classmethod
    def description(cls) -> str:
        return (cls.__doc__ or "").strip().partition("\n")[0]

    async def answer(self, turn: Turn[Any]) -> None:
        """Answer the turn. Whatever it says, cites and attaches is the reply.

        May run again from the top after a crash of the server: the Turn's verbs then return what
        they returned before. Anything else with an effect belongs into a tool.
        """
        raise NotImplementedError
