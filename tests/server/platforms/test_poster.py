"""Replies are posted once each, in order and whole, whatever happens."""

import asyncio
import base64
import contextlib
import json
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from tests.proofs.virtual_time import VirtualTimeLoop, run_in_virtual_time
from tests.server.platforms.board import Board, Fault
from tests.server.platforms.stores import ledger_in_loop_time

from palaver import QUEUE_ALL, Skill, Turn
from palaver.config.settings import RoutingSettings, ServerSettings, Settings
from palaver.errors import FilesUnavailable
from palaver.messages import Attachment, Conversation, Message, new_id
from palaver.platforms.calls import Times
from palaver.platforms.delivery import MAX_FAILURES
from palaver.platforms.outbox import Outbox, OutboxLost
from palaver.platforms.parking import ParkedConversations
from palaver.platforms.platform import OutgoingPost, RateLimited
from palaver.platforms.poster import Poster
from palaver.platforms.rendering import Dialect, render
from palaver.records import MAX_RECORD_BYTES, Record, outbox_key
from palaver.server import Server
from palaver.testing import ScriptedEngine, ScriptedReply, converse
from palaver.testing.ledger import MemoryLedger

pytestmark = pytest.mark.slow

CHANNEL = "board"
PARAGRAPHS = "\n\n".join(f"{number} paragraph with some more words in it." for number in range(40))


def _file(name: str) -> Attachment:
    url = f"data:text/plain;base64,{base64.b64encode(name.encode()).decode()}"
    return Attachment(name=name, media_type="text/plain", url=url)


class Says(Skill):
    """Say what the message says, in pieces."""

    name = "says"

    async def answer(self, turn: Turn) -> None:
        text = turn.message.text
        if text == "fail":
            raise ValueError("broken")
        if text.startswith("files"):
            for number in range(int(text.removeprefix("files"))):
                turn.attach(_file(f"{number}.txt"))
            return
        for start in range(0, len(text), 40):
            await self.say(turn, text[start : start + 40])

    async def say(self, turn: Turn, piece: str) -> None:
        await turn.say(piece)
        await asyncio.sleep(0)


class Asks(Skill):
    """Say what the model says."""

    name = "asks"

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text)


def waiting_for(board: Board) -> type[Skill]:
    """Return a skill that says each piece once the board has been told of the one before."""

    class Waiting(Says):
        """Say what the message says, in pieces."""

        async def answer(self, turn: Turn) -> None:
            async with board.next_call("show_progress"):
                pass
            await super().answer(turn)

        async def say(self, turn: Turn, piece: str) -> None:
            async with board.next_call("create", "edit"):
                await turn.say(piece)

    return Waiting


