"""A turn whose worker dies is taken over, and nobody sees the seam."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from tests.server.skills_under_test import Parrot

from palaver import (
    InvalidInput,
    OutcomeUnknown,
    Passage,
    Sampling,
    Skill,
    Tool,
    ToolContext,
    Turn,
    tool,
)
from palaver.config.settings import DispatchSettings, RoutingSettings, Settings
from palaver.engine import GenerationRequest
from palaver.messages import Cited, Conversation, Message, Started, TextReset, ToolCalled, new_id
from palaver.server import Server
from palaver.testing import (
    ListKnowledge,
    MemoryLedger,
    RecordingSubscriber,
    ScriptedEngine,
    ScriptedReply,
)
from palaver.testing.harness import ChatClient

pytestmark = pytest.mark.slow

LEASE = 0.5
CONVERSATION = Conversation("default", "test", "main")


def replica(
    ledger: MemoryLedger,
    engine: ScriptedEngine,
    *skills: type[Skill],
    tools: tuple[Tool, ...] = (),
    settings: Settings | None = None,
) -> Server:
    names = [skill.name for skill in skills]
    usual = Settings(
        dispatch=DispatchSettings(lease=LEASE), routing=RoutingSettings(default=names[0])
    )
    return Server(
        settings or usual,
        ledger=ledger,
        engine=engine,
        knowledge=ListKnowledge(),
        skills={skill.name: skill() for skill in skills},
        tools={tool.name: tool for tool in tools},
    )


async def die(server: Server) -> None:
    """End a replica's workers in the middle, as SIGKILL does: nothing is flushed or released."""
    dispatcher = server._dispatcher
    for run in dispatcher._runs.values():
        run.writer.close()
    for task in (*dispatcher._workers, *dispatcher._loops):
        task.cancel()
    await asyncio.gather(*dispatcher._workers, *dispatcher._loops, return_exceptions=True)


@asynccontextmanager
async def taken_over(
    first: ScriptedEngine,
    second: ScriptedEngine,
    *skills: type[Skill],
    until: str = "",
    when: Callable[[], Awaitable[object]] | None = None,
    tools: tuple[Tool, ...] = (),
) -> AsyncIterator[tuple[ChatClient, str]]:
    """A turn that one replica begins and another one ends. The reader is at the second."""
    ledger = MemoryLedger()
    async with replica(ledger, first, *skills, tools=tools) as dying:
        chat = ChatClient(dying, CONVERSATION, "alice")
        subscription = await dying.subscribe(CONVERSATION, chat.recorder)
        turn = await chat.send("go")
        if when is not None:
            await asyncio.wait_for(when(), 5)
        else:
            await chat.recorder.wait_for(turn, text=until)
            await stored(dying, turn, until)
        await die(dying)
        dying.unsubscribe(subscription)
    async with replica(ledger, second, *skills, tools=tools) as heir:
        chat = ChatClient(heir, CONVERSATION, "alice")
        subscription = await heir.subscribe(CONVERSATION, chat.recorder)
        yield chat, turn
        heir.unsubscribe(subscription)


def server_runs(server: Server) -> int:
    """Turns that the replica runs."""
    return server._dispatcher.running


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110  what is waited for sets no event
            await asyncio.sleep(0.01)


async def stored(server: Server, turn: str, text: str) -> None:
    async with asyncio.timeout(5):
        while True:
            pending = (await server.snapshot(CONVERSATION)).pending
            if any(item.turn == turn and text in item.reply for item in pending):
                return
            await asyncio.sleep(0.01)


async def test_an_interrupted_reply_continues_from_the_last_stored_character() -> None:
    text = "one two three four five six"
    second = ScriptedEngine(text)
    async with taken_over(
        ScriptedEngine(ScriptedReply(text=text, pause_after=3)),
        second,
        Parrot,
        until="one two three",
    ) as (chat, turn):
        reply = await chat.reply(turn)
        assert reply == text
        assert not chat.recorder.events_of(turn, TextReset)
        assert chat.recorder.events_of(turn, Started)[-1].attempt == 2
    assert second.requests[0].partial == "one two three"


