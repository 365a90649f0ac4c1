"""What models that were made for a few tasks decline, and what the way out is."""

import pytest
from tests.skills.support import REACH, Demonstration, say_alone

from palaver import Document, Skill
from palaver.testing import ScriptedEngine, converse
from palaver_plugins.tools.arithmetic import calculate
from palaver_plugins.tools.dates import current_time
from palaver_skills.agent import Agent
from palaver_skills.chat import Chat
from palaver_skills.codegen import Codegen
from palaver_skills.courtesies import COURTESIES
from palaver_skills.flaws import is_in_language
from palaver_skills.language_detection import detect_language
from palaver_skills.qa import QA
from palaver_skills.refusals import CALCULATE, REASONS, TASKS, WAY_OUT
from palaver_skills.summarization import Summarization
from palaver_skills.translation import Translation

SHOP = (Document(id="returns", title="Returns", text="You may return goods within 30 days."),)
SMALL_TALK = {
    "en": "Hello, how are you today?",
    "de": "Hallo, wie geht es dir heute?",
    "fr": "Bonjour, comment vas-tu aujourd'hui ?",
    "es": "Hola, ¿cómo estás hoy?",
    "zh": "你好，你今天好吗？",
}
GENERAL = {
    "en": "Who invented the telephone?",
    "de": "Wer hat das Telefon erfunden?",
    "fr": "Qui a inventé le téléphone ?",
    "es": "¿Quién inventó el teléfono?",
    "zh": "是谁发明了电话？",
}
HELP = {
    "en": "Hi! What can you do?",
    "de": "Was kannst du?",
    "fr": "Qu'est-ce que tu sais faire ?",
    "es": "¿Qué puedes hacer?",
    "zh": "你能做什么？",
}
LONG = "It rains in the north and in the south of the country. " * 5


@pytest.mark.parametrize("language", WAY_OUT)
async def test_a_question_of_knowledge_is_declined_in_its_language(language: str) -> None:
    engine = Demonstration()
    async with converse(Chat, engine=engine) as chat:
        reply = await chat.say(GENERAL[language])
        assert reply.startswith(REASONS["knowledge"][language])
        assert reply.endswith(WAY_OUT[language])
        assert not engine.requests


@pytest.mark.parametrize("language", WAY_OUT)
async def test_it_tells_what_it_can_do_in_the_language_of_the_person(language: str) -> None:
    engine = Demonstration()
    async with converse(Chat, engine=engine) as chat:
        reply = await chat.say(HELP[language])
        assert TASKS["small_talk"][language] in reply
        assert CALCULATE[language] in reply
        assert reply.endswith(WAY_OUT[language])
        assert not engine.requests


@pytest.mark.parametrize("language", WAY_OUT)
async def test_a_courtesy_has_a_fixed_answer_in_the_language_of_the_person(language: str) -> None:
    engine = Demonstration()
    async with converse(Chat, engine=engine) as chat:
        reply = await chat.say(SMALL_TALK[language])
        assert reply in {answer for _, answer in COURTESIES}
        assert is_in_language(reply, language)
        assert not engine.requests


async def test_other_small_talk_is_answered_by_the_model() -> None:
    engine = Demonstration("It is nice to have things you love.")
    async with converse(Chat, engine=engine) as chat:
        assert await chat.say("I love rainy days") == "It is nice to have things you love."
        assert engine.requests[0].sampling.temperature == 0


async def test_small_talk_in_another_language_than_the_person_is_not_said() -> None:
    async with converse(Chat, engine=Demonstration("我很好，谢谢。")) as chat:
        assert (await chat.say("Ich mag Regentage sehr")).startswith(REASONS["small_talk"]["de"])


async def test_arithmetic_and_the_date_need_no_model() -> None:
    engine = Demonstration()
    async with converse(Chat, engine=engine, tools=(calculate, current_time)) as chat:
        assert await chat.say("Was ist 15 mal 12?") == "15 * 12 = 180"
        assert (await chat.say("What day is it today?")).startswith("It is ")
        assert (await chat.say("Welcher Tag ist heute?")).startswith("Es ist ")
        assert not engine.requests


async def test_without_the_tools_both_are_declined() -> None:
    async with converse(Chat, engine=Demonstration()) as chat:
        for message in ("Was ist 15 mal 12?", "Welcher Tag ist heute?"):
            assert (await chat.say(message)).startswith(REASONS["knowledge"]["de"])


SAYS = {
    (QA, "Until when can I return goods?"): "Within 30 days. [1]",
    (Translation, "translate to French: It rains."): "Il pleut.",
    (Codegen, "Write a function that adds two numbers."): (
        "```python\ndef add(a, b):\n    return a + b\n```\nIt adds them."
    ),
    (Summarization, "Summarize: It rains. The sun is gone. We stay."): "It rains. We stay.",
}


@pytest.mark.parametrize(("skill", "message"), SAYS)
async def test_what_is_within_reach_is_answered(skill: type[Skill], message: str) -> None:
    said = SAYS[skill, message]
    async with converse(skill, engine=Demonstration(said), knowledge=SHOP) as chat:
        reply = await chat.say(message)
        assert reply == said
        assert len(reply.citations) == (skill is QA)


