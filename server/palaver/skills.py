"""Skill: the base class of everything that answers turns."""

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
    """Base of a skill, which answers turns. A subclass has a name, examples and ``answer``.

    The docstring's first line is the description for people and the router. One instance answers
    all turns at once: keep nothing about a turn on ``self``.
    """

    name: ClassVar[str]
    """1 to 40 characters of ``a-z0-9_-``; people type it as ``/name``."""
    aliases: ClassVar[Sequence[str]] = ()
    """Other words that people may type as ``/word``."""
    examples: ClassVar[Sequence[str]] = ()
    """Messages for this skill, as people would write them."""
    patterns: ClassVar[Sequence[str]] = ()
    """Regular expressions that match whole messages, in any case. A match chooses the skill, and
    named groups fill its arguments."""
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate"})
    """Capabilities that the engine must have; without them the server does not start."""
    concurrency_policy: ClassVar[ConcurrencyPolicy | None] = None
    """Policy for messages that come while this skill runs; None: as the settings say. With
    ``steer``, `Turn.take_steering` returns them."""

    class Settings(PluginSettings):
        """Settings under ``[skills.NAME]``; override with fields of your own."""

    Arguments: ClassVar[type[pydantic.BaseModel]] = NoArguments
    """Arguments of the skill, as a pydantic model; nest a class of this name."""

    def __init__(self, settings: PluginSettings | None = None) -> None:
        self.settings: Any = settings or self.Settings()  # Any: the subclass's own Settings

    @classmethod
    def description(cls) -> str:
        return (cls.__doc__ or "").strip().partition("\n")[0]

    async def answer(self, turn: Turn[Any]) -> None:
        """Answer the turn: everything that it says, cites and attaches is the reply.

        It may run again from the top after a crash of the server: the Turn's methods then return
        their recorded results. Put anything else that has an effect into a tool.
        """
        raise NotImplementedError