async def test_an_engine_that_cannot_continue_starts_the_reply_again() -> None:
    second = ScriptedEngine("one two 3 4", missing_capabilities=["continuation"])
    async with taken_over(
        ScriptedEngine(ScriptedReply(text="one two three four", pause_after=3)),
        second,
        Parrot,
        until="one two three",
    ) as (chat, turn):
        assert await chat.reply(turn) == "one two 3 4"
        resets = chat.recorder.events_of(turn, TextReset)
        assert [event.position for event in resets] == [len("one two")]


class Steps(Skill):
    """Generate twice, then speak."""

    name = "steps"
    examples = ("step by step", "in steps")

    async def answer(self, turn: Turn) -> None:
        outline = await turn.generate("outline", sampling=Sampling(temperature=1.0))
        await turn.say(f"Outline: {outline}. ")
        await turn.stream("body")
        await turn.say(" The end.")


async def test_finished_steps_are_not_done_again() -> None:
    first = ScriptedEngine("a plan", ScriptedReply(text="word by word by word", pause_after=2))
    second = ScriptedEngine("word by word by word")
    async with taken_over(first, second, Steps, until="word by") as (chat, turn):
        assert await chat.reply(turn) == "Outline: a plan. word by word by word The end."
    assert [request.messages[-1].content for request in second.requests] == ["body"]
    assert second.requests[0].partial == "word by"


