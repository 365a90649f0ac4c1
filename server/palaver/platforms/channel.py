"""PlatformChannel: the base class of a channel on a chat platform.

A subclass receives what people do on its platform, makes an `IncomingMessage` of it and awaits
`PlatformChannel.receive`, which stores it before it returns. Its `Platform` posts the replies;
`Poster` decides when and what. docs/write-a-channel.md shows a complete channel.
"""

import asyncio
import contextlib
import hashlib
import logging
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from palaver.channels import ConversationService
from palaver.errors import (
    CallerError,
    ConfigurationError,
    Conflict,
    Forbidden,
    NotFound,
    PalaverError,
    TooLarge,
    TooMany,
)
from palaver.feedback import Feedback, Rating
from palaver.ledger import Receipt, Snapshot, StopState
from palaver.messages import Attachment, Conversation, Message, Question
from palaver.metrics import IgnoredReason
from palaver.platforms.calls import Times
from palaver.platforms.connection import Connection, ConnectionTimes
from palaver.platforms.controls import parse_button
from palaver.platforms.incoming import IncomingFile, IncomingMessage, Source
from palaver.platforms.keyed_locks import KeyedLocks
from palaver.platforms.platform import Platform, PostingError
from palaver.platforms.policy import AccessPolicy, ChannelSettings
from palaver.platforms.poster import Poster

if TYPE_CHECKING:  # only channels with HTTP routes load aiohttp
    from aiohttp import web

MAX_KNOWN = 1_000
"""Messages, and strangers, that a channel remembers."""
PATIENCE_SECONDS = 60.0
"""A person who has to wait for longer is told so; the platform would not deliver again so late."""
NOTICE_SECONDS = 60.0
"""Time after which a stranger is told again how to be approved: platforms deliver messages again,
and one message as several events."""
PAIRING_TEXT = (
    "I do not know you yet. Ask the people who run this bot to approve you with this code: {code}"
)
NOT_YOURS = "Only the person who asked for this may approve or deny it."
PAIRING_FULL = "I do not know you yet, and too many people wait for approval. Try again later."

log = logging.getLogger(__name__)


