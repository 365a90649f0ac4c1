"""What people do on a platform: asked for first, stored once, told when it is refused."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.plugins.channels.paying import Pays
from tests.server.platforms.board import Board

from palaver.config.settings import FilesSettings, LedgerSettings, RoutingSettings, Settings
from palaver.errors import (
    ConfigurationError,
    FilesUnavailable,
    InvalidInput,
    LedgerUnavailable,
    Overloaded,
    PalaverError,
    TooMany,
)
from palaver.ledger import Snapshot
from palaver.messages import Conversation
from palaver.platforms import (
    ApprovedPerson,
    ChannelSettings,
    ConnectionTimes,
    IncomingFile,
    IncomingMessage,
    OutgoingPost,
    PlatformChannel,
    Refused,
    Source,
    Times,
    Unreachable,
)
from palaver.platforms.channel import NOT_YOURS, PAIRING_FULL
from palaver.platforms.pairing import MAX_OPEN_CODES
from palaver.server import Server
from palaver.testing import MemoryLedger, converse
from palaver.testing.channels import Obeys
from palaver.testing.recorder import RecordingSubscriber

pytestmark = pytest.mark.slow


class BoardChannel(PlatformChannel):
    """A channel on a board. ``connecting`` is what it does while it is connected."""

    name = "board"
    times = Times(poll=0.01, progress=0.05, retry_later=0.02)
    connection_times = ConnectionTimes(pauses=(0.001,), stable=0.01)

    def __init__(self, board: Board, settings: ChannelSettings) -> None:
        super().__init__(settings, board)
        self.connecting: Callable[[], Awaitable[None]] = super().connect

    async def connect(self) -> None:
        await self.connecting()


class Room:
    """A server with the channel, and what people do and see."""

    def __init__(self, server: Server, channel: BoardChannel, board: Board, skill: Obeys) -> None:
        self.server = server
        self.channel = channel
        self.board = board
        self.skill = skill

    async def say(self, text: str, source: "Source | None" = None, **about: Any) -> Any:
        """Deliver a message of Ada's in a group."""
        about.setdefault("id", f"m-{text}")
        return await self.channel.receive(IncomingMessage(source=source or ADA, text=text, **about))

    def shown(self, thread: str = "room") -> list[str]:
        """Return the replies, without the escapes of Markdown."""
        shown = self.board.shown(Conversation("default", "board", thread))
        return [text.replace("\\", "") for text in shown]

    def notices(self) -> list[str]:
        """Return what people were told beside the replies."""
        return [text for _, text in self.board.notices]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  the board sets no event
                await asyncio.sleep(0.002)

    async def until_shown(self, *texts: str) -> None:
        await self.until(lambda: self.shown() == list(texts))

    async def settle(self) -> list[str]:
        """Wait until nothing is left to answer or to post; return what is shown."""
        async with asyncio.timeout(10):
            while not await self._is_settled():  # noqa: ASYNC110  records set no event
                await asyncio.sleep(0.002)
        return self.shown()

    async def _is_settled(self) -> bool:
        depth = await self.server.ledger.queue_depth()
        records = await self.server.records.list_records("board", "outbox:")
        return not (depth.queued or depth.running or any(each.due_at for each in records))

    async def asked(self) -> str:
        """Ask a question with options; return its turn."""
        receipt = await self.say("ask")
        await self.until_shown("Tea or coffee?")
        turn: str = receipt.turn
        return turn


ADA = Source(thread="room", person="board.ada", user="ada", room="C1")
BOB = dataclasses.replace(ADA, person="board.bob", user="bob")
STRANGER = Source(thread="D-eve", person="board.eve", user="eve", is_direct=True)
ROBOT = dataclasses.replace(ADA, person="board.robot", user="robot", is_bot=True)