@pytest.mark.parametrize(
    ("skill", "message", "reason"),
    [
        (QA, "Bis wann kann ich goods zurückgeben?", "request_language"),
        (QA, "What is a xylophone?", "no_passage"),
        (Translation, f"translate to French: {LONG}", "long_sentence"),
        (Translation, "translate to Italian: It rains.", "language"),
        (Summarization, f"Summarize: {LONG}", "long_text"),
        (
            Summarization,
            "Summarize this text: Es regnet. Die Sonne ist weg.",
            "language",
        ),
        (Codegen, "Write an SQL query that lists all customers.", "programming_language"),
        (Codegen, "Schreibe eine Funktion, die zwei Zahlen addiert.", "request_language"),
        (Agent, "What day is it in 100 days?", "steps"),
    ],
)
async def test_what_is_out_of_reach_is_declined_before_the_model_is_asked(
    skill: type[Skill], message: str, reason: str
) -> None:
    engine = Demonstration()
    async with converse(skill, engine=engine, knowledge=SHOP) as chat:
        reply = await chat.say(message)
        beginnings = {text.partition("{")[0] for text in REASONS[reason].values()}
        assert reply.startswith(tuple(filter(None, beginnings)))
        assert any(way in reply for way in WAY_OUT.values())
        assert not reply.citations
        assert not engine.requests


@pytest.mark.parametrize(
    ("skill", "message", "written", "reason"),
    [
        (QA, "Until when can I return goods?", "Within 60 days. [1]", "no_answer"),
        (QA, "Until when can I return goods?", "The documents do not say.", "no_answer"),
        (Translation, "translate to French: It rains.", "pleut " * 9, "no_result"),
        (Translation, "translate to French: It rains.", "我喜欢喝茶", "no_result"),
        (Summarization, "Summarize: It rains. The sun is gone.", "A lady sings.", "no_result"),
        (Codegen, "Write a function.", "```python\ndef f(x:\n```", "no_code"),
        (Codegen, "Write a function.", "```python\nx = 1\n```", "no_code"),
        (Codegen, "Write a function.", "It is easy.", "no_code"),
    ],
)
async def test_what_the_model_wrote_and_cannot_be_used_is_declined(
    skill: type[Skill], message: str, written: str, reason: str
) -> None:
    async with converse(skill, engine=Demonstration(written), knowledge=SHOP) as chat:
        reply = await chat.say(message)
        assert reply.startswith(REASONS[reason]["en"])
        assert not reply.citations


@pytest.mark.parametrize(("probability", "is_said"), [(0.6, True), (0.4, False)])
async def test_a_translation_that_the_model_is_unsure_of_is_declined(
    probability: float, is_said: bool
) -> None:
    engine = Demonstration("Il pleut.", probability=probability)
    async with converse(Translation, engine=engine) as chat:
        reply = await chat.say("translate to French: It rains.")
        assert (reply == "Il pleut.") is is_said
        assert engine.requests[0].sampling.logprobs == 0


@pytest.mark.parametrize(
    ("skill", "message"),
    [
        (Chat, GENERAL["en"]),
        (Chat, HELP["de"]),
        (Translation, f"translate to Italian: {LONG}"),
        (Summarization, f"Summarize: {LONG}"),
        (Codegen, "Write an SQL query that lists all customers."),
        (QA, "Bis wann kann ich goods zurückgeben?"),
    ],
)
async def test_a_model_without_a_declared_reach_is_always_asked(
    skill: type[Skill], message: str
) -> None:
    engine = ScriptedEngine(lambda _: "Nine words that no passage of the shop has.")
    async with converse(skill, engine=engine, knowledge=SHOP) as chat:
        reply = await chat.say(message)
        assert not any(way in reply for way in WAY_OUT.values())
        assert engine.requests
        assert all(request.sampling.logprobs is None for request in engine.requests)


async def test_a_task_that_is_not_declared_is_declined() -> None:
    only_talk = {"small_talk": REACH["small_talk"]}
    for skill, message in SAYS:
        engine = ScriptedEngine(reach=only_talk)  # type: ignore[arg-type]
        async with converse(skill, engine=engine, knowledge=SHOP) as chat:
            reply = await say_alone(chat, message)
            assert reply.endswith(WAY_OUT["en"])
            assert not engine.requests


@pytest.mark.parametrize("texts", [WAY_OUT, CALCULATE, *REASONS.values(), *TASKS.values()])
def test_every_text_exists_in_five_languages(texts: dict[str, str]) -> None:
    assert list(texts) == ["en", "de", "fr", "es", "zh"]


@pytest.mark.parametrize("language", WAY_OUT)
def test_every_way_out_has_the_two_names(language: str) -> None:
    assert "Connect a real model" in WAY_OUT[language]
    assert "`palaver models setup`" in WAY_OUT[language]
    told = REASONS["knowledge"][language]
    found = detect_language(told)
    assert found is not None
    assert found.code == language