class Clock:
    """Clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


START_DELAY = 5.0
TIMES = Times(poll=0.01, progress=0.05, retries=(0.001,) * 4)


class Bot:
    """A server with a channel that posts to a board."""

    def __init__(self, server: Server, board: Board, clock: Clock) -> None:
        self.server = server
        self.board = board
        self.clock = clock
        self.poster = Poster(server, CHANNEL, board, times=TIMES)

    def conversation(self, thread: str = "t") -> Conversation:
        return Conversation("default", CHANNEL, thread)

    async def say(self, text: str, thread: str = "t", *, order: str = "") -> None:
        message = Message(
            conversation=self.conversation(thread),
            id=new_id(),
            person="ada",
            text=text,
            order=order,
        )
        delay = START_DELAY if order else 0.0
        await self.server.accept(message, members_only=False, outbox=True, start_delay=delay)
        self.poster.wake()

    async def until(self, condition: Callable[[Record], bool], thread: str = "t") -> None:
        """Wait until the outbox of a conversation is so."""
        async with asyncio.timeout(10):
            while not condition(await self.outbox(thread)):  # noqa: ASYNC110  a record sets no event
                await asyncio.sleep(0.002)

    async def outbox(self, thread: str = "t") -> Record:
        key = outbox_key(self.conversation(thread))
        record = await self.server.records.read_record(CHANNEL, key)
        assert record is not None
        return record

    async def until_posted(self, thread: str = "t", count: int = 1) -> list[str]:
        """Wait until the replies to ``count`` messages are posted, and return what is shown."""

        def is_posted(record: Record) -> bool:
            content = json.loads(record.value or b"{}")
            return record.due_at is None and len(content.get("posted", [])) >= count

        await self.until(is_posted, thread)
        return self.board.shown(self.conversation(thread))

    async def until_shown(self, thread: str = "t") -> list[str]:
        """Wait until something is shown, and return it."""
        async with asyncio.timeout(10):
            while not (shown := self.board.shown(self.conversation(thread))):  # noqa: ASYNC110  a board sets no event
                await asyncio.sleep(0.002)
        return shown

    async def kill(self) -> None:
        """Replace the poster by another one, after its lease has ended."""
        await self.poster.close()
        self.clock.now += TIMES.lease + 1
        self.poster = Poster(self.server, CHANNEL, self.board, times=TIMES)
        self.poster.start()


@contextlib.asynccontextmanager
async def running(
    board: Board,
    skill: type[Skill] = Says,
    *,
    engine: ScriptedEngine | None = None,
    settings: Settings | None = None,
) -> AsyncIterator[Bot]:
    clock = Clock()
    ledger = MemoryLedger(clock=clock, monotonic=clock)
    async with converse(
        skill, engine=engine or ScriptedEngine(), ledger=ledger, settings=settings
    ) as chat:
        bot = Bot(chat.server, board, clock)
        bot.poster.start()
        try:
            yield bot
        finally:
            await bot.poster.close()


async def test_a_reply_is_posted() -> None:
    async with running(Board()) as bot:
        await bot.say("Hello **there**")
        assert await bot.until_posted() == ["Hello **there**"]
        assert bot.board.calls[0] == "create"


async def test_a_long_reply_is_several_messages() -> None:
    async with running(Board()) as bot:
        await bot.say(PARAGRAPHS)
        shown = await bot.until_posted()
        assert len(shown) > 3
        assert "\n\n".join(shown) == render(PARAGRAPHS, Dialect())


async def test_without_edits_only_whole_replies_are_posted() -> None:
    async with running(Board(edit_interval=float("inf"))) as bot:
        await bot.say(PARAGRAPHS)
        shown = await bot.until_posted()
        assert "\n\n".join(shown) == render(PARAGRAPHS, Dialect())
        assert "edit" not in bot.board.calls


async def test_replies_come_in_the_order_of_the_messages() -> None:
    async with running(Board()) as bot:
        for number in range(5):
            await bot.say(f"Number {number}")
        assert await bot.until_posted(count=5) == [f"Number {number}" for number in range(5)]


async def test_replies_come_in_the_order_of_the_platform() -> None:
    board = Board()
    board.waiting_text = "One moment…"
    async with running(board) as bot:
        async with board.next_call("show_progress"):
            await bot.say("third", order="3")
        await bot.say("first", order="1")
        await bot.say("second", order="2")
        assert board.shown(bot.conversation()) == []
        bot.clock.now += START_DELAY
        assert await bot.until_posted(count=3) == ["first", "second", "third"]


async def test_conversations_do_not_wait_for_each_other() -> None:
    board = Board()
    board.faults["create", 1] = "hang"
    async with running(board) as bot:
        await bot.say("first", "a")
        await board.wait_until_hanging()
        await bot.say("second", "b")
        assert await bot.until_posted("b") == ["second"]


async def test_conversations_whose_turns_wait_do_not_hold_up_those_that_are_answered() -> None:
    async with running(Board()) as bot:
        await bot.poster.close()
        bot.poster = Poster(bot.server, CHANNEL, bot.board, times=TIMES, limit=2)
        bot.poster.start()
        for thread in "abc":
            await bot.say(f"Late {thread}", thread, order="1")
        await bot.say("Hello", "d")
        assert await bot.until_posted("d") == ["Hello"]
        bot.clock.now += START_DELAY
        async with asyncio.timeout(10):
            while (depth := await bot.server.ledger.queue_depth()).queued or depth.running:  # noqa: ASYNC110  a depth sets no event
                await asyncio.sleep(0.002)
        bot.clock.now += TIMES.crowded
        for thread in "abc":
            assert await bot.until_posted(thread) == [f"Late {thread}"]


async def test_a_failed_turn_says_why() -> None:
    async with running(Board()) as bot:
        await bot.say("fail")
        (shown,) = await bot.until_posted()
        assert shown.startswith("Failed: ")


@pytest.mark.parametrize("fault", ["lost", "down", "limited"])
@pytest.mark.parametrize("number", range(1, 6))
async def test_a_fault_neither_loses_nor_doubles(fault: Fault, number: int) -> None:
    board = Board()
    board.faults["create", number] = board.faults["edit", number] = fault
    async with running(board) as bot:
        await bot.say(PARAGRAPHS)
        await bot.say("And more")
        shown = await bot.until_posted(count=2)
        assert "\n\n".join(shown) == render(f"{PARAGRAPHS}\n\nAnd more", Dialect())


@pytest.mark.parametrize("number", range(1, 5))
@pytest.mark.parametrize("second", ["find", "create"])
async def test_other_posters_continue_after_deaths(number: int, second: str) -> None:
    board = Board()
    board.faults["create", number] = "hang"
    async with running(board) as bot:
        await bot.say(PARAGRAPHS)
        await board.wait_until_hanging()
        board.faults[second, board.calls.count(second) + 1] = "hang"
        await bot.kill()
        await bot.say("And more")
        await board.wait_until_hanging()
        await bot.kill()
        shown = await bot.until_posted(count=2)
        assert "\n\n".join(shown) == render(f"{PARAGRAPHS}\n\nAnd more", Dialect())


async def test_a_platform_that_is_away_gets_the_replies_later() -> None:
    board = Board()
    board.faults = {("create", number): "down" for number in range(1, 8)}
    async with running(board) as bot:
        await bot.say("Hello")
        await bot.until(lambda record: record.due_at == bot.clock.now + TIMES.retry_later)
        assert board.calls.count("create") == 1 + len(TIMES.retries)
        bot.clock.now += TIMES.retry_later
        assert await bot.until_posted() == ["Hello"]


async def test_a_refusal_for_good_parks_the_outbox() -> None:
    board = Board()
    board.faults = {("create", 1): "refused"}
    async with running(board) as bot:
        await bot.say("Hello")
        await bot.until(lambda record: b"archived" in record.value)
        await bot.say("other", "b")
        assert await bot.until_posted("b") == ["other"]
        assert board.shown(bot.conversation()) == []


async def test_a_person_who_writes_where_posts_were_refused_is_answered() -> None:
    board = Board()
    board.faults = {("create", 1): "refused", ("create", 2): "refused"}
    async with running(board) as bot:
        await bot.say("Hello")
        await bot.until(lambda record: b"archived" in record.value and record.due_at is None)
        async with board.next_call("create"):
            await bot.say("Anybody?")
        await bot.until(lambda record: b"archived" in record.value and record.due_at is None)
        assert board.shown(bot.conversation()) == []
        await bot.say("And now?")
        assert await bot.until_posted(count=3) == ["Hello", "Anybody?", "And now?"]
        assert b"archived" not in (await bot.outbox()).value


class Careless(Board):
    """A board of a programmer who does not find the platform's answer, while it ``is_broken``."""

    is_broken = True

    async def create(self, post: OutgoingPost) -> str:
        message = await super().create(post)
        if self.is_broken:
            raise KeyError("message_id")
        return message

    async def find(self, post: OutgoingPost) -> str:
        return ""