@contextlib.asynccontextmanager
async def running(
    board: Board | None = None,
    *,
    files: FilesSettings | None = None,
    start: bool = True,
    skill: Obeys | None = None,
    **settings: Any,
) -> AsyncIterator[Room]:
    own = Settings(
        routing=RoutingSettings(default="obeys", threshold=1.0, consult_engine=False),
        ledger=LedgerSettings(use="memory"),
        files=files or FilesSettings(),
    )
    board, skill = board or Board(), skill or Obeys()
    tools = list(skill.tools.values()) if isinstance(skill, Pays) else []
    channel = BoardChannel(board, ChannelSettings(**settings))
    async with converse(skill, settings=own, ledger=MemoryLedger(), tools=tools) as chat:
        if start:
            await channel.start(chat.server)
        try:
            yield Room(chat.server, channel, board, skill)
        finally:
            await channel.close()


@contextlib.asynccontextmanager
async def another_server(room: Room) -> AsyncIterator[BoardChannel]:
    """Run the channel of another server on the same ledger."""
    other = BoardChannel(room.board, room.channel.settings)
    await other.start(room.server)
    try:
        yield other
    finally:
        await other.close()


def file(content: bytes = b"thirty days", name: str = "notes.txt") -> IncomingFile:
    async def read() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 4):
            await asyncio.sleep(0)
            yield content[start : start + 4]

    return IncomingFile(name=name, read=read, size=len(content))


# Messages


async def test_a_message_is_answered() -> None:
    async with running() as room:
        receipt = await room.say("say hello", id="m1")
        assert not receipt.duplicate
        await room.until_shown("You said hello.")
        history = (await room.server.snapshot(ADA.conversation("board"))).history
        assert (history[0].person, history[0].text) == ("board.ada", "say hello")


async def test_a_message_that_is_delivered_again_is_one_message() -> None:
    async with running() as room, another_server(room) as other:
        said = IncomingMessage(source=ADA, id="m1", text="say hello")
        channels = [room.channel, other] * 4
        receipts = await asyncio.gather(*[channel.receive(said) for channel in channels])
        turns = {receipt.turn for receipt in receipts if receipt}
        assert len(turns) == 1
        assert sum(not receipt.duplicate for receipt in receipts if receipt) == 1
        assert await room.settle() == ["You said hello."]


async def test_messages_that_arrive_in_another_order_are_answered_in_their_own() -> None:
    async with running() as room:
        for number in (2, 1, 3):
            await room.say(f"say {number}", order=f"{number:03}")
        await room.until_shown("You said 1.", "You said 2.", "You said 3.")


async def test_a_message_that_is_delivered_again_after_an_edit_stays_as_it_was() -> None:
    async with running() as room, another_server(room) as other:
        first = await room.say("say hello", id="m1")
        assert (await room.say("say goodbye", id="m1")).turn == first.turn
        edited = IncomingMessage(source=ADA, id="m1", text="say goodbye")
        assert await other.receive(edited) is None
        assert await room.settle() == ["You said hello."]
        assert room.notices() == []


async def until_held(room: Room) -> None:
    """Let a turn of the conversation run, until `Obeys.may_continue`."""
    await room.say("hold")
    await room.until(lambda: bool(room.shown()))


async def test_a_message_that_waits_is_edited() -> None:
    async with running() as room, another_server(room) as other:
        await until_held(room)
        await room.say("say helo", id="m1")
        assert await other.edit(ADA, "m1", "say hello")
        assert (await room.say("say helo", id="m1")).duplicate
        assert await other.receive(IncomingMessage(source=ADA, id="m1", text="say hello")) is None
        room.skill.may_continue.set()
        held = "The first half. The second half."
        assert await room.settle() == [held, "You said hello."]


async def test_a_message_that_waits_is_withdrawn() -> None:
    async with running() as room:
        await until_held(room)
        await room.say("say one", id="m1")
        await room.say("say two", id="m2")
        conversation = ADA.conversation("board")
        assert await room.channel.withdraw(conversation, "m1")
        assert not await room.channel.withdraw(conversation, "m1")
        assert (await room.say("say one", id="m1")).duplicate
        room.skill.may_continue.set()
        held = "The first half. The second half."
        assert await room.settle() == [held, "You said two."]
        snapshot = await room.server.snapshot(conversation)
        assert [entry.text for entry in snapshot.history if entry.role == "user"] == [
            "hold",
            "say two",
        ]


