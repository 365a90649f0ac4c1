"""Outbox of a conversation: what a channel has posted of it, as the ledger keeps it.

A post is noted before it is sent. When the process dies, or the platform's answer is lost, the next
attempt asks the platform for a message with the post's id before it sends it again.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any
from zlib import crc32

import msgspec

from palaver.errors import Conflict
from palaver.messages import Conversation, new_id
from palaver.platforms.splitting import Part
from palaver.records import Record, RecordStore, outbox_conversation

MAX_POSTED_TURNS = 100
"""Turns whose replies are posted that an outbox remembers."""


class Post(msgspec.Struct, omit_defaults=True):
    """One message of the platform with part of a reply: see `Part`.

    ``is_sent``: it may have been posted; ``message`` is the platform's id for it, empty until it is
    known; ``shown`` a checksum of what it shows. ``notes`` are the platform's own.
    """

    id: str
    start: int = 0
    end: int = 0
    prefix: str = ""
    indent: int = 0
    is_sent: bool = False
    message: str = ""
    shown: int = 0
    notes: dict[str, str] = {}

    @property
    def part(self) -> Part:
        return Part(self.start, self.end, self.prefix, self.indent)

    def start_again(self) -> "Post":
        """Forget the message, so that another one is posted. Return the post as it was."""
        before = msgspec.structs.replace(self)
        self.id, self.message, self.is_sent, self.shown, self.notes = new_id(), "", False, 0, {}
        return before

    def set_part(self, part: Part) -> None:
        self.start, self.end, self.prefix, self.indent = part


class OpenTurn(msgspec.Struct, omit_defaults=True):
    """Turn whose reply is not posted completely. ``files`` are the posts of its attachments,
    ``deleted`` the posts whose messages show nothing of it any more, and are to be deleted;
    ``settled_at`` is when an owner first saw that the turn is over, in seconds since the epoch."""

    turn: str
    posts: list[Post] = []
    files: list[Post] = []
    deleted: list[Post] = []
    settled_at: float = 0.0


class OutboxContent(msgspec.Struct, omit_defaults=True):
    """Value of the record. ``cursor``: the place in the stream from which all turns are posted.
    ``problem`` is set when the platform refuses posts for good, until a reply is posted after all.
    ``failures`` counts attempts that failed as nobody foresaw, since a reply was posted."""

    cursor: str = ""
    posted: list[str] = []
    open: list[OpenTurn] = []
    problem: str = ""
    failures: int = 0


_decode = msgspec.json.Decoder(OutboxContent).decode
encode_content = msgspec.json.Encoder().encode


def decode_content(record: Record) -> OutboxContent:
    return _decode(record.value) if record.value else OutboxContent()


class OutboxLost(Exception):
    """Another process owns the outbox now, or it is deleted."""


class Outbox:
    """An outbox that this process owns until its lease ends."""

    def __init__(self, records: RecordStore, record: Record, lease: float) -> None:
        self.conversation: Conversation = outbox_conversation(record.key)
        self.content = decode_content(record)
        self._records = records
        self._record = record
        self._lease = lease
        self._lock = asyncio.Lock()
        self._renewed_at = asyncio.get_running_loop().time()

    def turn(self, turn: str) -> OpenTurn:
        """Return what is posted of a turn; begins with nothing."""
        for each in self.content.open:
            if each.turn == turn:
                return each
        self.content.open.append(OpenTurn(turn))
        return self.content.open[-1]

    def close_turn(self, turn: str) -> None:
        """Note that the reply is posted completely."""
        content = self.content
        content.open = [each for each in content.open if each.turn != turn]
        content.posted = [*content.posted, turn][-MAX_POSTED_TURNS:]
        content.problem, content.failures = "", 0

    def restore(self) -> None:
        """Forget what is changed and not stored: it may be what cannot be stored."""
        self.content = decode_content(self._record)

    async def save(self) -> None:
        """Store the content, and renew the lease. Raises `OutboxLost`."""
        await self._write(self._lease)

    async def hold(self) -> None:
        """Renew the lease when half of it is over: this process may have stood still for so long
        that another one owns the outbox. Raises `OutboxLost`."""
        if asyncio.get_running_loop().time() > self._renewed_at + self._lease / 2:
            await self.save()

    async def finish(self, *, retry_in: float | None = None) -> bool:
        """Store the content and give the outbox up; it is due again after ``retry_in`` seconds.
        Return whether it is due at once, because it was woken meanwhile. Raises `OutboxLost`."""
        record = await self._write(retry_in)
        return retry_in is None and record.due_at is not None

    async def keep_during(self, work: Coroutine[Any, Any, None]) -> None:
        """Await ``work``, and renew the lease meanwhile. Raises `OutboxLost`, and what ``work``
        raises."""
        tasks = asyncio.create_task(work), asyncio.create_task(self._keep())
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await (tasks[0] if tasks[0] in done else tasks[1])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            await self.save()

    async def _write(self, due_in: float | None) -> Record:
        async with self._lock:
            record = self._record
            asked_at = asyncio.get_running_loop().time()
            try:
                self._record = await self._records.write_record(
                    self.conversation.channel,
                    record.key,
                    encode_content(self.content),
                    expect=record.version,
                    due_in=due_in,
                )
            except Conflict as error:
                raise OutboxLost(record.key) from error
            self._renewed_at = asked_at
            return self._record


def new_post(part: Part) -> Post:
    post = Post(id=new_id())
    post.set_part(part)
    return post


def checksum(text: str) -> int:
    """Return a checksum of a text, never 0."""
    return crc32(text.encode(errors="surrogatepass")) or 1