async def test_an_error_of_a_programmer_does_not_post_without_end() -> None:
    board = Careless()
    async with running(board) as bot:
        await bot.say("Hello")
        for number in range(1, MAX_FAILURES):
            await bot.until(lambda record: record.due_at == bot.clock.now + TIMES.retry_later)
            assert len(board.shown(bot.conversation())) == number
            bot.clock.now += TIMES.retry_later
        await bot.until(lambda record: record.due_at is None)
        (parked,) = await ParkedConversations(bot.server.records, CHANNEL).list()
        assert parked.problem.startswith(f"posting failed {MAX_FAILURES} times: KeyError")
        board.is_broken = False
        await bot.say("Again")
        assert (await bot.until_posted(count=2))[MAX_FAILURES:] == ["Hello", "Again"]


async def test_a_reply_whose_posts_cannot_be_noted_is_parked() -> None:
    async with running(Board()) as bot:
        bot.board.note = "x" * MAX_RECORD_BYTES
        await bot.say("Hello")
        for _ in range(1, MAX_FAILURES):
            await bot.until(lambda record: record.due_at == bot.clock.now + TIMES.retry_later)
            bot.clock.now += TIMES.retry_later
        await bot.until(lambda record: b"posting failed" in record.value)


class Quoting(Board):
    """A board with an error of a programmer, who quotes what is posted."""

    async def create(self, post: OutgoingPost) -> str:
        if post.conversation.thread == "bug":
            raise ValueError(post.text)
        return await super().create(post)


