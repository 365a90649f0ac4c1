"""Channels: bridges to platforms, and the service that the server offers to them."""

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from palaver.authentication import Principal
from palaver.branches import no_alternative
from palaver.concurrency import check_member, not_a_member
from palaver.conversations import ConversationFilter, ConversationList
from palaver.engine import ChatMessage, EngineInfo
from palaver.errors import ConfigurationError
from palaver.feedback import Feedback
from palaver.knowledge import Document, DocumentInfo
from palaver.ledger import Erasure, Export, HistoryPage, Receipt, Snapshot, StopState
from palaver.messages import Attachment, Conversation, Cursor, Event, FileLimits, Message, Received
from palaver.metrics import ChannelMetrics
from palaver.records import RecordStore
from palaver.seals import Seals
from palaver.streams.subscriptions import Drain, Subscriber, Subscription

if TYPE_CHECKING:  # only channels with HTTP routes load aiohttp
    from aiohttp import web


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ToolDescription:
    """A registered tool, as a channel offers it to programs. ``json_schema`` is that of the
    arguments, ``result_schema`` that of a result that is a JSON object, where the tool declares
    one. The other properties are those of `Tool`."""

    name: str
    description: str
    json_schema: Mapping[str, Any]  # a JSON Schema document
    result_schema: Mapping[str, Any] | None = None  # a JSON Schema document
    idempotent: bool = False
    read_only: bool = False
    untrusted: bool = False


class ConversationService(Protocol):
    """The server as a channel uses it."""

    engine_info: EngineInfo
    """The engine's model and what it can do."""

    def authenticate(self, request: "web.Request") -> Principal:
        """Return the owner of a request's key.

        For routes that take the server's own keys, which `requires` declares; their handlers run
        only after the check. A platform's callbacks have their own proof.
        """

    records: RecordStore
    """Durable records of channels."""

    channel_metrics: ChannelMetrics
    """Counters of channels on chat platforms."""

    async def accept(
        self,
        message: Message,
        *,
        members_only: bool = True,
        outbox: bool = False,
        start_delay: float = 0.0,
    ) -> Receipt:
        """Store the message and queue its turn. Acknowledge to the platform only after this.

        ``members_only``: a conversation that has members accepts messages of no one else. False
        where the platform decides who may write to a conversation, such as a group's. ``outbox``:
        the step wakes the conversation's outbox, for a channel that posts replies. ``start_delay``:
        seconds for which the turn waits, for a channel whose platform may deliver messages in
        another order than that of their `Message.order`.

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
        stored_only: bool = False,
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

    async def change_waiting(
        self, conversation: Conversation, message: str, text: str | None
    ) -> bool:
        """Replace the text of a message that waits; None removes it, with its files. Return False
        when its turn has begun. See `Ledger.change_waiting`."""

    async def select(self, conversation: Conversation, turn: str) -> None:
        """Make an alternative part of the history. See `Ledger.select`."""

    async def revise(self, conversation: Conversation, person: str, turn: str, text: str) -> None:
        """Replace the text of the person's message in the history, without another reply. See
        `Ledger.revise`."""

    async def latest(self, conversation: Conversation) -> Cursor:
        """Return the position of the newest event."""

    async def snapshot(self, conversation: Conversation) -> Snapshot:
        """Return the conversation's current state."""

    async def history(self, conversation: Conversation, before: str, limit: int) -> HistoryPage:
        """Return the history entries before a position. See `Ledger.history`."""

    async def list_conversations(
        self, tenant: str, person: str, filter: ConversationFilter, *, before: str = "", limit: int
    ) -> ConversationList:
        """Return the conversations to which a person has written, newest first. See
        `ConversationStore.list_conversations`."""

    async def members(self, conversation: Conversation) -> frozenset[str]:
        """Return the people who have written to the conversation; empty when it is new."""

    def export(self, tenant: str, person: str) -> AsyncGenerator[Export, None]:
        """Return everything that is stored about a person."""

    async def erase(
        self, tenant: str, person: str, conversation: Conversation | None = None
    ) -> Erasure:
        """Erase everything that is stored about a person. See `Ledger.erase`."""

    async def store_file(
        self,
        tenant: str,
        person: str,
        name: str,
        pieces: AsyncIterator[bytes],
        *,
        length: int | None = None,
    ) -> Attachment:
        """Store a file that a person sends, and return it for `Message.attachments`.

        Raises `FileTooLarge`, `TooMany`, `Overloaded`, `InvalidInput` for an empty file, and
        `FilesUnavailable`.
        """

    async def read_file(self, conversation: Conversation, attachment: Attachment) -> bytes:
        """Return the content of a file of the conversation, also of a ``data:`` URL.

        Raises `NotFound` when it was deleted, `InvalidInput` for another address.
        """

    def file_limits(self) -> FileLimits | None:
        """Return the limits of files; None: nobody may send any."""

    async def rate(self, conversation: Conversation, person: str, feedback: Feedback) -> Feedback:
        """Store what a person thinks of a reply, and return it as it is stored. Raises as
        `FeedbackStore.give_feedback`."""

    def skills(self) -> dict[str, str]:
        """Return the skills' descriptions by name."""

    def prompts(self, skill: str) -> tuple[str, ...]:
        """Return messages that a person may begin with."""

    def argument_schema(self, skill: str) -> dict[str, Any]:  # a JSON Schema document
        """Return the JSON schema of a skill's arguments."""

    def tools(self) -> dict[str, ToolDescription]:
        """Return the registered tools by name. `ToolSkill` runs one, in a turn."""

    async def documents(self, tenant: str) -> tuple[DocumentInfo, ...]:
        """Return the tenant's documents in the knowledge base."""

    async def read_document(self, tenant: str, document: str) -> Document | None:
        """Return a document of the tenant by its id; None: there is none, or the knowledge base is
        no `DocumentStore`."""

    def seals(self, purpose: str) -> Seals:
        """Return what seals texts that clients keep, with a key for the ``purpose`` that all
        replicas share."""

    def models(self) -> Mapping[str, EngineInfo | None]:
        """Return what each model can do, by the name by which programs choose it, see
        `ProgramRequest.model`: the default one first. None: it has not started yet."""

    def engine_of_skill(self, skill: str) -> EngineInfo:
        """Return the engine of the model that writes for a skill. Raises `EngineUnavailable` until
        it has started."""

    def image_skills(self) -> frozenset[str]:
        """Return the names of the skills that see images; none where the engine sees none."""

    def client_tool_skills(self) -> frozenset[str]:
        """Return the names of the skills that call tools of a program, see
        `Skill.calls_client_tools`; none where the engine calls none."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector of unit length per text, with the engine's capability ``embed``."""

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """Return the number of prompt tokens of ``messages``. See `Engine.count_tokens`."""