async def test_the_files_of_a_withdrawn_message_are_deleted() -> None:
    async with running() as room:
        await until_held(room)
        await room.say("read it", id="m1", files=(file(),))
        await room.say("read it", id="m2", files=(file(name="kept.txt"),))
        assert await room.channel.edit(ADA, "m1", "read this")
        assert len(await room.server.files.files("default", "board.ada")) == 2
        assert await room.channel.withdraw(ADA.conversation("board"), "m1")
        (kept,) = await room.server.files.files("default", "board.ada")
        assert kept.name == "kept.txt"
        room.skill.may_continue.set()
        assert (await room.settle())[1:] == ["It has 1 files."]


def waiting_texts(snapshot: Snapshot) -> list[str]:
    return [message.text for turn in snapshot.pending for message in turn.messages]


async def test_people_who_watch_see_the_change_and_the_rest_of_the_reply() -> None:
    async with running() as room:
        seen = RecordingSubscriber()
        subscription = await room.server.subscribe(ADA.conversation("board"), seen)
        held = await room.say("hold", id="m0")
        await seen.wait_for(held.turn, text="The first half.")
        await room.say("say one", id="m1")
        edited = await room.say("say two", id="m2")
        await room.channel.withdraw(ADA.conversation("board"), "m1")
        await room.channel.edit(ADA, "m2", "say three")
        await room.until(lambda: waiting_texts(seen.snapshots[-1]) == ["hold", "say three"])
        room.skill.may_continue.set()
        await seen.wait_for(edited.turn)
        room.server.unsubscribe(subscription)
        assert seen.texts[held.turn] == "The first half. The second half."
        assert seen.texts[edited.turn] == "You said three."


async def test_a_message_whose_turn_has_begun_stays() -> None:
    async with running() as room:
        await until_held(room)
        assert not await room.channel.edit(ADA, "m-hold", "say it")
        assert not await room.channel.withdraw(ADA.conversation("board"), "m-hold")
        room.skill.may_continue.set()
        assert await room.settle() == ["The first half. The second half."]


async def test_only_people_who_may_write_edit() -> None:
    async with running(people=["ada"], groups="allowlist", rooms=["C1"]) as room:
        elsewhere = dataclasses.replace(ADA, room="C2")
        await until_held(room)
        await room.say("say one", id="m1")
        assert not await room.channel.edit(elsewhere, "m1", "say two")
        room.skill.may_continue.set()
        assert (await room.settle())[1:] == ["You said one."]


async def test_an_edit_that_is_too_long_is_told() -> None:
    async with running() as room:
        await until_held(room)
        await room.say("say one", id="m1")
        assert not await room.channel.edit(ADA, "m1", "x" * 1_000_001)
        assert room.notices() == ["the message is larger than 1000000 bytes"]
        room.skill.may_continue.set()
        assert (await room.settle())[1:] == ["You said one."]


async def test_skill_and_arguments_reach_the_server() -> None:
    async with running() as room:
        assert await room.say("say hello", skill="obeys")
        assert await room.settle() == ["You said hello."]


# Files


async def test_a_file_is_stored_once_however_often_it_is_delivered() -> None:
    async with running() as room:
        files = (file(),)
        saying = [room.say("read it", id="m1", files=files) for _ in range(5)]
        receipts = await asyncio.gather(*saying)
        receipts.append(await room.say("read it", id="m1", files=files))
        assert sum(not receipt.duplicate for receipt in receipts) == 1
        assert await room.settle() == ["It has 1 files."]
        assert room.skill.files == [b"thirty days"]
        assert len(await room.server.files.files("default", "board.ada")) == 1


async def test_a_file_that_is_delivered_to_two_servers_is_answered_once() -> None:
    async with running() as room, another_server(room) as other:
        said = IncomingMessage(source=ADA, id="m1", text="read it", files=(file(),))
        await asyncio.gather(room.channel.receive(said), other.receive(said))
        assert await room.settle() == ["It has 1 files."]
        assert room.notices() == []


def unreadable(error: Exception) -> IncomingFile:
    async def read() -> AsyncIterator[bytes]:
        raise error
        yield b""

    return IncomingFile(name="notes.txt", read=read)


NOT_READ = "A file of your message could not be read from the platform. Send it again."