async def test_what_is_posted_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    board = Quoting()
    board.faults = {("create", 1): "limited", ("create", 2): "down", ("create", 4): "refused"}
    async with running(board) as bot:
        await bot.say("qxjzvikku")
        assert await bot.until_posted() == ["qxjzvikku"]
        await bot.say("qxjzvikku", "refused")
        await bot.until(lambda record: b"archived" in record.value, "refused")
        await bot.say("qxjzvikku", "bug")
        async with asyncio.timeout(10):
            while "posting to default/board/bug failed: ValueError" not in caplog.text:  # noqa: ASYNC110  a log sets no event
                await asyncio.sleep(0.002)
    for words in ("wants a pause of 0.01 s", "no connection; again in", "nothing more is posted"):
        assert words in caplog.text
    assert "qxjzvikku" not in caplog.text


async def test_two_posters_post_once() -> None:
    board = Board()
    async with running(board) as bot:
        other = Poster(bot.server, CHANNEL, board, times=TIMES)
        other.start()
        try:
            for number in range(20):
                await bot.say(f"Number {number}", f"t{number % 4}")
            for thread in range(4):
                shown = await bot.until_posted(f"t{thread}", count=5)
                assert shown == [f"Number {number}" for number in range(thread, 20, 4)]
        finally:
            await other.close()


class NoListener:
    async def stop_listening(self) -> None:
        pass

    def open_requests(self) -> int:
        return 0


async def test_a_server_that_shuts_down_leaves_its_outboxes_to_others_at_once() -> None:
    engine = ScriptedEngine(ScriptedReply(text="one two", pause_after=1))
    settings = Settings(
        server=ServerSettings(drain=0.0, linger=0.0, grace=1.0),
        routing=RoutingSettings(default="asks"),
    )
    async with running(Board(), Asks, engine=engine, settings=settings) as bot:
        await bot.say("Hello")
        await bot.until_shown()
        await bot.server.shut_down(NoListener())
        for _ in range(100):
            bot.poster.wake()
            await bot.until(lambda record: record.due_at is not None)
            await asyncio.sleep(0)
        await bot.poster.close()
        assert (await bot.outbox()).due_at == bot.clock.now


async def test_a_message_that_people_deleted_is_not_edited() -> None:
    board = Board()
    async with running(board) as bot:
        board.faults["create", 1] = "hang"
        await bot.say(PARAGRAPHS)
        await board.wait_until_hanging()
        board.messages[str(bot.conversation())].clear()
        await bot.kill()
        shown = await bot.until_posted()
        assert render(PARAGRAPHS, Dialect()).endswith(shown[-1])