class Channel(Protocol):
    """A bridge to one platform. Lives as long as the server."""

    async def start(self, service: ConversationService) -> None:
        """Open the channel. With `ConfigurationError` it stays closed, and the rest of the server
        runs."""

    async def close(self) -> None: ...

    def routes(self) -> "Iterable[web.RouteDef]":
        """Return the HTTP routes that the platform calls. The network can reach them: each handler
        declares with `requires` or `public` who may call it, or the server does not start."""


@runtime_checkable
class CheckableChannel(Channel, Protocol):
    """A channel that depends on what another service thinks of its settings."""

    async def check(self) -> Sequence[str]:
        """Return a sentence for each thing that keeps the channel from working, such as a token
        that the platform refuses. It asks the platform, without starting the channel."""


@runtime_checkable
class ReportingChannel(Channel, Protocol):
    """A channel that says how it is while it runs."""

    problem: str
    """A sentence while the channel does not work; empty while it does."""


def missing_library(error: ImportError) -> ConfigurationError:
    return ConfigurationError(f"a library that the channel needs is not installed: {error}")


class BrokenChannel:
    """A channel that cannot be built. It is a `CheckableChannel`, and stays closed."""

    def __init__(self, problem: str) -> None:
        self._problem = problem

    async def check(self) -> Sequence[str]:
        return self._problem.splitlines()

    async def start(self, service: ConversationService) -> None:
        raise ConfigurationError(self._problem)

    async def close(self) -> None: ...

    def routes(self) -> "Iterable[web.RouteDef]":
        return ()


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
        page = await self._service.history(self.conversation, before, limit)
        return page if self._is_member else HistoryPage(history=())  # nobody had written

    async def stop(self, turn: str | None) -> tuple[StopState, str]:
        """Stop a turn, see `Ledger.stop`. Raises `Forbidden`."""
        await self.check_membership()
        if not self._is_member:  # nobody has written; another person may before the stop arrives
            return "unknown", ""
        return await self._service.stop(self.conversation, turn)

    async def select(self, turn: str) -> None:
        """Make an alternative part of the history, see `Ledger.select`. Raises `Forbidden`."""
        await self.check_membership()
        if not self._is_member:  # nobody has written
            raise no_alternative(turn)
        await self._service.select(self.conversation, turn)

    async def revise(self, turn: str, text: str) -> None:
        """Replace the text of the person's message, see `Ledger.revise`. Raises `Forbidden`."""
        await self.check_membership()
        await self._service.revise(self.conversation, self.person, turn, text)

    async def is_member(self) -> bool:
        """Return whether the person has written to the conversation."""
        await self.check_membership()
        return self._is_member

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