class PlatformChannel:
    """Channel on a chat platform, see `palaver.channels.Channel`."""

    name: ClassVar[str]
    """The channel's name: that of its backend, and of its conversations."""
    start_delay: ClassVar[float] = 0.3
    """Seconds for which a message with an `IncomingMessage.order` waits before its turn begins: one
    that was written before it may still arrive."""
    times = Times()
    connection_times = ConnectionTimes()
    redelivers: ClassVar[bool] = True
    """Whether the platform delivers a message again that was not stored, and others meanwhile. If
    not, a person who writes too much is told so at once: nobody waits for them."""
    service: ConversationService
    policy: AccessPolicy

    def __init__(self, settings: ChannelSettings, platform: Platform) -> None:
        self.settings = settings
        self.platform = platform
        self._problem = ""
        self._poster: Poster | None = None
        self._connection: Connection | None = None
        self._locks = KeyedLocks()
        self._received: OrderedDict[str, Receipt | None] = OrderedDict()
        """The messages that were received last here; None: they are not answered."""
        self._told: OrderedDict[tuple[str, str], float] = OrderedDict()
        """When strangers were told how to be approved, by the loop's clock."""

    @property
    def problem(self) -> str:
        """Return a sentence while the channel does not work, else nothing. A subclass sets what it
        finds; why there is no connection, and why nothing can be posted, is found here."""
        parts = (self._connection, self._poster)
        problems = (self._problem, *(part.problem for part in parts if part is not None))
        return next(filter(None, problems), "")

    @problem.setter
    def problem(self, problem: str) -> None:
        self._problem = problem

    # What a subclass may override

    async def connect(self) -> None:
        """Receive until the connection ends. It is called again after a pause, unless it raises
        `ConfigurationError`. For platforms that call the server, `routes` is enough."""
        await asyncio.Event().wait()

    def routes(self) -> "Iterable[web.RouteDef]":
        """See `palaver.channels.Channel.routes`."""
        return ()

    async def probe(self) -> None:
        """Ask the platform whether the settings work, without starting the channel. Raises
        `ConfigurationError`, and a `PostingError` when the platform cannot be asked."""

    async def check(self) -> Sequence[str]:
        """See `palaver.channels.CheckableChannel.check`; override it to tell more than the first
        problem."""
        try:
            await self.probe()
        except (ConfigurationError, PostingError) as error:
            return [str(error)]
        return []

    # Lifetime

    async def start(self, service: ConversationService) -> None:
        self.service = service
        self.policy = AccessPolicy(self.settings, service.records, self.name)
        self._poster = Poster(service, self.name, self.platform, times=self.times)
        self._poster.start()
        self._connection = Connection(self.name, self.connect, self.connection_times)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
        if self._poster is not None:
            await self._poster.close()

    # What people do. Each but `withdraw` asks the access policy first, and raises
    # `LedgerUnavailable`.

    async def receive(self, message: IncomingMessage) -> Receipt | None:
        """Store a message and have it answered; acknowledge to the platform only after this.

        Returns None for a message that is not answered: the access policy refuses it, or it cannot
        be accepted as it is, which the person is told. Raises `Overloaded`, `TooMany`,
        `FilesUnavailable` and `LedgerUnavailable`: let the platform deliver it again.
        """
        key = self._key(message.source.conversation(self.name), message.id)
        async with self._locks.hold(key):  # it may be delivered again while its files are stored
            if key in self._received:
                known = self._received[key]
                return known and msgspec.structs.replace(known, duplicate=True)
            receipt = self._received[key] = await self._accept(message)
            _forget_oldest(self._received)
        if receipt is not None and self._poster is not None:
            self._poster.wake()
        return receipt

    async def _accept(self, message: IncomingMessage) -> Receipt | None:
        source = message.source
        if not await self.is_allowed(source, asks=True):
            return None
        if source.is_bot and not await self.policy.admits_bot(source, message.id):
            log.info("bots have written too often to %s", source.conversation(self.name))
            self.service.channel_metrics.ignored(self.name, "bots")
            return None
        try:
            return await self._store(message)
        except TooMany as error:
            passes = error.retry_after is not None and error.retry_after < PATIENCE_SECONDS
            if passes and self.redelivers:
                raise
            await self.refuse(source, error)
            return None
        except Conflict:  # accepted before, and edited since then or with its files stored again
            return None
        except (CallerError, PostingError) as error:
            await self.refuse(source, error)
            return None

    async def _store(self, message: IncomingMessage) -> Receipt:
        source = message.source
        return await self.service.accept(
            Message(
                conversation=source.conversation(self.name),
                id=message.id,
                person=source.person,
                text=message.text,
                skill=message.skill,
                arguments=dict(message.arguments),
                attachments=await self._store_files(message),
                order=message.order,
                answers=message.answers,
            ),
            members_only=False,  # the platform decides who may write to a conversation
            outbox=True,
            start_delay=self.start_delay if message.order else 0.0,
        )

    async def _store_files(self, message: IncomingMessage) -> tuple[Attachment, ...]:
        if not message.files:
            return ()
        limits = self.service.file_limits()
        if limits is None:
            raise Forbidden("files cannot be sent here")
        if len(message.files) > limits.per_message:
            raise TooLarge(f"a message may have {limits.per_message} files, not more")
        return tuple([await self._store_file(message.source, file) for file in message.files])

    async def _store_file(self, source: Source, file: IncomingFile) -> Attachment:
        return await self.service.store_file(
            source.tenant, source.person, file.name, file.read(), length=file.size or None
        )

    async def edit(self, source: Source, id: str, text: str) -> bool:
        """Replace the text of a message that was received before. Return False when it is not
        stored, or its turn has begun: then it stays as it was."""
        if not await self.is_allowed(source):
            return False
        conversation = source.conversation(self.name)
        async with self._locks.hold(self._key(conversation, id)):
            try:
                return await self.service.change_waiting(conversation, id, text)
            except CallerError as error:
                await self.refuse(source, error)
                return False

    async def withdraw(self, conversation: Conversation, id: str) -> bool:
        """Remove a message that was deleted on the platform. Return False when it is not stored, or
        its turn has begun. The access policy has no say: the words are to be gone."""
        async with self._locks.hold(self._key(conversation, id)):
            return await self.service.change_waiting(conversation, id, None)

    def _key(self, conversation: Conversation, id: str) -> str:
        return f"{conversation}/{id}"

    async def press(self, source: Source, data: str) -> None:
        """Do what a button means, see `palaver.platforms.controls`."""
        pressed = parse_button(data)
        if pressed is None:
            log.info("a button of the channel %s has unknown data", self.name)
            return
        action, turn, number = pressed
        if action == "stop":
            await self.stop(source, turn)
        elif action == "option":
            await self.choose(source, turn, number)
        else:
            await self.rate(source, turn, action)

    async def choose(self, source: Source, turn: str, number: int) -> Receipt | None:
        """Answer the question of a turn with one of its options, as a button does. A question has
        one answer: pressing again changes nothing."""
        if not await self.is_allowed(source):
            return None
        conversation = source.conversation(self.name)
        snapshot = await self.service.snapshot(conversation)
        question = _question(snapshot, turn)
        approval = question.approval if question is not None else None
        answer = _approval_answer(approval.id, source) if approval else f"{turn}.answer"
        is_open = _is_last(snapshot, turn) or _waits(snapshot, answer)
        if approval:
            if source.person not in _askers(snapshot, turn):
                await self.notify(source, NOT_YOURS)
                return None
            # The question waits while others write.
            is_open = is_open or not _has_written_since(snapshot, turn, source.person)
        if question is not None and 0 <= number < len(question.options) and is_open:
            return await self.receive(
                IncomingMessage(
                    source=source,
                    id=answer,
                    text=question.options[number],
                    answers=approval.id if approval else "",
                )
            )
        if self._key(conversation, answer) not in self._received:
            await self.notify(source, "This question is no longer open.")
        return None

    async def stop(self, source: Source, turn: str | None = None) -> StopState:
        """Stop a turn; without ``turn`` the running one."""
        if not await self.is_allowed(source):
            return "unknown"
        state, _ = await self.service.stop(source.conversation(self.name), turn)
        return state

    async def rate(self, source: Source, turn: str, rating: Rating) -> bool:
        """Store what the person thinks of a reply. Return False when they may not rate it."""
        if not await self.is_allowed(source):
            return False
        feedback = Feedback(turn=turn, rating=rating)
        try:
            await self.service.rate(source.conversation(self.name), source.person, feedback)
        except NotFound:
            await self.notify(source, "Only people who have written here can rate this reply.")
            return False
        return True

    async def is_allowed(self, source: Source, *, asks: bool = False) -> bool:
        """Return whether the person may talk to the bot here. One who ``asks`` for it by a message
        is told how to be approved."""
        verdict = await self.policy.decide(source)
        if verdict == "allowed":
            return True
        if asks:
            reason: IgnoredReason = "unpaired" if verdict == "unpaired" else "policy"
            self.service.channel_metrics.ignored(self.name, reason)
        if asks and verdict == "unpaired":
            await self._tell_stranger(source)
        return False

    async def _tell_stranger(self, source: Source) -> None:
        """Tell a person how to be approved."""
        now = asyncio.get_running_loop().time()
        person = source.tenant, source.person
        if now < self._told.get(person, -math.inf) + NOTICE_SECONDS:
            return
        code = await self.policy.pairings.request(*person)
        self._told[person] = now
        _forget_oldest(self._told)
        await self.notify(source, PAIRING_TEXT.format(code=code) if code else PAIRING_FULL)

    async def refuse(self, source: Source, error: PalaverError | PostingError) -> None:
        """Tell a person why their message is not accepted. A bot might answer."""
        if not source.is_bot:
            await self.notify(source, _public(error))

    async def notify(self, source: Source, text: str) -> None:
        """Tell a person something that is no reply; when it fails, it is not repeated."""
        with contextlib.suppress(PostingError, ConfigurationError):
            await self.platform.notify(source, text)