async def test_an_erased_conversation_ends_its_posting_and_the_next_one_is_posted() -> None:
    board = Board()
    board.faults["create", 2] = "hang"
    async with running(board) as bot:
        await bot.say(PARAGRAPHS)
        await board.wait_until_hanging()
        await bot.server.erase("default", "ada", bot.conversation())
        board.messages.clear()
        await bot.say("Anew")  # while the first poster waits for the platform
        other = Poster(bot.server, CHANNEL, board, times=TIMES)
        other.start()
        try:
            assert await bot.until_posted() == ["Anew"]
        finally:
            await other.close()


async def test_files_of_a_reply_are_posts_of_their_own() -> None:
    async with running(Board()) as bot:
        await bot.say("files3")
        assert await bot.until_posted() == ["[0.txt]", "[1.txt]", "[2.txt]"]
        assert bot.board.contents == [b"0.txt", b"1.txt", b"2.txt"]
        assert bot.board.last == [False, False, True]


@pytest.mark.parametrize("fault", ["lost", "down", "limited"])
@pytest.mark.parametrize("number", [1, 2])
async def test_a_fault_neither_loses_nor_doubles_a_file(fault: Fault, number: int) -> None:
    board = Board()
    board.faults["create", number] = fault
    async with running(board) as bot:
        await bot.say("files2")
        assert await bot.until_posted() == ["[0.txt]", "[1.txt]"]


@pytest.mark.parametrize("number", [1, 2])
async def test_another_poster_continues_with_the_files(number: int) -> None:
    board = Board()
    board.faults["create", number] = "hang"
    async with running(board) as bot:
        await bot.say("files2")
        await board.wait_until_hanging()
        await bot.kill()
        assert await bot.until_posted() == ["[0.txt]", "[1.txt]"]


