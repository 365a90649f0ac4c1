"""One interaction of a person with a bot on a fake Discord."""

import asyncio
import dataclasses
from typing import Literal

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.discord.objects import (
    JSON,
    DiscordChannel,
    DiscordMessage,
    DiscordUser,
)

PING, COMMAND, COMPONENT, AUTOCOMPLETE = 1, 2, 3, 4
MESSAGE, DEFERRED_MESSAGE, DEFERRED_UPDATE, UPDATE, CHOICES = 4, 5, 6, 7, 8
ALLOWED_ANSWERS = {
    COMMAND: (MESSAGE, DEFERRED_MESSAGE),
    COMPONENT: (MESSAGE, DEFERRED_MESSAGE, DEFERRED_UPDATE, UPDATE),
    AUTOCOMPLETE: (CHOICES,),
}

Status = Literal["waiting", "thinking", "answered", "failed"]


@dataclasses.dataclass(eq=False, slots=True, kw_only=True)
class DiscordInteraction:
    """What a person did with a command, a button or a menu, and what the bot answered.

    ``answer`` is the type of the bot's answer, 0 before it. ``original`` is the message of the
    answer, or the one with the button. ``answered`` is set with the answer.
    """

    id: int
    token: str
    kind: int
    user: DiscordUser
    channel: DiscordChannel
    data: JSON
    created: float
    clock: FakeClock = dataclasses.field(repr=False)
    answer_seconds: float
    token_seconds: float
    source: DiscordMessage | None = None
    answer: int = 0
    answered: asyncio.Event = dataclasses.field(default_factory=asyncio.Event, repr=False)
    original: DiscordMessage | None = None
    followups: list[DiscordMessage] = dataclasses.field(default_factory=list)
    choices: list[JSON] = dataclasses.field(default_factory=list)

    @property
    def is_late(self) -> bool:
        """Return whether the time for the first answer is over."""
        return self.clock.now() - self.created > self.answer_seconds

    @property
    def is_expired(self) -> bool:
        """Return whether the token has expired."""
        return self.clock.now() - self.created > self.token_seconds

    @property
    def status(self) -> Status:
        """Return what the person sees: "This interaction failed" after three seconds without an
        answer, or fifteen minutes of thinking."""
        if not self.answer:
            return "failed" if self.is_late else "waiting"
        if self.original and self.original.is_loading:
            return "failed" if self.is_expired else "thinking"
        return "answered"
