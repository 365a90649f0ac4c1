"""The settings that the built-in skills share reach the engine."""

import pytest

from palaver import Document, Skill
from palaver.testing import ScriptedEngine, converse
from palaver_skills.codegen import Codegen
from palaver_skills.qa import QA
from palaver_skills.summarization import Summarization
from palaver_skills.translation import Translation

FACTS = [
    Document(id=f"{n}.md", title=f"Page {n}", text=f"The workshop opens at {n} o'clock.")
    for n in range(8)
]
MESSAGES = [
    (Codegen, "write a function that adds"),
    (QA, "When does the workshop open?"),
    (Summarization, "Summarize: The workshop opens at ten. It closes at six. It is small."),
    (Translation, "Translate into German: The workshop opens at ten."),
]
ANSWER = "At ten."


@pytest.mark.parametrize(("skill", "message"), MESSAGES)
async def test_the_temperature_reaches_the_engine(skill: type[Skill], message: str) -> None:
    engine = ScriptedEngine(lambda _: ANSWER)
    settings = {"temperature": 0.3}
    async with converse(skill, engine=engine, knowledge=FACTS, skill_settings=settings) as chat:
        await chat.say(message)
    assert {request.sampling.temperature for request in engine.requests} == {0.3}


@pytest.mark.parametrize(("skill", "message"), MESSAGES[:3])
async def test_the_longest_reply_reaches_the_engine(skill: type[Skill], message: str) -> None:
    engine = ScriptedEngine(lambda _: ANSWER)
    settings = {"max_tokens": 9}
    async with converse(skill, engine=engine, knowledge=FACTS, skill_settings=settings) as chat:
        await chat.say(message)
    assert {request.sampling.max_tokens for request in engine.requests} == {9}


@pytest.mark.parametrize("passages", [1, 3])
async def test_the_model_reads_as_many_passages_as_set(passages: int) -> None:
    engine = ScriptedEngine(lambda _: ANSWER)
    settings = {"passages": passages}
    async with converse(QA, engine=engine, knowledge=FACTS, skill_settings=settings) as chat:
        await chat.say("When does the workshop open?")
    prompt = "".join(message.content for message in engine.requests[-1].messages)
    assert prompt.count("The workshop opens at") == passages


@pytest.mark.parametrize(("tokens", "whole"), [(400, True), (32, False)])
async def test_a_long_text_is_translated_in_pieces_of_the_set_length(
    tokens: int, whole: bool
) -> None:
    engine = ScriptedEngine(lambda _: "Die Werkstatt ist offen.")
    text = " ".join(f"The workshop opens at {n} and closes an hour later." for n in range(12))
    settings = {"piece_tokens": tokens}
    async with converse(Translation, engine=engine, skill_settings=settings) as chat:
        await chat.say(f"Translate into German: {text}")
    assert (len(engine.requests) == 1) is whole


async def test_a_text_above_the_limit_is_refused() -> None:
    engine = ScriptedEngine(lambda _: "Die Werkstatt ist offen.")
    settings = {"max_characters": 20}
    async with converse(Translation, engine=engine, skill_settings=settings) as chat:
        await chat.say("Translate into German: The workshop opens at ten.")
    assert not engine.requests


async def test_a_summary_above_the_limit_is_refused() -> None:
    engine = ScriptedEngine(lambda _: "It opens.")
    settings = {"max_characters": 20}
    async with converse(Summarization, engine=engine, skill_settings=settings) as chat:
        reply = await chat.say("Summarize: The workshop opens at ten.")
        assert reply.problem is not None
        assert "too long to shorten" in reply.problem.message
    assert not engine.requests


async def test_a_question_above_the_limit_is_refused() -> None:
    engine = ScriptedEngine(lambda _: "At ten.")
    settings = {"max_characters": 20}
    async with converse(QA, engine=engine, skill_settings=settings) as chat:
        reply = await chat.say("When does the workshop open?")
        assert reply.problem is not None
        assert "question is too long" in reply.problem.message
    assert not engine.requests
