"""Channel: where messages come from and replies go. Reception: all that a channel works with."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from palaver.ledger import Erasure, Export, Receipt, Snapshot, StopState
from palaver.messages import Conversation, Cursor, Message
from palaver.streams.subscriptions import Subscriber, Subscription

if TYPE_CHECKING:  # only channels that open routes need aiohttp
    from aiohttp import web


class ConversationService(Protocol):
    """What the server offers to a channel. The channel has verified who speaks."""

    async def accept(self, message: Message) -> Receipt:
        """Store the message and queue its turn. Acknowledge to the platform only after this.

        Raises `NotFound` (the message names an unknown skill), `TooLarge`, `Conflict`, `TooMany`
        and `LedgerUnavailable`; then nothing is stored.
        """

    async def subscribe(
        self, conversation: Conversation, subscriber: Subscriber, since: Cursor | None = None
    ) -> Subscription:
        """Bring the conversation's events to ``viewer`` until `leave`. See `Streams.open`."""

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a view. The turns go on."""

    async def stop(
        self, conversation: Conversation, turn: str | None = None
    ) -> tuple[StopState, str]:
        """Stop a turn, or the one that runs. See `Ledger.stop`."""

    async def snapshot(self, conversation: Conversation) -> Snapshot:
        """The conversation as it is now."""

    async def members(self, conversation: Conversation) -> frozenset[str]:
        """The people who have written to the conversation; empty when it is new."""

    async def export(self, tenant: str, person: str) -> Export:
        """Everything that is held about a person."""

    async def erase(self, tenant: str, person: str) -> Erasure:
        """Remove it. See `Ledger.erase`."""

    def skills(self) -> dict[str, str]:
        """Skill names and their descriptions."""


class Channel(Protocol):
    """A bridge to one platform. Lives as long as the server."""

    async def start(self, service: ConversationService) -> None: ...

    async def close(self) -> None: ...

    def routes(self) -> "Iterable[web.RouteDef]":
        """The HTTP routes that the platform calls. They are open to the network: the channel
        itself verifies who calls."""