class Shouting:
    """Says words in capitals, each only when it has come whole."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        *words, self._held = (self._held + text).split(" ")
        return "".join(word.upper() + " " for word in words)

    def end(self) -> str:
        held, self._held = self._held, ""
        return held.upper()


class Shouter(Skill):
    """Shout."""

    name = "shouter"
    examples = ("shout it out", "louder please")

    async def answer(self, turn: Turn) -> None:
        await turn.stream("shout", through=Shouting())


async def test_a_filtered_reply_continues_after_the_stored_text() -> None:
    first = ScriptedEngine(ScriptedReply(text="one two three four", pause_after=3))
    second = ScriptedEngine(lambda request: request.partial + "three four")
    async with taken_over(first, second, Shouter, until="ONE TWO ") as (chat, turn):
        assert await chat.reply(turn) == "ONE TWO THREE FOUR"
    assert second.requests[0].partial == "ONE TWO "


async def test_what_a_filter_keeps_back_of_the_stored_text_is_not_said_again() -> None:
    attempts: list[int] = []

    class HalfStored(Skill):
        """Store what the filter of the next attempt keeps back."""

        name = "half"
        examples = ("say half of it", "half of it please")

        async def answer(self, turn: Turn) -> None:
            attempts.append(1)
            if len(attempts) == 1:
                await turn.say("ONE TWO")
                await asyncio.Event().wait()
            await turn.stream("shout", through=Shouting())

    second = ScriptedEngine(lambda request: request.partial + " three")
    async with taken_over(ScriptedEngine(), second, HalfStored, until="ONE TWO") as (chat, turn):
        assert await chat.reply(turn) == "ONE TWO THREE"


class Launcher(Skill):
    """Launch a rocket."""

    name = "launcher"
    examples = ("launch the rocket", "lift off")

    async def answer(self, turn: Turn) -> None:
        await turn.say("Countdown. ")
        try:
            await turn.say(await turn.call_tool("launch", rocket="Ariane"))
        except OutcomeUnknown:
            await turn.say("It may have lifted off.")


class Careful(Skill):
    """Call a tool that fails, and go on."""

    name = "careful"
    examples = ("go",)

    async def answer(self, turn: Turn) -> None:
        try:
            await turn.call_tool("pay")
        except InvalidInput as error:
            await turn.say(f"{error}: ")
        await turn.stream("go on")


async def test_the_error_of_a_tool_is_replayed_and_the_tool_does_not_run_again() -> None:
    payments: list[str] = []

    @tool
    async def pay() -> str:
        """Pay."""
        payments.append("paid")
        raise InvalidInput("There is no money")

    async with taken_over(
        ScriptedEngine(ScriptedReply(text="Never mind that.", pause_after=1)),
        ScriptedEngine("Never mind that."),
        Careful,
        until="There is no money: Never",
        tools=(pay,),
    ) as (chat, turn):
        reply = await chat.reply(turn)
        states = [event.state for event in chat.recorder.events_of(turn, ToolCalled)]
    assert reply == "There is no money: Never mind that."
    assert payments == ["paid"]
    assert states == []  # those of the first attempt are stored


class Citing(Skill):
    """Calls a tool that cites, and says more."""

    name = "citing"

    async def answer(self, turn: Turn) -> None:
        await turn.say(await turn.call_tool("look_up") + " ")
        await turn.stream("go on")


async def test_what_a_tool_has_cited_is_cited_once_after_a_takeover() -> None:
    @tool(read_only=True)
    async def look_up(context: ToolContext) -> str:
        """Look something up."""
        passage = Passage(document="h.md", title="Handbook", section="", number=1, text="30 days")
        return f"30 days [{context.services.cite(passage)}]."

    async with taken_over(
        ScriptedEngine(ScriptedReply(text="Enjoy them.", pause_after=1)),
        ScriptedEngine("Enjoy them."),
        Citing,
        until="[1]. Enjoy",
        tools=(look_up,),
    ) as (chat, turn):
        reply = await chat.reply(turn)
        history = (await chat.server.snapshot(CONVERSATION)).history
        page = await chat.server.ledger.read(CONVERSATION, 0, 1_000)
    assert reply == "30 days [1]. Enjoy them."
    assert history[-1].citations
    assert [(each.number, each.title) for each in history[-1].citations] == [(1, "Handbook")]
    assert len([each for each in page.events if isinstance(each.event, Cited)]) == 1


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_started_tool_runs_again_only_if_it_is_idempotent(
    idempotent: bool,
) -> None:
    launches: list[str] = []
    launched = asyncio.Event()

    @tool(idempotent=idempotent)
    async def launch(rocket: str) -> str:
        """Launch."""
        launches.append(rocket)
        launched.set()
        if len(launches) == 1:
            await asyncio.Event().wait()
        return "Lift-off."

    async with taken_over(
        ScriptedEngine(), ScriptedEngine(), Launcher, when=launched.wait, tools=(launch,)
    ) as (chat, turn):
        reply = await chat.reply(turn)
        states = [event.state for event in chat.recorder.events_of(turn, ToolCalled)]
    if idempotent:
        assert (reply, launches) == ("Countdown. Lift-off.", ["Ariane", "Ariane"])
    else:
        assert (reply, launches) == ("Countdown. It may have lifted off.", ["Ariane"])
        assert states[-1] == "unknown"


async def test_a_turn_that_kills_every_worker_fails_visibly() -> None:
    ledger = MemoryLedger()
    turn = ""
    for attempt in range(3):
        async with replica(
            ledger, ScriptedEngine(ScriptedReply(text="x", pause_after=0)), Parrot
        ) as server:
            if not turn:
                turn = await ChatClient(server, CONVERSATION, "alice").send("poison")
            await until(lambda: server_runs(server) == 1)
            await die(server)
        assert attempt < 3
    async with replica(ledger, ScriptedEngine("x"), Parrot) as server:
        chat = ChatClient(server, CONVERSATION, "alice")
        subscription = await server.subscribe(CONVERSATION, chat.recorder)
        reply = await chat.reply(turn)
        assert reply.outcome == "failed"
        assert reply.problem is not None
        assert reply.problem.code == "max_attempts_exceeded"
        server.unsubscribe(subscription)
    (letter,) = await ledger.dead_letters(10)
    assert (letter.turn, letter.reason) == (turn, "given up after 3 attempts")
    assert [message.text for message in letter.messages] == ["poison"]


class SeldomTold(MemoryLedger):
    """Tells of work to one who has come to look, and never again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self.tells = asyncio.Event()

    async def wait_for_work(self, timeout: float) -> None:  # noqa: ASYNC109  the protocol's
        await self.tells.wait()
        self.tells.clear()


