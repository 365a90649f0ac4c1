"""Parked conversations of all channels, for commands that open the ledger."""

from collections.abc import Iterable

from palaver.cli.console import Console
from palaver.errors import NotFound
from palaver.ledger import Ledger, Snapshot
from palaver.messages import Conversation
from palaver.platforms.parking import ParkedConversation, ParkedConversations

HISTORY = 100
"""History entries of a conversation that are looked at."""


class ParkedInLedger:
    """The parked conversations of the channels that are installed or enabled."""

    def __init__(self, ledger: Ledger, channels: Iterable[str]) -> None:
        self._ledger = ledger
        self._channels = sorted(set(channels))

    async def list(self) -> list[ParkedConversation]:
        """Return them, the newest first."""
        found: list[ParkedConversation] = []
        for channel in self._channels:
            found += await ParkedConversations(self._ledger, channel).list()
        return sorted(found, key=lambda parked: -parked.at)

    async def find(self, name: str) -> ParkedConversation:
        """Return the parked conversation with this name. Raises `NotFound`."""
        found = next((each for each in await self.list() if str(each.conversation) == name), None)
        if found is None:
            raise NotFound(f"no conversation {name!r} is parked; see: palaver deadletters list")
        return found

    async def replay(self, conversation: Conversation) -> bool:
        return await self._of(conversation).replay(conversation)

    async def discard(self, conversation: Conversation) -> bool:
        return await self._of(conversation).discard(conversation, self._snapshot)

    def _of(self, conversation: Conversation) -> ParkedConversations:
        return ParkedConversations(self._ledger, conversation.channel)

    async def _snapshot(self, conversation: Conversation) -> Snapshot:
        return await self._ledger.snapshot(conversation, HISTORY)


def parked_in(console: Console, ledger: Ledger) -> ParkedInLedger:
    channels = {*console.registry.channels, *console.settings.channels.enabled}
    return ParkedInLedger(ledger, channels)


def is_conversation(name: str) -> bool:
    """Return whether an argument names a conversation; the id of a turn has no slash."""
    return "/" in name
