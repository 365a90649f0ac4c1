"""A chat platform in memory, with the faults of real ones."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal, TypeVar

from palaver.messages import Conversation
from palaver.platforms.incoming import Source
from palaver.platforms.platform import (
    AlreadyPosted,
    MessageGone,
    NotEditable,
    OutgoingPost,
    PostFull,
    PostTooLong,
    RateLimited,
    Refused,
    Unreachable,
)
from palaver.platforms.rendering import Dialect
from palaver.replies import TurnReply

T = TypeVar("T")
Fault = Literal["lost", "down", "limited", "refused", "uneditable", "hang", "blind"]
"""``lost``: the call is done, but its answer is lost; ``down``: neither; ``hang``: it is done, and
no answer ever comes; ``blind``: nothing is found."""


class Board:
    """Messages that people see, by conversation. ``faults`` maps a kind of call and its number
    (1, 2, 3, …) to what goes wrong with it. ``max_edits``: then a post is full, until its reply is
    over. ``true_length``: what really fits into a post, if that is less than ``max_length``.
    ``recognizes_posts``: a post is not posted twice."""

    dialect = Dialect()

    def __init__(
        self, *, max_length: int = 500, edit_interval: float = 0.0, max_edits: int = 1_000_000
    ) -> None:
        self.max_length = max_length
        self.edit_interval = edit_interval
        self.max_edits = max_edits
        self.true_length = max_length
        self.recognizes_posts = False
        self.edits: Counter[str] = Counter()
        self.messages: dict[str, dict[str, str]] = {}
        self.faults: dict[tuple[str, int], Fault] = {}
        self.calls: list[str] = []
        self.progress: list[str] = []
        """Turns of which progress is shown."""
        self.waiting_text = ""
        self.contents: list[bytes] = []
        """Of the files."""
        self.last: list[bool] = []
        """Whether each file was the last post of its reply."""
        self.note = ""
        """What every post notes."""
        self.noted: list[str] = []
        """What the first attempt to post each file has noted for the second one."""
        self.notices: list[tuple[str, str]] = []
        self.hanging = asyncio.Event()
        self._called = asyncio.Event()
        self._ids: dict[str, str] = {}

    async def wait_until_hanging(self) -> None:
        """Wait for the next call that hangs. Raises `TimeoutError` after 5 seconds."""
        async with asyncio.timeout(5):
            await self.hanging.wait()
        self.hanging.clear()

    def shown(self, conversation: Conversation) -> list[str]:
        return list(self.messages.get(str(conversation), {}).values())

    def length(self, text: str) -> int:
        return len(text)

    def closing_text(self, reply: TurnReply) -> str:
        if reply.problem:
            return f"Failed: {reply.problem.message}"
        return "*stopped*" if reply.outcome == "stopped" else ""

    async def create(self, post: OutgoingPost) -> str:
        def create() -> str:
            self._check_length(post)
            if self.recognizes_posts and post.id in self._ids:
                raise AlreadyPosted(self._ids[post.id])
            messages = self.messages.setdefault(str(post.conversation), {})
            message = f"m{sum(map(len, self.messages.values())) + 1}-{post.id[:4]}"
            messages[message] = post.text
            if file := post.attachment:
                messages[message] = f"[{file.name}]"
                self.contents.append(post.content)
                self.last.append(post.is_last)
            self._ids[post.id] = message
            return message

        self._add_note(post)
        if post.attachment:
            post.notes["file"] = post.attachment.name
            await post.save_notes()
        return await self._call("create", create)

    def _add_note(self, post: OutgoingPost) -> None:
        if self.note:
            post.notes["note"] = self.note

    async def edit(self, post: OutgoingPost) -> None:
        self._add_note(post)

        def edit() -> None:
            self._check_length(post)
            messages = self.messages[str(post.conversation)]
            if post.message not in messages:
                raise MessageGone("deleted")
            self._check_full(post, messages[post.message])
            messages[post.message] = post.text

        await self._call("edit", edit)

    def _check_length(self, post: OutgoingPost) -> None:
        assert len(post.text) <= self.max_length
        if len(post.text) > self.true_length:
            self.max_length //= 2
            raise PostTooLong("too long")

    def _check_full(self, post: OutgoingPost, shown: str) -> None:
        """Raise `PostFull` for the last post of a reply that goes on, after enough edits."""
        self.edits[post.id] += 1
        is_growing = post.is_last and post.reply.outcome is None
        if is_growing and self.edits[post.id] > self.max_edits:
            raise PostFull(os.path.commonprefix([shown, post.text]))  # noqa: RUF071  of characters

    async def delete(self, post: OutgoingPost) -> None:
        def delete() -> None:
            if self.messages[str(post.conversation)].pop(post.message, None) is None:
                raise MessageGone("deleted")

        await self._call("delete", delete)

    async def find(self, post: OutgoingPost) -> str:
        if note := post.notes.get("file"):
            self.noted.append(note)

        def find() -> str:
            is_blind = self.faults.get(("find", self.calls.count("find"))) == "blind"
            return "" if is_blind else self._ids.get(post.id, "")

        return await self._call("find", find)

    def placeholder(self, conversation: Conversation, reply: TurnReply) -> str:
        return self.waiting_text

    async def notify(self, source: Source, text: str) -> None:
        self.notices.append((source.person, text))

    async def show_progress(self, conversation: Conversation, reply: TurnReply) -> None:
        if reply.turn not in self.progress:
            self.progress.append(reply.turn)
        self._note_call("show_progress")

    async def end_progress(self, conversation: Conversation, reply: TurnReply) -> None:
        def end() -> None:
            if reply.turn in self.progress:
                self.progress.remove(reply.turn)

        await self._call("end_progress", end)

    def _note_call(self, name: str) -> None:
        self.calls.append(name)
        self._called.set()

    @asynccontextmanager
    async def next_call(self, *names: str) -> AsyncIterator[None]:
        """After the block, wait until one of these calls is made. Raises `TimeoutError` after 5
        seconds."""
        seen = len(self.calls)
        yield
        async with asyncio.timeout(5):
            while not set(self.calls[seen:]) & set(names):
                self._called.clear()
                await self._called.wait()

    async def _call(self, name: str, action: Callable[[], T]) -> T:
        self._note_call(name)
        await asyncio.sleep(0)
        fault = self.faults.get((name, self.calls.count(name)))
        if fault == "refused":
            raise Refused("the channel is archived")
        if fault == "limited":
            raise RateLimited(0.01)
        if fault == "uneditable":
            raise NotEditable("it is too old")
        if fault == "down":
            raise Unreachable("no connection")
        result = action()
        if fault == "lost":
            raise Unreachable("the answer is lost")
        if fault == "hang":
            self.hanging.set()
            await asyncio.Event().wait()
        return result
