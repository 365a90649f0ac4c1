"""The choice of the skill, and its reason."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from tests.server.skills_under_test import Broken, Clerk, Painter, Parrot
from tests.server.web.live_server import eventually

from palaver import NotFound, Skill, Turn
from palaver.config.settings import RoutingSettings, Settings
from palaver.engine import Engine, EngineInfo, GenerationRequest
from palaver.errors import (
    EngineRefused,
    EngineUnavailable,
    Overloaded,
    PalaverError,
    PluginError,
)
from palaver.messages import Attachment, Conversation, Message, ProgramRequest, new_id
from palaver.plugins import load_plugins
from palaver.routing import Decision, Router
from palaver.routing.classifier import ExampleClassifier
from palaver.routing.engine_choice import TRIALS, is_better_than_chance
from palaver.routing.router import IMAGES_REASON
from palaver.routing.trials import TrialStore
from palaver.testing import ScriptedEngine, ScriptedReply, converse

SKILLS: dict[str, type[Skill]] = {s.name: s for s in (Parrot, Clerk, Painter, Broken)}
TRIAL_REQUESTS = min(TRIALS, sum(len(skill.examples) for skill in SKILLS.values()))
NOTHING = EngineInfo(model="none", context_window=0, capabilities=frozenset())


def message(text: str, skill: str | None = None) -> Message:
    return Message(
        conversation=Conversation("t", "c", "x"), id=new_id(), person="a", text=text, skill=skill
    )


def router(engine: Engine | None = None, engine_info: EngineInfo = NOTHING) -> Router:
    settings = RoutingSettings(default="parrot")
    return Router(SKILLS, settings=settings, engine=engine, engine_info=engine_info)


async def route(text: str, skill: str | None = None) -> Decision:
    return await router().route(message(text, skill))


@pytest.mark.parametrize("text", ["/painter a house", "/PAINT a house", "/paint\na house"])
async def test_a_command_names_the_skill(text: str) -> None:
    decision = await route(text)
    assert (decision.skill, decision.text) == ("painter", "a house")
    assert decision.reason.startswith("The person typed /")


async def test_a_path_is_no_command() -> None:
    assert (await route("/etc/passwd is what?")).skill in SKILLS


async def test_an_unknown_command_names_the_known_ones() -> None:
    with pytest.raises(NotFound, match=r"'nope'.*painter"):
        await route("/nope")


async def test_a_program_names_the_skill() -> None:
    decision = await route("a house in red", skill="paint")
    assert (decision.skill, decision.text) == ("painter", "a house in red")


async def test_an_unknown_command_of_a_program_is_a_text() -> None:
    sent = msgspec.structs.replace(message("/nope"), program=ProgramRequest())
    assert (await router().route(sent)).text == "/nope"


async def test_a_pattern_takes_the_message_and_its_arguments() -> None:
    decision = await route("Paint the old fence in green")
    assert decision.skill == "painter"
    assert decision.arguments == {"thing": "the old fence", "colour": "green"}


async def test_a_message_like_the_examples_goes_to_their_skill() -> None:
    decision = await route("could you register me")
    assert decision.skill == "clerk"
    assert decision.reason == "The message is like its examples."
    assert decision.score is not None
    assert decision.score > 0.5


async def test_a_message_that_fits_no_skill_goes_to_the_default() -> None:
    decision = await route("qwertz uiop")
    assert decision.skill == "parrot"
    assert "default" in decision.reason
    assert decision.score is not None
    assert decision.score < 0.5


async def test_the_engine_chooses_for_the_uncertain() -> None:
    engine = ScriptedEngine(choose_well)
    chooser = router(engine, await engine.start())
    assert (await chooser.route(message("qwertz uiop"))).skill == "parrot", "the trial runs"
    await chooser.wait_for_trial()
    decision = await chooser.route(message("qwertz uiop"))
    assert decision.skill == "broken"
    assert "the model chose" in decision.reason
    system = engine.requests[0].messages[0].content
    assert "painter: Paint a thing in a colour." in system
    assert len(engine.requests) == TRIAL_REQUESTS + 1
    await chooser.close()


async def test_a_server_tries_its_engine_out_beside_the_turns() -> None:
    engine = ScriptedEngine(lambda request: choose_well(request))
    settings = Settings(routing=RoutingSettings(default="parrot", threshold=1.0))
    async with converse(*SKILLS.values(), engine=engine, settings=settings) as chat:
        assert (await chat.say("qwertz uiop")).skill == "parrot"
        await eventually(lambda: len(engine.requests) > TRIAL_REQUESTS)
        reply = await chat.say("qwertz uiop")
        assert reply.reason == "The evidence left it open; the model chose."


async def test_a_server_stops_in_the_middle_of_a_trial() -> None:
    engine = ScriptedEngine(ScriptedReply(text="parrot", pause_after=0))
    settings = Settings(routing=RoutingSettings(default="clerk", threshold=1.0))
    async with converse(*SKILLS.values(), engine=engine, settings=settings) as chat:
        await chat.send("qwertz uiop")
        await eventually(lambda: bool(engine.requests))


def choose_well(request: GenerationRequest) -> str:
    """Name the skill that has the example; of other texts, ``broken``."""
    text = request.messages[-1].content
    return next((name for name, skill in SKILLS.items() if text in skill.examples), "broken")


async def test_an_engine_that_chooses_at_random_is_not_consulted() -> None:
    engine = ScriptedEngine(lambda request: "broken")
    chooser = router(engine, await engine.start())
    for _ in range(3):
        assert (await chooser.route(message("qwertz uiop"))).skill == "parrot"
        await chooser.wait_for_trial()
    assert len(engine.requests) == TRIAL_REQUESTS
    await chooser.close()


@pytest.mark.parametrize(
    ("right", "trials", "choices", "is_better"),
    [
        (12, 12, 2, True),
        (9, 12, 2, False),  # 7 % of coins do so
        (11, 12, 2, True),
        (5, 12, 100, False),  # no chance, but mostly wrong
        (6, 12, 6, True),
        (4, 12, 6, False),
    ],
)
def test_a_trial_is_passed_by_what_chance_does_not_do(
    right: int, trials: int, choices: int, is_better: bool
) -> None:
    assert is_better_than_chance(right, trials, choices) is is_better


async def test_the_default_answers_when_the_engine_fails() -> None:
    engine = ScriptedEngine(ScriptedReply(text="", crash_after=True))
    chooser = router(engine, await engine.start())
    assert (await chooser.route(message("qwertz uiop"))).skill == "parrot"
    await chooser.wait_for_trial()
    assert (await chooser.route(message("qwertz uiop"))).skill == "parrot"
    await chooser.close()


async def test_a_trial_that_a_failing_engine_ended_is_repeated() -> None:
    problems = [EngineUnavailable("it starts", retry_after=1)]

    def answer(request: GenerationRequest) -> str:
        if problems:
            raise problems.pop()
        return choose_well(request)

    engine = ScriptedEngine(answer)
    chooser = router(engine, await engine.start())
    for _ in range(3):
        decision = await chooser.route(message("qwertz uiop"))
        await chooser.wait_for_trial()
    assert (decision.skill, problems) == ("parrot", [])
    assert (await chooser.route(message("qwertz uiop"))).skill == "broken"
    await chooser.close()


async def chosen_by(engine: ScriptedEngine, store: TrialStore) -> str:
    """Return the skill of an uncertain message to a new router, after its trial."""
    settings = RoutingSettings(default="parrot")
    info = await engine.start()
    chooser = Router(SKILLS, settings=settings, engine=engine, engine_info=info, trials=store)
    await chooser.route(message("qwertz uiop"))
    await chooser.wait_for_trial()
    decision = await chooser.route(message("qwertz uiop"))
    await chooser.close()
    return decision.skill


@pytest.mark.parametrize(
    ("answer", "skill"), [("well", "broken"), ("badly", "parrot")], ids=["passed", "failed"]
)
async def test_a_restart_repeats_no_trial(tmp_path: Path, answer: str, skill: str) -> None:
    store = TrialStore(tmp_path / "trials", "engine")
    script = choose_well if answer == "well" else lambda request: "painter"
    first, second = ScriptedEngine(script), ScriptedEngine(script)
    assert await chosen_by(first, store) == skill
    assert len(first.requests) >= TRIAL_REQUESTS
    assert await chosen_by(second, TrialStore(tmp_path / "trials", "engine")) == skill
    assert len(second.requests) == len(first.requests) - TRIAL_REQUESTS
    other = ScriptedEngine(script)
    assert await chosen_by(other, TrialStore(tmp_path / "trials", "another")) == skill
    assert len(other.requests) == len(first.requests), "another engine is tried out"


async def test_a_trial_is_of_one_model_and_its_questions(tmp_path: Path) -> None:
    store = TrialStore(tmp_path, "engine")
    trials = {
        store.identify("a", ["q"]),
        store.identify("b", ["q"]),
        store.identify("a", ["r"]),
        TrialStore(tmp_path, "other").identify("a", ["q"]),
    }
    assert len(trials) == 4
    assert store.identify("a", ["q"]) in trials


@pytest.mark.parametrize("content", [b"", b"[]", b'{"passed": 1}', b"\xff", None])
async def test_a_result_that_cannot_be_read_is_tried_again(
    tmp_path: Path, content: bytes | None
) -> None:
    store = TrialStore(tmp_path / "trials", "engine")
    engine = ScriptedEngine(choose_well)
    assert await chosen_by(engine, store) == "broken"
    [path] = (tmp_path / "trials").iterdir()
    path.unlink()
    if content is None:
        path.mkdir()  # nor can it be stored
    else:
        path.write_bytes(content)
    engine = ScriptedEngine(choose_well)
    assert await chosen_by(engine, store) == "broken"
    assert len(engine.requests) > TRIAL_REQUESTS


@pytest.mark.parametrize("error", [Overloaded("busy"), EngineRefused("no"), PluginError("ended")])
async def test_no_error_of_a_choice_fails_the_turn(error: PalaverError) -> None:
    problems: list[PalaverError] = []

    def answer(request: GenerationRequest) -> str:
        if problems:
            raise problems[0]
        return choose_well(request)

    engine = ScriptedEngine(answer)
    chooser = router(engine, await engine.start())
    await chooser.route(message("qwertz uiop"))
    await chooser.wait_for_trial()
    problems.append(error)
    assert (await chooser.route(message("qwertz uiop"))).skill == "parrot"
    await chooser.close()


async def test_a_trial_ends_with_the_router() -> None:
    engine = ScriptedEngine(ScriptedReply(text="broken", pause_after=0))
    chooser = router(engine, await engine.start())
    await chooser.route(message("qwertz uiop"))
    await asyncio.sleep(0)
    await chooser.close()
    await chooser.wait_for_trial()


async def test_the_decision_is_in_the_stream() -> None:
    class Other(Skill):
        """Do something else."""

        name = "other"
        examples = ("something else entirely", "do the other thing")

        async def answer(self, turn: Turn) -> None:
            await turn.say("other")

    async with converse(Parrot, Other) as chat:
        reply = await chat.say("do something else entirely")
    assert (reply.skill, reply.reason) == ("other", "The message is like its examples.")


def hold_out(skill: type[Skill], fold: int) -> type[Skill]:
    """Return the skill without every fifth of its examples."""
    kept = tuple(text for i, text in enumerate(skill.examples) if i % 5 != fold)
    return type(skill.__name__, (skill,), {"examples": kept, "__doc__": skill.__doc__})


def rank_held_out() -> list[tuple[float, bool]]:
    """Return probability and correctness of the first choice, for held-out examples."""
    skills = load_plugins().skills
    results = []
    for fold in range(5):
        index = ExampleClassifier({name: hold_out(skill, fold) for name, skill in skills.items()})
        for name, skill in skills.items():
            for text in skill.examples[fold::5]:
                chances = index.weigh(text)
                assert sum(chances.values()) == pytest.approx(1)
                best = max(skills, key=lambda skill: chances[skill])
                results.append((chances[best], best == name))
    return results


@pytest.mark.slow
def test_probabilities_are_calibrated() -> None:
    """Check on held-out examples that most likely choices are right, and that the mean probability
    is close to the share of right choices."""
    results = rank_held_out()
    sure = [right for probability, right in results if probability >= 0.5]
    assert len(sure) > len(results) / 5
    assert sum(sure) / len(sure) >= 0.75
    mean = sum(probability for probability, _ in results) / len(results)
    share = sum(right for _, right in results) / len(results)
    assert mean == pytest.approx(share, abs=0.25)


UNSEEN = [
    ("good morning, how was your night?", "chat"),
    ("what is your name", "chat"),
    ("tell me a joke please", "chat"),
    ("translate 'see you tomorrow' to Spanish", "translation"),
    ("how do you say thank you in Chinese?", "translation"),
    ("please put this into French: the train is late", "translation"),
    ("was heißt Apfel auf Englisch?", "translation"),
    ("write a python function that sorts a list of names", "codegen"),
    ("python code to count the words in a file", "codegen"),
    ("implement a function that checks whether a year is a leap year", "codegen"),
    ("summarize this paragraph: The committee met on Monday.", "summarization"),
    ("give me the key points of our conversation", "summarization"),
    ("shorten the following text", "summarization"),
    ("what do the documents say about holidays?", "qa"),
    ("according to the handbook, when does the office open?", "qa"),
    ("how many vacation days do employees get per year?", "qa"),
]


@pytest.fixture
def built_in() -> Mapping[str, type[Skill]]:
    return load_plugins().skills


async def test_people_reach_the_built_in_skills(built_in: Mapping[str, type[Skill]]) -> None:
    settings = RoutingSettings(consult_engine=False)
    router = Router(built_in, settings=settings, engine=None, engine_info=NOTHING)
    wrong = [
        (text, wanted, got)
        for text, wanted in UNSEEN
        if (got := (await router.route(message(text))).skill) != wanted
    ]
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize(
    ("text", "arguments", "rest"),
    [
        ("--colour red a house", {"colour": "red"}, "a house"),
        ("--colour=red a house", {"colour": "red"}, "a house"),
        ('--thing "a house" --colour red now', {"thing": "a house", "colour": "red"}, "now"),
        ("--colour red", {"colour": "red"}, ""),
        ("--verbose a house", {}, "--verbose a house"),
        ("a house --colour red", {}, "a house --colour red"),
        ("--colour", {}, "--colour"),
    ],
)
async def test_a_command_has_options(text: str, arguments: dict[str, str], rest: str) -> None:
    decision = await route(f"/painter {text}")
    assert (decision.arguments, decision.text) == (arguments, rest)


async def test_a_command_leaves_the_indentation_of_the_lines_below() -> None:
    assert (await route("/painter \r\n    a house\n")).text == "    a house\n"


async def test_arguments_of_a_program_go_to_the_skill_that_the_router_chooses() -> None:
    given = {"thing": "a house"}
    for text in ("/painter --colour red x", "Paint the old fence in green", "qwertz"):
        sent = msgspec.structs.replace(message(text), arguments=given)
        decision = await router().route(sent)
        assert decision.arguments == ({"colour": "red"} if text[0] == "/" else {}) | given


PICTURE = Attachment(name="a.png", media_type="image/png", url="/v1/files/a")
NOTE = Attachment(name="a.txt", media_type="text/plain", url="/v1/files/b")


class SeeingParrot(Parrot):
    sees_images = True


class SeeingClerk(Clerk):
    sees_images = True


@pytest.mark.parametrize(
    ("text", "attachments", "seeing", "expected"),
    [
        ("Paint the old fence in green", (PICTURE,), (SeeingClerk,), "clerk"),
        ("Paint the old fence in green", (NOTE, PICTURE), (SeeingClerk, SeeingParrot), "parrot"),
        ("", (PICTURE,), (SeeingClerk,), "clerk"),
        ("Paint the old fence in green", (NOTE,), (SeeingClerk,), "painter"),
        ("Paint the old fence in green", (PICTURE,), (), "painter"),
        ("/painter a house", (PICTURE,), (SeeingClerk,), "painter"),
    ],
)
async def test_images_go_to_a_skill_that_sees_them(
    text: str,
    attachments: tuple[Attachment, ...],
    seeing: tuple[type[Skill], ...],
    expected: str,
) -> None:
    skills = SKILLS | {skill.name: skill for skill in seeing}
    settings = RoutingSettings(default="parrot")
    chooser = Router(skills, settings=settings, engine=None, engine_info=NOTHING)
    sent = msgspec.structs.replace(message(text), attachments=attachments)
    decision = await chooser.route(sent)
    assert decision.skill == expected
    by_images = bool(seeing) and PICTURE in attachments and not text.startswith("/")
    assert (decision.reason == IMAGES_REASON) is by_images