@pytest.mark.parametrize(
    ("files", "settings", "told"),
    [
        ((file(),), FilesSettings(person_count=0), "files cannot be sent here"),
        ((file(), file()), FilesSettings(per_message=1), "a message may have 1 files, not more"),
        ((file(),), FilesSettings(max_file_bytes=5), "a file may have 5 bytes"),
        ((file(b""),), FilesSettings(), "empty"),
        (
            (file(),),
            FilesSettings(person_bytes=5),
            "your files take as much room as allowed (files.person_bytes)",
        ),
        ((unreadable(Unreachable("no answer")),), FilesSettings(), NOT_READ),
        ((file(), unreadable(Refused("no right"))), FilesSettings(), NOT_READ),
    ],
)
async def test_a_file_that_cannot_be_taken_is_told(
    files: tuple[IncomingFile, ...], settings: FilesSettings, told: str
) -> None:
    async with running(files=settings) as room:
        for _ in range(2):
            assert await room.say("read it", id="m1", files=files) is None
        (notice,) = room.notices()
        assert told in notice
        assert room.board.notices[0][0] == "board.ada"
        await room.say("say hello")
        assert await room.settle() == ["You said hello."]


# Errors


class Failing:
    """A server that refuses the next messages."""

    def __init__(self, server: Server, *errors: Exception) -> None:
        self._server = server
        self._errors = list(errors)

    def __getattr__(self, name: str) -> Any:  # Any: as the server has it
        return getattr(self._server, name)

    async def accept(self, *args: Any, **options: Any) -> Any:
        if self._errors:
            raise self._errors.pop(0)
        return await self._server.accept(*args, **options)


@pytest.mark.parametrize(
    "error",
    [
        Overloaded("busy"),
        LedgerUnavailable("away"),
        FilesUnavailable("away"),
        TooMany("three messages wait", retry_after=1.0),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_passes_is_raised_and_the_next_delivery_is_accepted(error: PalaverError) -> None:
    async with running() as room:
        service: Any = Failing(room.server, error)
        room.channel.service = service
        with pytest.raises(type(error)):
            await room.say("say hello", id="m1")
        assert room.notices() == []
        assert not (await room.say("say hello", id="m1")).duplicate
        assert await room.settle() == ["You said hello."]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InvalidInput("the text is no text"), "the text is no text"),
        (
            TooMany("your messages fill all room", retry_after=3600.0, reason="person_bytes"),
            "your messages fill all room",
        ),
    ],
)
async def test_what_does_not_pass_is_told_once(error: PalaverError, told: str) -> None:
    async with running() as room:
        service: Any = Failing(room.server, error)
        room.channel.service = service
        for _ in range(3):
            assert await room.say("say hello", id="m1") is None
        assert room.board.notices == [("board.ada", told)]


async def test_who_writes_too_much_delays_nobody_where_nothing_is_delivered_again() -> None:
    async with running() as room:
        service: Any = Failing(room.server, TooMany("three messages wait", retry_after=1.0))
        room.channel.service = service
        room.channel.redelivers = False  # type: ignore[misc]
        assert await room.say("say hello", id="m1") is None
        assert room.board.notices == [("board.ada", TooMany.public_message)]


async def test_an_unknown_skill_is_told() -> None:
    async with running() as room:
        assert await room.say("hello", skill="no_such_skill") is None
        (notice,) = room.notices()
        assert "no_such_skill" in notice


async def test_a_bug_is_raised() -> None:
    async with running() as room:
        service: Any = Failing(room.server, ZeroDivisionError())
        room.channel.service = service
        with pytest.raises(ZeroDivisionError):
            await room.say("say hello")


class Deaf(Board):
    """A board on which nobody can be told anything."""

    async def notify(self, source: Source, text: str) -> None:
        raise Refused("this person has left")


async def test_a_notice_that_cannot_be_delivered_does_not_matter() -> None:
    async with running(Deaf()) as room:
        assert await room.say("say hello", STRANGER) is None
        assert await room.say("hello", skill="no_such_skill") is None


# Who may write


