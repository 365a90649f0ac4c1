"""Conversations with skills, through the real server."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest
from pydantic import BaseModel, Field, model_validator
from tests.server.skills_under_test import (
    Biographer,
    Broken,
    Clerk,
    Concierge,
    Judge,
    Painter,
    Parrot,
    Printer,
    Tailor,
)

from palaver import (
    ConfigurationError,
    NoArguments,
    NotFound,
    Skill,
    Turn,
    UnvalidatedArguments,
    tool,
)
from palaver.config.settings import DispatchSettings, RoutingSettings, Settings
from palaver.errors import Conflict, EngineTimeout, TooMany
from palaver.ledger import INBOX_LIMIT
from palaver.messages import Conversation, Finished, Queued, Received, Routed, Started, ToolCalled
from palaver.testing import (
    ChatClient,
    MemoryLedger,
    RecordingSubscriber,
    Reply,
    ScriptedEngine,
    ScriptedReply,
    converse,
)


async def test_a_reply_is_what_the_engine_says() -> None:
    async with converse(Parrot, engine=ScriptedEngine("Old pond. A frog.")) as chat:
        reply = await chat.say("hello")
    assert reply == "Old pond. A frog."
    assert (reply.skill, reply.outcome) == ("parrot", "done")
    assert [type(event) for event in reply.events] == [Received, Started, Routed, Finished]


async def test_the_history_comes_before_the_message() -> None:
    engine = ScriptedEngine("Hello Bob.", "You are Bob.")
    async with converse(Parrot, engine=engine) as chat:
        await chat.say("I am Bob")
        await chat.say("Who am I?")
    said = [(m.role, m.content) for m in engine.requests[1].messages]
    assert said == [("user", "I am Bob"), ("assistant", "Hello Bob."), ("user", "Who am I?")]


async def test_turns_of_one_conversation_run_in_order() -> None:
    engine = ScriptedEngine(
        lambda request: f"re: {request.messages[-1].content}", seconds_per_token=0.001
    )
    async with converse(Parrot, engine=engine) as chat:
        turns = [await chat.send(f"number {i}") for i in range(10)]
        replies = [await chat.reply(turn) for turn in turns]
        received = [chat.recorder.events_of(turn, Received)[0] for turn in turns]
    assert replies == [f"re: number {i}" for i in range(10)]
    assert [event.ahead for event in received[:3]] == [0, 1, 2]
    assert [request.messages[-1].content for request in engine.requests] == [
        f"number {i}" for i in range(10)
    ]


async def test_the_same_message_twice_is_answered_once() -> None:
    engine = ScriptedEngine("Once.")
    async with converse(Parrot, engine=engine) as chat:
        first = await chat.send("hello", id="m1")
        second = await chat.send("hello", id="m1")
        assert first == second
        assert await chat.reply(first) == "Once."
        with pytest.raises(Conflict):
            await chat.send("something else", id="m1")
    assert len(engine.requests) == 1


async def test_a_full_inbox_refuses() -> None:
    engine = ScriptedEngine(lambda _: ScriptedReply(text="wait", pause_after=0))
    async with converse(Parrot, engine=engine) as chat:
        turns = [await chat.send(f"number {number}") for number in range(INBOX_LIMIT)]
        with pytest.raises(TooMany):
            await send_many(chat, 2)
        engine.resume()
        assert await chat.reply(turns[0]) == "wait"


async def send_many(chat: ChatClient, count: int) -> None:
    for number in range(count):
        await chat.send(f"one more, {number}")


async def test_a_question_ends_the_turn_and_the_answer_goes_on() -> None:
    async with converse(Clerk, Parrot) as chat:
        asked = await chat.say("/clerk my file")
        assert asked == "Welcome.\n\nWhat is your name?"
        assert asked.outcome == "asked"
        second = await chat.say("Ada")
        assert second == "How old are you, Ada?"
        assert second.question is not None
        assert second.question.options == ("18", "80")
        assert second.reason == "It asked, and this is the answer."
        done = await chat.say("36")
        assert done == "Ada is 36 and said: my file"
        assert done.outcome == "done"


async def test_a_skill_that_asked_sees_the_history_that_it_saw_then() -> None:
    engine = ScriptedEngine("Hello.", "First.", "Second.")
    async with converse(Biographer, Parrot, engine=engine) as chat:
        await chat.say("/parrot hi")
        assert await chat.say("/biographer") == "First.\n\nAnd then?"
        assert await chat.say("Paris") == "Second."
    assert len(engine.requests) == 3, "the first generation is not made again"


async def test_a_remembered_value_is_recalled_in_another_conversation() -> None:
    ledger = MemoryLedger()
    async with converse(Concierge, ledger=ledger) as chat:
        assert await chat.say("the window") == "Until now: nothing."
    async with converse(Concierge, ledger=ledger, thread="other") as chat:
        assert await chat.say("the aisle") == "Until now: the window."
    async with converse(Concierge, ledger=ledger, person="bob") as chat:
        assert await chat.say("the wing") == "Until now: nothing."


async def test_a_tool_that_fails_is_shown_to_have_failed() -> None:
    @tool(name="print")
    async def fail() -> str:
        """Print."""
        raise ValueError("out of paper")

    async with converse(Printer, tools=[fail]) as chat:
        reply = await chat.say("print it")
    states = [event.state for event in reply.events if isinstance(event, ToolCalled)]
    assert states == ["started", "failed"]
    assert reply.outcome == "failed"


async def test_a_command_leaves_the_question_and_the_reason_says_so() -> None:
    async with converse(Clerk, Parrot, engine=ScriptedEngine("Hi.", "Hi again.")) as chat:
        await chat.say("/clerk")
        reply = await chat.say("/parrot hello")
        assert reply == "Hi."
        assert reply.reason == "The question was left: The person typed /parrot."
        assert (await chat.say("say something")).skill == "parrot"


@pytest.mark.parametrize("answer", ["Large", " large ", "LARGE", "2", "2."])
async def test_an_option_is_chosen_in_any_case_or_by_its_number(answer: str) -> None:
    async with converse(Tailor, Parrot) as chat:
        asked = await chat.say("/tailor")
        assert asked.question is not None
        assert asked.question.options == ("Small", "Large")
        reply = await chat.say(answer)
        assert reply == "One shirt, Large."
        assert reply.reason == "It asked, and this is the answer."


async def test_an_answer_that_is_no_option_is_asked_for_again() -> None:
    async with converse(Tailor, Parrot) as chat:
        await chat.say("/tailor")
        again = await chat.say("the biggest")
        assert again == "Please answer with one of these: 1. Small, 2. Large. Which size?"
        assert again.question is not None
        assert again.question.options == ("Small", "Large")
        assert await chat.say("3") == again
        failed = await chat.say("0")
        assert (failed, failed.outcome) == ("", "failed")
        assert failed.problem is not None
        assert failed.problem.code == "unusable_answer"
        assert failed.problem.message == (
            "I asked 3 times and got none of these: 1. Small, 2. Large."
        )


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Paint the garden gate in blue", "The message has the form of a request to it."),
        ("colour my fence green please", "The message is like its examples."),
    ],
)
async def test_a_clear_request_leaves_a_question_with_options(message: str, reason: str) -> None:
    async with converse(Tailor, Painter, Clerk) as chat:
        await chat.say("/tailor")
        reply = await chat.say(message)
        assert (reply.skill, reply.reason) == ("painter", f"The question was left: {reason}")


async def test_a_free_answer_is_left_only_for_a_command_or_the_form_of_a_request() -> None:
    async with converse(Clerk, Painter, Tailor) as chat:
        await chat.say("/clerk")
        asked = await chat.say("colour my fence green please")
        assert asked == "How old are you, colour my fence green please?"
        left = await chat.say("Paint the garden gate in blue")
        assert left == "The the garden gate is blue now."
        assert left.reason.startswith("The question was left: ")


async def test_an_option_is_an_answer_even_if_it_has_the_form_of_another_request() -> None:
    class Decorator(Skill):
        """Decorate a room."""

        name = "decorator"
        examples = ("decorate my room", "a new wallpaper")

        async def answer(self, turn: Turn) -> None:
            wish = await turn.ask("What first?", ["Paint the door in red", "Wait"])
            await turn.say(f"First: {wish}.")

    async with converse(Decorator, Painter) as chat:
        await chat.say("/decorator")
        assert await chat.say("paint the door in red") == "First: Paint the door in red."


async def test_a_skill_that_asked_sees_what_it_saw_before_its_questions() -> None:
    seen: list[object] = []

    class Host(Skill):
        """Seat a guest."""

        name = "host"
        examples = ("a table please",)

        async def answer(self, turn: Turn) -> None:
            name = await turn.ask("What name?")
            people = await turn.ask("How many people?")
            seen.extend((turn.message.text, [message.text for message in turn.messages]))
            seen.append([line.text for line in turn.history])
            await turn.say(f"A table for {people}, {name}.")

    async with converse(Parrot, Host) as chat:
        reply = await chat.say("/parrot hello")
        await chat.say("/host a table")
        await chat.say("Ada")
        assert await chat.say("two") == "A table for two, Ada."
    assert seen == ["a table", ["/host a table"], ["/parrot hello", reply]]


async def test_a_running_turn_has_time_to_end_while_the_server_drains() -> None:
    engine = ScriptedEngine(ScriptedReply(text="one two", pause_after=1))
    async with converse(Parrot, engine=engine) as chat:
        turn = await chat.send("go")
        await chat.recorder.wait_for(turn, text="one")
        draining = asyncio.create_task(chat.server._dispatcher.drain(30.0))
        await asyncio.sleep(0)
        engine.resume()
        assert await chat.reply(turn) == "one two"
        await draining


async def test_an_interceptor_sees_the_arguments_before_and_after_they_are_validated() -> None:
    seen: list[object] = []

    class Spy:
        async def intercept(self, turn: Turn, call_next: Callable[[], Awaitable[None]]) -> None:
            seen.append(turn.arguments)
            await call_next()
            seen.append(turn.arguments)

    async with converse(Painter, Parrot, interceptors=[Spy()]) as chat:
        await chat.say("paint the gate in blue")
        await chat.say("/parrot hello")
    given, validated, nothing, none = seen
    assert isinstance(given, UnvalidatedArguments)
    assert given.model_dump() == {"thing": "the gate", "colour": "blue"}
    assert validated == Painter.Arguments(thing="the gate", colour="blue")
    assert nothing == UnvalidatedArguments()
    assert none == NoArguments()


async def test_arguments_come_from_the_pattern() -> None:
    async with converse(Painter, Parrot) as chat:
        reply = await chat.say("Paint the garden gate in blue")
        assert reply == "The the garden gate is blue now."
        assert reply.reason == "The message has the form of a request to it."


async def test_a_command_takes_arguments_from_a_text_that_is_not_too_long_to_route() -> None:
    settings = Settings(routing=RoutingSettings(default="parrot", max_characters=40))
    async with converse(Painter, Parrot, settings=settings) as chat:
        assert await chat.say("/paint paint the gate in blue") == "The the gate is blue now."
        asked = await chat.say("/paint " + "please " * 10 + "paint the gate in blue")
        assert asked == "What shall I paint?"


async def test_missing_and_wrong_arguments_are_asked_for() -> None:
    async with converse(Painter, Parrot) as chat:
        asked = await chat.say("/paint gate in purple")
        assert asked == "What shall I paint?"
        asked = await chat.say("the gate")
        assert asked == "In which colour?"
        asked = await chat.say("purple")
        assert asked == "There is no paint of colour 'purple'. In which colour?"
        assert await chat.say("red") == "The the gate is red now."


async def test_a_program_gets_the_names_of_wrong_arguments() -> None:
    async with converse(Painter, Parrot) as chat:
        reply = await chat.say("", skill="painter", arguments={"thing": "gate", "size": 3})
        assert reply.outcome == "failed"
        assert reply.problem is not None
        assert reply.problem.message == (
            "Skill 'painter': argument 'size' is not known; argument 'colour' must be set"
        )


async def test_a_wrong_argument_is_named_in_a_sentence() -> None:
    class Baker(Skill):
        """Bake loaves."""

        name = "baker"
        examples = ("bake bread", "make a loaf")
        patterns = (r"bake (?P<loaves>\S+) loaves(?: until (?P<end>\d+))?",)

        class Arguments(BaseModel):
            loaves: int = Field(le=9, title="How many loaves?")
            end: int = 24

            @model_validator(mode="after")
            def _check(self) -> "Baker.Arguments":
                if self.loaves > self.end:
                    raise ValueError("There is no time for so many loaves.")
                return self

        async def answer(self, turn: Turn[Arguments]) -> None:
            await turn.say(f"{turn.arguments.loaves} loaves.")

    async with converse(Baker, Parrot) as chat:
        asked = await chat.say("bake many loaves")
        assert asked == "I cannot use 'many'. How many loaves?"
        assert await chat.say("lots") == (
            "That must be a whole number, not 'lots'. How many loaves?"
        )
        assert await chat.say("10") == "That must be at most 9, not '10'. How many loaves?"
        assert await chat.say("9") == "9 loaves."
        refused = await chat.say("bake 3 loaves until 2")
        assert refused.problem is not None
        assert refused.problem.message == "Skill 'baker': There is no time for so many loaves."
        wrong = await chat.say("", skill="baker", arguments={"loaves": "x"})
        assert wrong.problem is not None
        assert wrong.problem.message == (
            "Skill 'baker': argument 'loaves' must be a whole number, not 'x'"
        )


async def test_a_turn_fails_after_three_unusable_values() -> None:
    async with converse(Painter, Parrot) as chat:
        await chat.say("/paint the gate in purple")
        await chat.say("the gate")
        for _ in range(2):
            await chat.say("purple")
        failed = await chat.say("purple")
        assert failed.problem is not None
        assert failed.problem.message == "I asked 3 times and got no usable value for 'colour'."


async def test_an_unknown_skill_is_refused_before_anything_is_stored() -> None:
    async with converse(Parrot) as chat:
        with pytest.raises(NotFound, match="missing"):
            await chat.send("hello", skill="missing")
        assert not chat.recorder.events
        typed = await chat.say("/missing hello")
        assert typed.problem is not None
        assert typed.problem.code == "not_found"
        assert "/parrot" in typed.problem.message


async def test_structured_generation() -> None:
    engine = ScriptedEngine("guilty", '{"guilty": true, "years": 7}', "hm hm")
    async with converse(Judge, engine=engine) as chat:
        assert await chat.say("the butler") == "guilty, 7 years: hm hm"


async def test_a_skill_that_the_engine_cannot_serve_is_refused_at_start() -> None:
    with pytest.raises(ConfigurationError, match="'judge' needs an engine with choice"):
        async with converse(Judge, engine=ScriptedEngine(missing_capabilities=["choice"])):
            pass


async def test_a_bug_in_a_skill_ends_its_turn_only(caplog: pytest.LogCaptureFixture) -> None:
    async with converse(Broken, Parrot, engine=ScriptedEngine("Fine.")) as chat:
        reply = await chat.say("/broken")
        assert (reply, reply.outcome) == ("So far, ", "failed")
        assert reply.problem is not None
        assert "hunter2" not in reply.problem.message
        assert await chat.say("/parrot hi") == "Fine."
    assert "LookupError" in caplog.text
    assert "hunter2" not in caplog.text


async def test_an_engine_error_is_reported_in_a_sentence() -> None:
    line = ScriptedReply(text="I will", error=EngineTimeout("after 3 s"))
    async with converse(Parrot, engine=ScriptedEngine(line)) as chat:
        reply = await chat.say("hello")
    assert reply.problem is not None
    assert reply.problem.message == "The language model took too long to answer."
    assert reply == "I will"


async def test_a_turn_has_a_timeout() -> None:
    class Sleeper(Skill):
        """Never answer."""

        name = "sleeper"
        examples = ("sleep", "doze")

        async def answer(self, turn: Turn) -> None:
            await asyncio.Event().wait()

    settings = Settings(dispatch=DispatchSettings(turn_timeout=0.05))
    async with converse(Sleeper, settings=settings) as chat:
        reply = await chat.say("sleep")
    assert reply.outcome == "failed"


async def test_stop_keeps_the_text_and_frees_the_engine() -> None:
    engine = ScriptedEngine(ScriptedReply(text="one two three four", pause_after=2), "next")
    async with converse(Parrot, engine=engine) as chat:
        turn = await chat.send("count")
        await chat.recorder.wait_for(turn, text="one two")
        assert (await engine.stats()).running == 1
        assert await chat.stop() == "stopping"
        reply = await chat.reply(turn)
        assert (reply, reply.outcome) == ("one two", "stopped")
        assert (await engine.stats()).running == 0
        assert await chat.stop(turn) == "settled"
        assert await chat.say("go on") == "next"
    history = [message.content for message in engine.requests[1].messages]
    assert history == ["count", "one two", "go on"]


async def test_a_queued_turn_can_be_stopped_before_it_runs() -> None:
    engine = ScriptedEngine(ScriptedReply(text="first", pause_after=0), "third")
    async with converse(Parrot, engine=engine) as chat:
        first = await chat.send("1")
        second = await chat.send("2")
        third = await chat.send("3")
        assert await chat.stop(second) == "stopping"
        stopped = await chat.reply(second)  # while the first one runs
        assert (stopped, stopped.outcome) == ("", "stopped")
        engine.resume()
        assert [await chat.reply(turn) for turn in (first, third)] == ["first", "third"]


async def test_a_turn_that_waits_for_another_conversation_is_stopped_at_once() -> None:
    engine = ScriptedEngine(ScriptedReply(text="one two", pause_after=1), "third")
    settings = Settings(
        dispatch=DispatchSettings(max_running=1), routing=RoutingSettings(default="parrot")
    )
    async with converse(Parrot, engine=engine, settings=settings) as chat:
        other = ChatClient(chat.server, Conversation("default", "test", "other"), "bob")
        subscription = await chat.server.subscribe(other.conversation, other.recorder)
        await other.recorder.wait_for(await other.send("1"), text="one")
        turn = await chat.send("2")
        assert await chat.stop() == "stopping"
        assert (await chat.reply(turn)).outcome == "stopped"
        engine.resume()
        assert await chat.say("3") == "third"
        chat.server.unsubscribe(subscription)


async def test_a_turn_that_waits_for_the_engine_is_stopped_at_once() -> None:
    engine = ScriptedEngine(ScriptedReply(text="one two", pause_after=1), "third", slots=1)
    async with converse(Parrot, engine=engine) as chat:
        other = ChatClient(chat.server, Conversation("default", "test", "other"), "bob")
        subscription = await chat.server.subscribe(other.conversation, other.recorder)
        await other.recorder.wait_for(await other.send("1"), text="one")
        turn = await chat.send("2")
        async with asyncio.timeout(5):
            while not chat.recorder.events_of(turn, Queued):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await chat.stop(turn) == "stopping"
        assert (await chat.reply(turn)).outcome == "stopped"
        engine.resume()
        assert await chat.say("3") == "third"
        chat.server.unsubscribe(subscription)


async def test_two_subscribers_see_the_same() -> None:
    engine = ScriptedEngine(ScriptedReply(text="a b c d e f", pause_after=3))
    async with converse(Parrot, engine=engine) as chat:
        turn = await chat.send("letters")
        await chat.recorder.wait_for(turn, text="a b c")
        late = RecordingSubscriber()
        subscription = await chat.server.subscribe(chat.conversation, late)
        assert not subscription.recovered
        engine.resume()
        await late.wait_for(turn)
        assert await chat.reply(turn) == late.texts[turn] == "a b c d e f"
        chat.server.unsubscribe(subscription)


async def test_a_subscriber_that_reconnects_misses_nothing() -> None:
    async with converse(Parrot, engine=ScriptedEngine("one", "two", "three")) as chat:
        recorder = RecordingSubscriber()
        subscription = await chat.server.subscribe(chat.conversation, recorder)
        await chat.say("1")
        await recorder.wait_for(next(iter(recorder.events)))
        chat.server.unsubscribe(subscription)
        await chat.say("2")
        last = await chat.send("3")
        again = await chat.server.subscribe(chat.conversation, recorder, recorder.cursor)
        assert again.recovered
        await recorder.wait_for(last)
        assert not recorder.snapshots[1:]
        assert list(recorder.texts.values()) == ["one", "two", "three"]
        chat.server.unsubscribe(again)


async def test_long_histories_are_cut_in_steps() -> None:
    engine = ScriptedEngine(lambda _: "yes " * 20, context_window=1000)
    async with converse(Parrot, engine=engine) as chat:
        for number in range(40):
            await chat.say(f"message number {number}")
    firsts = [request.messages[0].content for request in engine.requests]
    changes = sum(a != b for a, b in itertools.pairwise(firsts))
    lengths = [len(request.messages) for request in engine.requests]
    assert max(lengths[-10:]) < 40
    assert min(lengths[-10:]) > max(lengths) // 2, "much of the history should stay"
    assert changes < 20, "the beginning of the prompt should stay while the conversation grows"


def test_a_reply_compares_as_text() -> None:
    assert Reply("a") == "a"


async def test_a_subscriber_sees_the_new_epoch_of_an_erased_conversation() -> None:
    ledger = MemoryLedger()
    engine = ScriptedEngine("one", "two", "three")
    async with converse(Parrot, engine=engine, ledger=ledger) as chat:
        await chat.say("my secret")
        await chat.say("and more")
        await ledger.erase("default", "alice")
        reply = await chat.say("hello again")
        assert reply == "three"
        assert chat.recorder.snapshots[-1].history == ()
    assert [message.content for message in engine.requests[2].messages] == ["hello again"]