def _public(error: PalaverError | PostingError) -> str:
    if isinstance(error, TooMany) and error.reason == "inbox":
        return TooMany.public_message  # the error names the conversation as the ledger does
    if isinstance(error, PalaverError):
        return error.public
    return "A file of your message could not be read from the platform. Send it again."


def _forget_oldest(known: OrderedDict[Any, Any]) -> None:  # Any: the values are not looked at
    while len(known) > MAX_KNOWN:
        known.popitem(last=False)


def _question(snapshot: Snapshot, turn: str) -> Question | None:
    """Return the question of a turn; None where it has asked nothing."""
    for entry in snapshot.history:
        if entry.turn == turn and entry.role == "assistant" and entry.question:
            return entry.question
    return None


def _askers(snapshot: Snapshot, turn: str) -> set[str]:
    """Return who has written the message of a turn, or of the turns whose question it answers: one
    of them may approve, and the server knows who."""
    people: set[str] = set()
    is_asked = False
    for entry in reversed(snapshot.history):
        is_asked = entry.turn == turn or (is_asked and entry.outcome in (None, "asked"))
        if is_asked and entry.role == "user":
            people.add(entry.person)
    return people


def _approval_answer(approval: str, source: Source) -> str:
    """Return the id of a person's message that answers an approval."""
    return f"{approval}.{hashlib.sha256(source.person.encode()).hexdigest()[:32]}"


def _is_last(snapshot: Snapshot, turn: str) -> bool:
    """Return whether nobody has written since the turn."""
    return not snapshot.pending and snapshot.history[-1].turn == turn


def _has_written_since(snapshot: Snapshot, turn: str, person: str) -> bool:
    """Return whether a person has written since the turn."""
    turns = [entry.turn for entry in snapshot.history]
    later = snapshot.history[len(turns) - turns[::-1].index(turn) :]
    people = {entry.person for entry in later}
    people |= {message.person for pending in snapshot.pending for message in pending.messages}
    return person in people


def _waits(snapshot: Snapshot, message: str) -> bool:
    """Return whether a message is accepted and its turn not settled."""
    return any(each.id == message for turn in snapshot.pending for each in turn.messages)