async def test_a_stranger_gets_a_code_and_is_answered_once_approved() -> None:
    async with running() as room:
        for number in range(4):  # the platform delivers again
            assert await room.say("say hello", STRANGER, id=f"m{number % 2}") is None
        (request,) = await room.channel.policy.pairings.requests()
        (notice,) = room.notices()
        assert request.code in notice
        assert room.board.notices[0][0] == "board.eve"
        assert (await room.server.snapshot(STRANGER.conversation("board"))).history == ()
        await room.channel.policy.pairings.approve(request.code)
        assert await room.say("say again", STRANGER)
        await room.settle()
        assert room.shown("D-eve") == ["You said again."]


async def test_strangers_are_told_when_too_many_wait() -> None:
    async with running() as room:
        for number in range(MAX_OPEN_CODES):
            await room.channel.policy.pairings.request("default", f"board.{number}")
        assert await room.say("say hello", STRANGER) is None
        assert room.notices() == [PAIRING_FULL]


@pytest.mark.parametrize("bots", ["ignore", "answer"])
async def test_a_bot_gets_no_code(bots: str) -> None:
    async with running(bots=bots) as room:
        robot = dataclasses.replace(STRANGER, is_bot=True)
        assert await room.say("say hello", robot) is None
        assert room.notices() == []
        assert await room.channel.policy.pairings.requests() == []


async def test_bots_are_answered_up_to_a_limit() -> None:
    async with running(bots="answer", bot_turns=2) as room:
        receipts = [await room.say(f"say {n}", ROBOT) for n in (0, 0, 1, 2, 3)]
        assert [receipt is not None for receipt in receipts] == [True] * 3 + [False] * 2
        await room.say("say hello", ADA)
        assert await room.settle() == ["You said 0.", "You said 1.", "You said hello."]
        assert room.notices() == []
        ignored = b'palaver_channel_ignored_total{channel="board",reason="bots"} 2.0'
        assert ignored in room.server.metrics.exposition()


async def test_a_bot_is_told_no_errors() -> None:
    async with running(bots="answer") as room:
        assert await room.say("hello", ROBOT, skill="no_such_skill") is None
        assert room.notices() == []


async def test_messages_that_are_not_answered_are_counted() -> None:
    async with running(groups="disabled") as room:
        await room.say("say hello")
        await room.say("say hello", STRANGER)
        metrics = room.server.metrics.exposition()
        for reason in (b"policy", b"unpaired"):
            assert b'{channel="board",reason="%b"} 1.0' % reason in metrics


REFUSED = [
    (ADA, {"groups": "disabled"}),
    (ADA, {"groups": "allowlist", "rooms": ("C2",)}),
    (STRANGER, {}),
    (STRANGER, {"direct_messages": "allowlist", "people": ("ada",)}),
    (STRANGER, {"direct_messages": "disabled", "people": ("eve",)}),
    (ROBOT, {}),
]


@pytest.mark.parametrize(("source", "settings"), REFUSED)
async def test_nothing_that_the_refused_do_has_an_effect(
    source: Source, settings: dict[str, Any]
) -> None:
    """Messages, buttons and ratings alike; in a conversation where there is something to do."""
    async with running() as room:
        place = source.conversation("board")
        friend = dataclasses.replace(source, person="board.ada", user="ada", is_bot=False)
        allowed = ApprovedPerson(tenant="default", person="board.ada", at=1.0)
        await room.channel.policy.pairings.allow(allowed)
        asked = await room.say("ask", friend)
        await room.settle()
        held = await room.say("hold", dataclasses.replace(friend, thread="other"))
        before = await room.server.snapshot(place)
        strict = BoardChannel(room.board, ChannelSettings(**settings))
        await strict.start(room.server)
        try:
            assert (
                await strict.receive(IncomingMessage(source=source, id="x", text="say x")) is None
            )
            assert await strict.choose(source, asked.turn, 0) is None
            assert await strict.rate(source, asked.turn, "down") is False
            elsewhere = dataclasses.replace(source, thread="other")
            assert await strict.stop(elsewhere, held.turn) == "unknown"
            for button in ("stop", "up", "down"):
                await strict.press(elsewhere, f"{button}:{held.turn}")
            await strict.press(source, f"option:{asked.turn}:0")
            await strict.press(source, "option:none:0")
        finally:
            await strict.close()
        assert "This question is no longer open." not in room.notices()
        after = await room.server.snapshot(place)
        assert (after.history, after.pending) == (before.history, before.pending)
        room.skill.may_continue.set()
        await room.settle()
        assert room.shown("other") == ["The first half. The second half."]
        assert b"palaver_feedback_total{" not in room.server.metrics.exposition()