class WithoutFiles:
    """A server that cannot read files for now."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.is_away = True

    def __getattr__(self, name: str) -> Any:  # Any: as the server has it
        return getattr(self._server, name)

    async def read_file(self, *args: Any) -> bytes:
        if self.is_away:
            raise FilesUnavailable("away")
        return await self._server.read_file(*args)


async def test_files_that_cannot_be_read_for_a_while_are_posted_later() -> None:
    async with running(Board()) as bot:
        server: Any = WithoutFiles(bot.server)
        await bot.poster.close()
        bot.poster = Poster(server, CHANNEL, bot.board, times=TIMES)
        bot.poster.start()
        await bot.say("files1")
        for _ in range(MAX_FAILURES + 1):
            await bot.until(lambda record: record.due_at == bot.clock.now + TIMES.retry_later)
            bot.clock.now += TIMES.retry_later
        server.is_away = False
        bot.clock.now += TIMES.lease + TIMES.retry_later
        assert await bot.until_posted() == ["[0.txt]"]


async def test_notes_are_kept_before_a_call_is_done() -> None:
    """The first attempt dies, after it has noted something for the next one."""
    board = Board()
    board.faults["create", 1] = "hang"
    async with running(board) as bot:
        await bot.say("files1")
        await board.wait_until_hanging()
        await bot.kill()
        await bot.until_posted()
        assert board.noted == ["0.txt"]


async def test_a_placeholder_becomes_the_reply() -> None:
    board = Board()
    board.waiting_text = "One *moment*…"
    board.faults["edit", 1] = "hang"
    engine = ScriptedEngine(ScriptedReply(text="Hello there", pause_after=0))
    async with running(board, Asks, engine=engine) as bot:
        await bot.say("Hi")
        assert await bot.until_shown() == ["One *moment*…"]
        engine.resume()
        await board.wait_until_hanging()
        await bot.kill()
        assert await bot.until_posted() == ["Hello there"]


async def test_a_placeholder_becomes_the_reply_without_edits_too() -> None:
    board = Board(edit_interval=math.inf)
    board.waiting_text = "One moment"
    engine = ScriptedEngine(ScriptedReply(text="Hello there", pause_after=0))
    async with running(board, Asks, engine=engine) as bot:
        await bot.say("Hi")
        assert await bot.until_shown() == ["One moment"]
        engine.resume()
        assert await bot.until_posted() == ["Hello there"]


class Stolen(Board):
    """A board to which another server takes over to post, while the first waits."""

    steal: Callable[[], Awaitable[None]]

    async def create(self, post: OutgoingPost) -> str:
        if not self.calls:
            self.calls.append("create")
            await self.steal()
            raise RateLimited(0.0)
        return await super().create(post)


async def test_a_server_that_has_lost_an_outbox_while_it_waited_posts_nothing() -> None:
    board = Stolen()
    async with running(board) as bot:

        async def steal() -> None:
            bot.clock.now += TIMES.lease + 1
            assert await bot.server.records.claim_record(CHANNEL, TIMES.lease)

        board.steal = steal
        await bot.say("Hello")
        await bot.until(lambda _: bool(board.calls))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await bot.until_shown()
        bot.clock.now += TIMES.lease + 1
        assert await bot.until_posted() == ["Hello"]


def test_a_server_that_stood_still_notices_that_it_has_lost_an_outbox() -> None:
    async def stand_still() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        records = ledger_in_loop_time()
        conversation = Conversation("default", CHANNEL, "t")
        message = Message(conversation=conversation, id="m1", person="ada", text="Hello")
        await records.accept(message, msgspec.structs.replace(QUEUE_ALL, outbox=True))
        key = outbox_key(conversation)
        record = await records.claim_record(CHANNEL, TIMES.lease)
        assert record is not None
        outbox = Outbox(records, record, TIMES.lease)
        await outbox.hold()
        assert await records.read_record(CHANNEL, key) == record  # it is not written each time
        loop.stall(TIMES.lease - 1)
        await outbox.hold()
        loop.stall(TIMES.lease - 1)
        assert await records.claim_record(CHANNEL, TIMES.lease) is None
        loop.stall(1)
        assert await records.claim_record(CHANNEL, TIMES.lease)
        with pytest.raises(OutboxLost):
            await outbox.hold()

    run_in_virtual_time(stand_still())


async def test_the_placeholder_of_an_empty_reply_is_deleted() -> None:
    board = Board()
    board.waiting_text = "One moment…"
    engine = ScriptedEngine(ScriptedReply(text="<think>hm</think>", pause_after=0))
    async with running(board, Asks, engine=engine) as bot:
        await bot.say("Hi")
        assert await bot.until_shown() == ["One moment…"]
        engine.resume()
        assert await bot.until_posted() == []


async def test_a_placeholder_whose_answer_is_lost_is_deleted() -> None:
    board = Board()
    board.waiting_text = "One moment…"
    board.faults["create", 1] = "hang"
    engine = ScriptedEngine(ScriptedReply(text="<think>hm</think>", pause_after=0))
    async with running(board, Asks, engine=engine) as bot:
        await bot.say("Hi")
        await board.wait_until_hanging()
        assert await bot.until_shown() == ["One moment…"]
        engine.resume()
        await bot.kill()
        assert await bot.until_posted() == []


async def test_progress_ends_with_every_reply() -> None:
    board = Board()
    board.faults["end_progress", 1] = "down"
    async with running(board, waiting_for(board)) as bot:
        for number, text in enumerate(("Hello", "fail", "files1"), 1):
            await bot.say(text)
            await bot.until_posted(count=number)
            assert board.calls.count("show_progress") >= number
            assert board.progress == []


async def test_progress_ends_where_the_platform_refuses_the_reply() -> None:
    board = Board()
    board.faults["create", 1] = "refused"
    async with running(board, waiting_for(board)) as bot:
        await bot.say("Hello")
        await bot.until(lambda record: b"archived" in record.value)
        assert "show_progress" in board.calls
        assert board.progress == []


async def test_a_full_post_ends_behind_what_it_shows() -> None:
    board = Board(max_edits=2)
    async with running(board, waiting_for(board)) as bot:
        await bot.say(PARAGRAPHS)
        shown = await bot.until_posted()
        assert len(shown) >= len(PARAGRAPHS) // 40 // 5
        assert " ".join(shown).split() == render(PARAGRAPHS, Dialect()).split()


async def test_code_in_a_full_post_is_closed_and_opened_again() -> None:
    board = Board(max_edits=2)
    lines = [f"print({number})" for number in range(60)]
    async with running(board, waiting_for(board)) as bot:
        await bot.say("```python\n" + "\n".join(lines) + "\n```")
        shown = await bot.until_posted()
        assert len(shown) >= 3
        assert all(re.fullmatch(r"```python\n(print\(\d+\)\n)+```", text) for text in shown)
        assert re.findall(r"print\(\d+\)", "".join(shown)) == lines


@pytest.mark.parametrize("fault", ["lost", "down", "limited"])
async def test_faults_of_full_posts_neither_lose_nor_double(fault: Fault) -> None:
    board = Board(max_edits=2)
    for number in range(1, 30, 3):
        board.faults["create", number] = board.faults["edit", number] = fault
    async with running(board, waiting_for(board)) as bot:
        await bot.say(PARAGRAPHS)
        shown = await bot.until_posted()
        assert " ".join(shown).split() == render(PARAGRAPHS, Dialect()).split()


async def test_a_limit_that_is_lower_than_known_is_found() -> None:
    board = Board()
    board.true_length = 130
    async with running(board) as bot:
        await bot.say(PARAGRAPHS)
        shown = await bot.until_posted()
        assert "\n\n".join(shown) == render(PARAGRAPHS, Dialect())
        assert board.max_length <= 130


async def test_edits_while_a_reply_is_written_wait_for_the_next_one() -> None:
    """The board limits every second edit: what it would have shown comes with a later one."""
    board = Board(max_length=5_000)
    for number in range(1, 100, 2):
        board.faults["edit", number] = "limited"
    async with running(board, waiting_for(board)) as bot:
        await bot.say(PARAGRAPHS)
        assert await bot.until_posted() == [render(PARAGRAPHS, Dialect())]


async def test_the_last_edit_waits_for_the_rate_limit() -> None:
    board = Board()
    engine = ScriptedEngine(ScriptedReply(text="Hello there", pause_after=1))
    async with running(board, Asks, engine=engine) as bot:
        await bot.say("Hi")
        assert await bot.until_shown() == ["Hello"]
        for number in range(1, 20):
            board.faults["edit", number] = "limited"
        engine.resume()
        assert await bot.until_posted() == ["Hello there"]
        assert board.calls.count("edit") == 20


async def test_a_message_that_cannot_be_edited_is_posted_again() -> None:
    board = Board()
    board.faults["edit", 2] = "uneditable"
    board.faults["delete", 1] = board.faults["create", 2] = "lost"
    async with running(board, waiting_for(board)) as bot:
        await bot.say(PARAGRAPHS[:400])
        assert await bot.until_posted() == [render(PARAGRAPHS[:400], Dialect())]
        assert board.calls.count("delete") == 2


@pytest.mark.parametrize("call", ["delete", "create"])
async def test_another_poster_continues_to_post_a_message_again(call: str) -> None:
    board = Board()
    board.faults["edit", 2] = "uneditable"
    board.faults[call, 1 if call == "delete" else 2] = "hang"
    async with running(board, waiting_for(board)) as bot:
        await bot.say(PARAGRAPHS[:400])
        await board.wait_until_hanging()
        await bot.kill()
        assert await bot.until_posted() == [render(PARAGRAPHS[:400], Dialect())]