async def test_all_turns_of_a_dead_worker_are_taken_over_at_once() -> None:
    clock = [1000.0]
    ledger = SeldomTold(lambda: clock[0])
    await ledger.start()
    for thread in ("one", "two", "three"):
        where = Conversation("default", "test", thread)
        await ledger.accept(Message(conversation=where, id=new_id(), person="alice", text="go"))
        assert await ledger.claim("dead", lease=1, history=0) is not None
    clock[0] += 60
    engine = ScriptedEngine(lambda request: ScriptedReply(text="x", pause_after=0))
    async with replica(ledger, engine, Parrot) as heir:
        ledger.tells.set()
        await until(lambda: server_runs(heir) == 3)
        engine.resume()


async def test_a_fenced_worker_stops_and_frees_the_engine() -> None:
    clock = [1000.0]
    ledger = MemoryLedger(clock=lambda: clock[0])
    engine = ScriptedEngine(ScriptedReply(text="mine mine", pause_after=1))
    async with replica(ledger, engine, Parrot) as slow:
        chat = ChatClient(slow, CONVERSATION, "alice")
        await chat.send("go")
        await until(lambda: server_runs(slow) == 1)
        clock[0] += 60
        claim = await ledger.claim("thief", lease=60, history=0)
        assert claim is not None
        assert claim.attempt == 2
        await until(lambda: server_runs(slow) == 0)
        assert (await engine.stats()).running == 0


async def test_drain_releases_a_running_turn_without_counting_an_attempt() -> None:
    text = "left and right"
    ledger = MemoryLedger()
    first = ScriptedEngine(ScriptedReply(text=text, pause_after=1))
    settings = Settings(
        dispatch=DispatchSettings(lease=30), routing=RoutingSettings(default="parrot")
    ).model_copy(update={"server": Settings().server.model_copy(update={"drain": 0.0})})
    server = Server(
        settings,
        ledger=ledger,
        engine=first,
        knowledge=ListKnowledge(),
        skills={"parrot": Parrot()},
    )
    async with server:
        chat = ChatClient(server, CONVERSATION, "alice")
        subscription = await server.subscribe(CONVERSATION, chat.recorder)
        turn = await chat.send("go")
        await chat.recorder.wait_for(turn, text="left")
        server.unsubscribe(subscription)
    async with replica(ledger, ScriptedEngine(text), Parrot) as heir:
        recorder = RecordingSubscriber()
        subscription = await heir.subscribe(CONVERSATION, recorder)
        await recorder.wait_for(turn)
        assert recorder.texts[turn] == text
        assert {event.attempt for event in recorder.events_of(turn, Started)} <= {1}
        heir.unsubscribe(subscription)


async def test_a_skill_with_other_steps_drops_the_old_journal() -> None:
    ways = iter(("north", "south"))

    class Wanderer(Skill):
        """Go another way each time."""

        name = "wanderer"
        examples = ("wander", "roam")

        async def answer(self, turn: Turn) -> None:
            way = next(ways)
            await turn.generate(way)
            await turn.stream(f"then from the {way}")

    def first(request: GenerationRequest) -> ScriptedReply:
        prompt = request.messages[-1].content
        return ScriptedReply(
            text=f"[{prompt}] and on", pause_after=None if prompt == "north" else 4
        )

    second = ScriptedEngine(lambda request: f"<{request.messages[-1].content}> and on")
    async with taken_over(ScriptedEngine(first), second, Wanderer, until="north]") as (chat, turn):
        reply = await chat.reply(turn)
    assert second.requests[0].messages[-1].content == "south"
    assert reply.outcome == "done"


def test_ids_are_unique() -> None:
    assert new_id() != new_id()