# Buttons


async def test_pressing_twice_is_one_answer() -> None:
    async with running() as room, another_server(room) as other:
        turn = await room.asked()
        channels = [room.channel, other, room.channel]
        await asyncio.gather(*[each.press(ADA, f"option:{turn}:1") for each in channels])
        await room.until_shown("Tea or coffee?", "One coffee, please.")
        await room.channel.press(ADA, f"option:{turn}:1")
        await room.channel.press(ADA, f"option:{turn}:0")
        assert await room.settle() == ["Tea or coffee?", "One coffee, please."]
        assert room.notices() == []


class Meeting:
    """A server that answers when two have asked for the state of a conversation."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._barrier = asyncio.Barrier(2)

    def __getattr__(self, name: str) -> Any:  # Any: as the server has it
        return getattr(self._server, name)

    async def snapshot(self, conversation: Conversation) -> Snapshot:
        snapshot = await self._server.snapshot(conversation)
        async with asyncio.timeout(5), self._barrier:
            return snapshot


async def test_a_question_has_one_answer_whoever_presses() -> None:
    async with running() as room:
        turn = await room.asked()
        service: Any = Meeting(room.server)
        room.channel.service = service
        await asyncio.gather(room.channel.choose(ADA, turn, 0), room.channel.choose(BOB, turn, 1))
        shown = await room.settle()
        assert shown in (
            ["Tea or coffee?", "One tea, please."],
            ["Tea or coffee?", "One coffee, please."],
        )


async def test_a_question_that_is_answered_in_words_is_no_longer_open() -> None:
    async with running() as room:
        turn = await room.asked()
        await room.say("tea")
        await room.settle()
        assert await room.channel.choose(BOB, turn, 1) is None
        assert room.board.notices == [("board.bob", "This question is no longer open.")]
        assert await room.settle() == ["Tea or coffee?", "One tea, please."]


@pytest.mark.parametrize("number", [-1, 2, 100])
async def test_an_option_that_does_not_exist_is_told(number: int) -> None:
    async with running() as room:
        turn = await room.asked()
        assert await room.channel.choose(ADA, turn, number) is None
        assert await room.channel.choose(ADA, "no such turn", 0) is None
        assert room.notices() == ["This question is no longer open."] * 2


async def asked_to_pay(room: Room, whom: str = "Bob") -> str:
    receipt = await room.say(f"pay {whom}", id=f"pay {whom}")
    await room.until(lambda: any("`pay`" in each and whom in each for each in room.shown()))
    turn: str = receipt.turn
    return turn


async def test_a_call_is_approved_by_a_button() -> None:
    skill = Pays()
    async with running(skill=skill) as room:
        turn = await asked_to_pay(room)
        assert '"to": "Bob"' in room.shown()[0]
        await room.channel.press(BOB, f"option:{turn}:0")
        assert (room.notices(), skill.paid) == ([NOT_YOURS], [])
        await room.say("say nothing", BOB)
        await room.settle()
        assert await room.channel.choose(ADA, turn, 0) is not None
        await room.settle()
        await room.channel.press(ADA, f"option:{turn}:0")
        assert (await room.settle())[-1] == "Paid Bob."
        assert skill.paid == ["Bob"]


async def test_a_call_is_denied_by_a_button() -> None:
    skill = Pays()
    async with running(skill=skill) as room:
        turn = await asked_to_pay(room)
        await room.channel.press(ADA, f"option:{turn}:1")
        assert (await room.settle())[-1] == "Not paid."
        await room.channel.press(ADA, f"option:{turn}:0")
        await room.settle()
        assert skill.paid == []


async def test_the_button_of_an_old_approval_only_says_so() -> None:
    skill = Pays()
    async with running(skill=skill) as room:
        old = await asked_to_pay(room)
        await room.channel.press(ADA, f"option:{old}:1")
        await room.settle()
        new = await asked_to_pay(room, "Carol")
        await room.channel.press(ADA, f"option:{old}:0")
        assert room.notices()[-1:] != [NOT_YOURS]
        await room.settle()
        assert skill.paid == []
        await room.channel.press(ADA, f"option:{new}:0")
        assert (await room.settle())[-1] == "Paid Carol."
        assert skill.paid == ["Carol"]


async def test_a_turn_is_stopped() -> None:
    async with running() as room:
        receipt = await room.say("hold")
        await room.until_shown("The first half.")
        await room.channel.press(BOB, f"stop:{receipt.turn}")
        assert (await room.settle())[0].startswith("The first half.")
        assert "stopped" in room.shown()[0]
        assert await room.channel.stop(ADA, receipt.turn) == "settled"
        assert await room.channel.stop(ADA) == "unknown"


async def test_a_reply_is_rated_by_those_who_write_here() -> None:
    async with running() as room:
        receipt = await room.say("say hello")
        await room.settle()
        assert await room.channel.rate(BOB, receipt.turn, "up") is False
        assert room.board.notices == [
            ("board.bob", "Only people who have written here can rate this reply.")
        ]
        await room.channel.press(ADA, f"down:{receipt.turn}")
        rated = b'palaver_feedback_total{rating="down",skill="obeys"} 1.0'
        assert rated in room.server.metrics.exposition()


@pytest.mark.parametrize(
    "data", ["", "stop", "stop:", "dance:t", "option:t", "option:t:x", "up:t:1"]
)
async def test_a_button_with_unknown_data_does_nothing(data: str) -> None:
    async with running() as room:
        receipt = await room.say("hold")
        await room.channel.press(ADA, data.replace("t", receipt.turn))
        room.skill.may_continue.set()
        assert await room.settle() == ["The first half. The second half."]
        assert room.notices() == []


# Lifetime


async def test_a_channel_that_is_not_started_can_be_closed() -> None:
    async with running(start=False):
        pass


async def test_why_there_is_no_connection_is_seen_until_there_is_one() -> None:
    async with running(start=False) as room:
        is_down = True

        async def connect() -> None:
            if is_down:
                raise Unreachable("no route")
            await asyncio.Event().wait()

        room.channel.connecting = connect
        await room.channel.start(room.server)
        await room.until(lambda: room.channel.problem.endswith("fails: no route"))
        await room.say("say hello")  # what arrives in another way is answered
        assert await room.settle() == ["You said hello."]
        is_down = False
        await room.until(lambda: room.channel.problem == "")
        room.channel.problem = "a right lacks"
        assert room.channel.problem == "a right lacks"


class Locked(Board):
    """A board that does not know the token, while it ``is_locked``."""

    is_locked = True

    async def create(self, post: OutgoingPost) -> str:
        self._check()
        return await super().create(post)

    async def notify(self, source: Source, text: str) -> None:
        self._check()
        await super().notify(source, text)

    def _check(self) -> None:
        if self.is_locked:
            raise ConfigurationError("channels.board.token: unknown")


async def test_replies_wait_for_a_token_that_works(caplog: pytest.LogCaptureFixture) -> None:
    board = Locked()
    async with running(board) as room:
        await room.say("say one")
        await room.say("say two")
        await room.until(lambda: room.channel.problem == "channels.board.token: unknown")
        await room.say("say three", dataclasses.replace(ADA, thread="other"))
        await room.say("hello", STRANGER)  # who cannot be told a code
        assert room.notices() == []
        board.is_locked = False
        await room.until_shown("You said one.", "You said two.")
        await room.until(lambda: room.shown("other") == ["You said three."])
        assert room.channel.problem == ""
    assert caplog.text.count("does not post") == 1


async def test_what_cannot_be_asked_is_a_problem_of_the_check() -> None:
    class Probed(BoardChannel):
        error: Exception | None = None

        async def probe(self) -> None:
            if self.error:
                raise self.error

    channel = Probed(Board(), ChannelSettings())
    assert await channel.check() == []
    channel.error = Unreachable("no route")
    assert await channel.check() == ["no route"]
