"""Conversations with the summarization skill."""

import pytest

from palaver.engine import GenerationRequest
from palaver.testing import ScriptedEngine, converse
from palaver_skills import prompts
from palaver_skills.chat import Chat
from palaver_skills.summarization import NOTHING_TO_SUMMARIZE, Summarization

TEXT = "The rain fell all night. The river rose. In the morning the bridge was gone."


def system(engine: ScriptedEngine, number: int = 0) -> str:
    return engine.requests[number].messages[0].content


@pytest.mark.parametrize(
    ("message", "length"),
    [
        (f"Summarize this: {TEXT}", "three sentences"),
        (f"summarize in one sentence:\n{TEXT}", "one sentence"),
        (f"tl;dr\n{TEXT}", "one sentence"),
        (f"Sum this up in three bullet points:\n\n{TEXT}", "three bullet points"),
        (f"{TEXT}\n\nPlease shorten that to a single sentence.", "one sentence"),
        (f"Fasse das in einem Satz zusammen: {TEXT}", "one sentence"),
        (f"Résume en une phrase : {TEXT}", "one sentence"),
        (f"Resume este texto en tres puntos: {TEXT}", "three bullet points"),
        (f"请用一句话概括：{TEXT}", "one sentence"),
        (f"/summarize {TEXT}", "three sentences"),
        (f"/summarize --length bullets {TEXT}", "three bullet points"),
        (f"Riassumi questo testo in una frase:\n{TEXT}", "one sentence"),
    ],
)
async def test_text_and_length_are_told_from_the_message(message: str, length: str) -> None:
    engine = ScriptedEngine("A flood took the bridge.")
    async with converse(Summarization, engine=engine) as chat:
        assert await chat.say(message) == "A flood took the bridge."
        assert f"in {length}." in system(engine)
        assert engine.requests[0].messages[-1].content == TEXT


async def test_arguments_say_it_all() -> None:
    engine = ScriptedEngine("Short.")
    async with converse(Summarization, engine=engine) as chat:
        arguments = {"length": "bullets", "text": TEXT}
        assert await chat.say("", skill="summarization", arguments=arguments) == "Short."
        assert system(engine) == prompts.build_summarization_system("three bullet points")
        wrong = await chat.say("", skill="summarization", arguments={"length": "endless"})
        assert wrong.problem is not None
        assert "'one sentence'" in wrong.problem.message


@pytest.mark.parametrize("message", ["/summarize", "summarize our conversation so far"])
async def test_without_a_text_the_conversation_is_shortened(message: str) -> None:
    engine = ScriptedEngine("It rains a lot here.", "They spoke of rain.")
    async with converse(Chat, Summarization, engine=engine) as chat:
        await chat.say("hello, how is the weather?")
        assert await chat.say(message) == "They spoke of rain."
        assert engine.requests[1].messages[-1].content == (
            "User: hello, how is the weather?\nAssistant: It rains a lot here."
        )


@pytest.mark.parametrize("message", ["even shorter please", "make it shorter", "Noch kürzer!"])
async def test_shorter_means_the_last_reply(message: str) -> None:
    engine = ScriptedEngine("It rains a lot here.", "It rains.")
    async with converse(Summarization, engine=engine) as chat:
        await chat.say("Summarize: It has been raining a lot here for days.")
        assert await chat.say(message) == "It rains."
        assert engine.requests[1].messages[-1].content == "It rains a lot here."
        assert "one sentence" in engine.requests[1].messages[0].content


@pytest.mark.parametrize("message", ["summarize our conversation", "/summarize", "tl;dr"])
async def test_nothing_to_shorten_is_said(message: str) -> None:
    engine = ScriptedEngine()
    async with converse(Summarization, engine=engine) as chat:
        assert await chat.say(message) == NOTHING_TO_SUMMARIZE
        assert not engine.requests


async def test_a_long_text_is_shortened_part_by_part() -> None:
    def shorten(request: GenerationRequest) -> str:
        words = request.messages[-1].content.split()
        return " ".join(words[: max(3, len(words) // 4)])

    engine = ScriptedEngine(shorten, context_window=128)
    text = "\n\n".join(f"Paragraph {n} tells of " + "many things " * 12 for n in range(20))
    async with converse(Summarization, engine=engine) as chat:
        reply = await chat.say(f"Summarize in one sentence:\n{text}")
        assert reply.startswith("Paragraph 0")
        assert len(engine.requests) > 5
        assert system(engine, -1) == prompts.build_summarization_system("one sentence")
        said = "".join(r.messages[-1].content for r in engine.requests)
        assert all(f"Paragraph {n} " in said for n in range(20))


async def test_a_model_that_shortens_nothing_comes_to_an_end() -> None:
    engine = ScriptedEngine(lambda request: request.messages[-1].content, context_window=128)
    async with converse(Summarization, engine=engine) as chat:
        reply = await chat.say("Summarize:\n" + "one two three four. " * 200)
        assert reply.outcome == "done"


async def test_a_text_that_is_far_too_long_is_refused() -> None:
    engine = ScriptedEngine(context_window=128)
    settings = {"max_parts": 3}
    async with converse(Summarization, engine=engine, skill_settings=settings) as chat:
        reply = await chat.say("Summarize:\n" + "one two three four. " * 200)
        assert reply.problem is not None
        assert "too long to shorten" in reply.problem.message
        assert not engine.requests


@pytest.mark.parametrize(
    "block",
    [
        "```py\nx = 1\n\ny = 2\n```\n\n",
        "| a | b |\n|---|---|\n| one | two |\n| three | four |\n\n",
        "- one\n\n  more of it\n\n",
        "<div>\nSome. Text.\n</div>\n\n",
    ],
)
async def test_a_long_text_is_not_cut_inside_a_block(block: str) -> None:
    engine = ScriptedEngine(lambda _: "Short.", context_window=160)
    text = "".join(f"## Part {n}\n\nIt rains in {n} places.\n\n{block}" for n in range(20))
    async with converse(Summarization, engine=engine) as chat:
        await chat.say(text, skill="summarization")
    parts = [r.messages[-1].content for r in engine.requests if block[:6] in r.messages[-1].content]
    assert len(parts) > 1
    assert sum(part.count(block.strip()) for part in parts) == 20
