"""A snapshot of a running turn tells what its events have told."""

import asyncio

from tests.server.web.live_server import open_live_server
from tests.server.web.test_branches import say

from palaver.ledger import Page, PendingTurn, Snapshot
from palaver.messages import (
    Cursor,
    Event,
    Queued,
    Routed,
    Started,
    StoredEvent,
    Text,
    ToolCalled,
    encode,
)
from palaver.skills import Skill
from palaver.streams.pending_events import PENDING_BYTES, READ_BACK, add_pending_events
from palaver.tools import tool
from palaver.turns.turn import Turn


def routed(turn: str) -> Routed:
    return Routed(turn=turn, skill="s", reason="r")


def pending(turn: str, *, running: bool = True) -> PendingTurn:
    return PendingTurn(turn=turn, messages=(), running=running, reply="", skill="s")


def waiting(turn: str) -> PendingTurn:
    return PendingTurn(turn=turn, messages=(), running=False, reply="")


class Stream:
    """The stored events of a conversation, in pages of three."""

    def __init__(self, *events: Event, epoch: str = "e") -> None:
        self.stored = tuple(StoredEvent(offset, event) for offset, event in enumerate(events, 1))
        self.epoch = epoch
        self.read_from: list[int] = []

    async def read(self, after: int) -> Page:
        self.read_from.append(after)
        events = tuple(item for item in self.stored if item.offset > after)[:3]
        return Page(self.epoch, 1, len(self.stored), events)

    async def events(self, *turns: PendingTurn, offset: int | None = None) -> list[list[Event]]:
        cursor = Cursor("e", len(self.stored) if offset is None else offset)
        snapshot = Snapshot(cursor=cursor, history=(), pending=turns)
        completed = await add_pending_events(snapshot, self.read)
        return [list(turn.events) for turn in completed.pending]


async def test_only_turns_that_have_begun_have_events_and_only_their_own() -> None:
    tool_event = ToolCalled(turn="b", name="t", arguments={}, state="started")
    stream = Stream(
        routed("a"), Started(turn="b", attempt=1), routed("b"), tool_event,
        Text(turn="b", position=0, text="x"), routed("c"),
    )  # fmt: skip
    found = await stream.events(pending("b"), waiting("c"))
    assert found == [[routed("b"), tool_event], []]


async def test_nothing_is_read_where_no_turn_has_begun() -> None:
    stream = Stream(routed("a"))
    assert await stream.events(waiting("a")) == [[]]
    assert stream.read_from == []


async def test_a_turn_that_waits_for_a_takeover_has_its_events() -> None:
    assert await Stream(routed("a")).events(pending("a", running=False)) == [[routed("a")]]


async def test_events_after_the_snapshot_are_left_to_the_stream() -> None:
    assert await Stream(routed("a"), routed("a")).events(pending("a"), offset=1) == [[routed("a")]]


async def test_a_stream_of_another_epoch_tells_nothing() -> None:
    assert await Stream(routed("a"), epoch="f").events(pending("a")) == [[]]


async def test_a_place_in_the_queue_counts_until_another_or_the_text() -> None:
    first, second = Queued(turn="a", ahead=2), Queued(turn="a", ahead=1)
    text = Text(turn="a", position=0, text="x")
    assert await Stream(first, second).events(pending("a")) == [[second]]
    assert await Stream(first, second, text).events(pending("a")) == [[]]


async def test_what_is_read_and_kept_is_bounded() -> None:
    texts = [Text(turn="a", position=number, text="x") for number in range(READ_BACK)]
    stream = Stream(routed("a"), *texts)
    assert await stream.events(pending("a")) == [[]]
    assert stream.read_from[0] == 1
    uses = [
        ToolCalled(turn="a", name=f"t{number}", arguments={}, state="done", result="r" * 1_000)
        for number in range(100)
    ]
    ((*kept,),) = await Stream(*uses).events(pending("a"))
    assert kept == uses[-len(kept) :]
    assert PENDING_BYTES - 2_000 < sum(len(encode(event)) for event in kept) <= PENDING_BYTES


class Weigher(Skill):
    """Weigh, and take its time."""

    name = "weigher"

    async def answer(self, turn: Turn) -> None:
        await turn.say(await turn.call_tool("weigh", fruit="fig"))


async def test_a_client_that_begins_with_a_snapshot_knows_the_tools_that_run() -> None:
    begun, end = asyncio.Event(), asyncio.Event()

    @tool
    async def weigh(fruit: str) -> str:
        """Weigh a fruit."""
        begun.set()
        await end.wait()
        return "an ounce"

    async with open_live_server(skills=(Weigher(),), tools=(weigh,)) as live_server:
        async with live_server.connect("t", person="ada") as client:
            first = await say(client, "hello")
            for text in ("b", "B"):  # with a branch, a client gets a snapshot
                await say(client, text, after=first)
            await client.send_message("/weigher go")
            await asyncio.wait_for(begun.wait(), 5)
            async with live_server.connect("t", person="ada", since="start") as late:
                (running,) = late.frames[0]["snapshot"]["pending"]
                assert [event["type"] for event in running["events"]] == ["routed", "tool"]
                assert running["events"][1]["state"] == "started"
                end.set()
                await late.wait_for("finished")
                tools = [frame for frame in late.frames if frame["type"] == "tool"]
                assert [frame["state"] for frame in tools] == ["done"]
