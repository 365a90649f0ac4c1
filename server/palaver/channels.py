"""Channels: bridges to platforms, and the service that the server offers to them."""

from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Protocol

from palaver.authentication import Principal
from palaver.concurrency import check_member, not_a_member
from palaver.ledger import Erasure, Export, HistoryPage, Receipt, Snapshot, StopState
from palaver.messages import Conversation, Cursor, Event, Message, Received
from palaver.streams.subscriptions import Drain, Subscriber, Subscription

if TYPE_CHECKING:  # only channels with HTTP routes load aiohttp
    from aiohttp import web


class ConversationService(Protocol):
    """The server as a channel uses it."""

    def authenticate(self, request: "web.Request") -> Principal:
        """Return the owner of a request's key.

        For routes that take the server's own keys, which `requires` declares; their handlers run
        only after the check. A platform's callbacks have their own proof.
        """

    async def accept(self, message: Message, *, members_only: bool = True) -> Receipt:
        """Store the message and queue its turn. Acknowledge to the platform only after this.

        ``members_only``: a conversation that has members accepts messages of no one else. False
        where the platform decides who may write to a conversation, such as a group's.

        Raises `Forbidden` (the person is not a member), `NotFound` (the message names an unknown
        skill), `TooLarge`, `Conflict`, `TooMany`, `Overloaded` and `LedgerUnavailable`; then
        nothing is stored.
        """

    async def subscribe(
        self,
        conversation: Conversation,
        subscriber: Subscriber,
        since: Cursor | None = None,
        *,
        person: str = "",
        drain: Drain | None = None,
    ) -> Subscription:
        """Deliver the conversation's events to ``subscriber`` until `unsubscribe`. Name the person
        who reads them, for `connections.per_person`. See `Subscriptions.subscribe`."""

    def check_subscriptions(self, tenant: str, person: str) -> None:
        """Raise `TooMany` when `subscribe` would: before a message is accepted for nothing."""

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription. Its turns continue."""

    async def stop(
        self, conversation: Conversation, turn: str | None = None
    ) -> tuple[StopState, str]:
        """Stop a turn; without ``turn`` the running one. See `Ledger.stop`."""

    async def latest(self, conversation: Conversation) -> Cursor:
        """Return the position of the newest event."""

    async def snapshot(self, conversation: Conversation) -> Snapshot:
        """Return the conversation's current state."""

    async def history(self, conversation: Conversation, before: str, limit: int) -> HistoryPage:
        """Return the history entries before a position. See `Ledger.history`."""

    async def members(self, conversation: Conversation) -> frozenset[str]:
        """Return the people who have written to the conversation; empty when it is new."""

    def export(self, tenant: str, person: str) -> AsyncGenerator[Export, None]:
        """Return everything that is stored about a person."""

    async def erase(self, tenant: str, person: str) -> Erasure:
        """Erase everything that is stored about a person. See `Ledger.erase`."""

    def skills(self) -> dict[str, str]:
        """Return the skills' descriptions by name."""


class Channel(Protocol):
    """A bridge to one platform. Lives as long as the server."""

    async def start(self, service: ConversationService) -> None: ...

    async def close(self) -> None: ...

    def routes(self) -> "Iterable[web.RouteDef]":
        """Return the HTTP routes that the platform calls. The network can reach them: each handler
        declares with `requires` or `public` who may call it, or the server does not start."""


class ConversationAccess:
    """One person's access to one conversation.

    Members are the people who have written to it. A conversation without members is open to any
    person who names it, until the first message is written: `ConversationService.accept` decides
    whose that is. A person who is not a member sees nothing of another's.
    """

    def __init__(
        self, service: ConversationService, conversation: Conversation, person: str
    ) -> None:
        self.conversation = conversation
        self.person = person
        self._is_member = False
        self._service = service

    async def check_membership(self) -> None:
        """Read the members. Raises `Forbidden` when there are some and the person is not one."""
        members = await self._service.members(self.conversation)
        check_member(self.conversation, self.person, members)
        self._is_member = self.person in members

    async def snapshot(self) -> Snapshot:
        """Return the conversation's state. Raises `Forbidden`."""
        await self.check_membership()
        snapshot = await self._service.snapshot(self.conversation)
        if not self.allows_snapshot(snapshot):  # another person has written in the meantime
            raise not_a_member(self.conversation)
        return snapshot

    async def history(self, before: str, limit: int) -> HistoryPage:
        """Return a page of the conversation's history. Raises `Forbidden`."""
        await self.check_membership()
        if not self._is_member:  # nobody has written
            return HistoryPage(history=())
        return await self._service.history(self.conversation, before, limit)

    async def stop(self, turn: str | None) -> tuple[StopState, str]:
        """Stop a turn, see `Ledger.stop`. Raises `Forbidden`."""
        await self.check_membership()
        if not self._is_member:  # nobody has written; another person may before the stop arrives
            return "unknown", ""
        return await self._service.stop(self.conversation, turn)

    def allows_event(self, event: Event) -> bool:
        """Return whether the person may see an event: their own first message, and all after it."""
        if not self._is_member:
            self._is_member = isinstance(event, Received) and event.person == self.person
        return self._is_member

    def allows_snapshot(self, snapshot: Snapshot) -> bool:
        """Return whether the person may see the conversation's state at the start: the state of a
        member, or one without any entry. A part of the history need not show who is a member."""
        self._is_member = self._is_member or self.person in _people(snapshot)
        return self._is_member or not (snapshot.history or snapshot.earlier or snapshot.pending)

    def allows_reset(self, snapshot: Snapshot) -> bool:
        """Return whether the person may see a state that replaces an earlier one.

        An erasure may have ended the membership. When ``snapshot`` does not show it, the person
        must connect again, which checks it again.
        """
        self._is_member = False
        return self.allows_snapshot(snapshot)


def _people(snapshot: Snapshot) -> set[str]:
    people = {entry.person for entry in snapshot.history if entry.role == "user"}
    return people | {message.person for turn in snapshot.pending for message in turn.messages}
