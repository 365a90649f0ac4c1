"""Conversations with the translation skill."""

import re
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tests.proof_settings import short_or_long
from tests.skills.markdown_strategies import SECRETS, markdown
from tests.skills.support import Demonstration, echo, german, shout

from palaver import GenerationRequest
from palaver.testing import ChatClient, ScriptedEngine, converse
from palaver_skills import prompts
from palaver_skills.markdown import read_document
from palaver_skills.translation import Translation

PROPERTY = settings(
    max_examples=short_or_long(15, 500), deadline=None, suppress_health_check=list(HealthCheck)
)


def systems(engine: ScriptedEngine) -> list[str]:
    return [request.messages[0].content for request in engine.requests]


@pytest.mark.parametrize(
    "message",
    [
        "Translate 'good morning' into German",
        "translate this into German: good morning",
        "How do you say good morning in German?",
        "to German: good morning",
        "/translate --to de good morning",
        "/translate --to=German good morning",
        '/tr --to "alemán" --from en good morning',
        "good morning\nBitte ins Deutsche übersetzen.",
        "Could you put this into German for me?\ngood morning",
        "good morning\n\nTranslate that to German please",
    ],
)
async def test_a_text_is_translated_however_it_is_asked_for(message: str) -> None:
    engine = ScriptedEngine(german)
    async with converse(Translation, engine=engine) as chat:
        assert await chat.say(message) == "guten Morgen"
        assert systems(engine) == [prompts.build_translation_system("English", "German")]
        assert engine.requests[0].messages[-1].content == "good morning"


@pytest.mark.parametrize(
    ("message", "source", "target", "text"),
    [
        ("Übersetze ins Englische: Guten Morgen, wie geht es dir?", "German", "English", "Guten"),
        ("Wie sagt man Guten Abend auf Französisch?", "German", "French", "Guten Abend"),
        ("Traduis en anglais : Il fait très beau dehors.", "French", "English", "Il fait"),
        ("Traduce al inglés: ¿Dónde está la casa?", "Spanish", "English", "¿Dónde"),
        ("请把下面的句子翻译成英文：你好吗", "Chinese", "English", "你好吗"),
        ("你好用德语怎么说？", "Chinese", "German", "你好"),
        (
            "Translate to Brazilian Portuguese: The dog.",
            "English",
            "Brazilian Portuguese",
            "The dog",
        ),
        ("translate this into formal German: I am Tom", "English", "Formal German", "I am Tom"),
        ("translate the word chat from French to English", "French", "English", "the word chat"),
    ],
)
async def test_the_request_may_be_in_other_languages(
    message: str, source: str, target: str, text: str
) -> None:
    engine = ScriptedEngine(echo)
    async with converse(Translation, engine=engine) as chat:
        await chat.say(message)
        assert systems(engine) == [prompts.build_translation_system(source, target)]
        assert engine.requests[0].messages[-1].content.startswith(text)


async def test_without_a_target_the_person_is_asked_and_the_next_time_it_is_remembered() -> None:
    engine = ScriptedEngine(german)
    async with converse(Translation, engine=engine) as chat:
        asked = await chat.say("translate this: The cat sleeps.")
        assert asked == "Into which language?"
        assert asked.question is not None
        assert "German" in asked.question.options
        assert "do not know the language 'Klingon'" in await chat.say("Klingon")
        assert (await chat.say("auf Deutsch bitte")).endswith("Die Katze schläft.")
        assert await chat.say("translate this: It rains.") == "Es regnet."


async def test_without_a_text_the_person_is_asked_for_it() -> None:
    async with converse(Translation, engine=ScriptedEngine(german)) as chat:
        assert await chat.say("translate into German please") == "What shall I translate?"
        assert (await chat.say("It rains.")).endswith("Es regnet.")


async def test_that_means_the_last_reply() -> None:
    engine = ScriptedEngine(echo)
    async with converse(Translation, engine=engine) as chat:
        await chat.say("Translate 'Wie geht es dir heute?' into English")
        await chat.say("translate that into French")
        assert engine.requests[-1].messages[-1].content == "Wie geht es dir heute?"


async def test_a_follow_up_translates_the_last_reply_into_another_language() -> None:
    engine = ScriptedEngine(echo)
    async with converse(Translation, engine=engine) as chat:
        await chat.say("Translate 'Wie geht es dir heute?' into English")
        await chat.say("and now into French")
        assert engine.requests[-1].messages[-1].content == "Wie geht es dir heute?"
        assert "French" in systems(engine)[-1]


async def test_a_text_in_the_target_language_is_left_alone() -> None:
    engine = ScriptedEngine()
    async with converse(Translation, engine=engine) as chat:
        reply = await chat.say("translate to German: Wo ist der nächste Bahnhof?")
        assert reply == "This is German already."
        assert not engine.requests


async def test_arguments_are_validated() -> None:
    engine = ScriptedEngine(german)
    async with converse(Translation, engine=engine) as chat:
        given_ = {"target": "allemand", "text": "It rains."}
        assert await chat.say("", skill="translation", arguments=given_) == "Es regnet."
        wrong = await chat.say("", skill="translation", arguments={"target": "Klingon"})
        assert wrong.problem is not None
        assert "do not know the language 'Klingon'" in wrong.problem.message


async def test_what_stands_fixed_comes_back_in_its_place() -> None:
    async with converse(Translation, engine=ScriptedEngine(german)) as chat:
        reply = await chat.say("translate to German:\n\nClick `Save` to continue, {name}!")
        assert reply == "Klicke `Save` um weiterzumachen, {name}!"


async def test_a_model_that_loses_marks_gets_the_prose_in_parts() -> None:
    async with converse(Translation, engine=ScriptedEngine(shout)) as chat:
        reply = await chat.say("translate to German:\n\nClick `Save` to continue, {name}!")
        assert reply == "CLICK `Save` TO CONTINUE, {name}!"


async def test_a_line_stays_a_line_whatever_the_model_writes() -> None:
    async with converse(Translation, engine=ScriptedEngine("Ein\n\nTitel", "Text")) as chat:
        assert (
            await chat.say("translate to German:\n# A title\n\nThe text") == "# Ein Titel\n\nText"
        )


async def test_a_long_text_is_cut_to_fit_the_context_window() -> None:
    engine = ScriptedEngine(echo, context_window=128)
    text = " ".join(f"This is the sentence with the number {n}." for n in range(60))
    async with converse(Translation, engine=engine) as chat:
        assert await chat.say(f"translate to German:\n{text}") == text
        assert len(engine.requests) > 5


async def test_the_demonstration_model_gets_single_sentences_by_way_of_english() -> None:
    engine = Demonstration(echo)
    async with converse(Translation, engine=engine) as chat:
        await chat.say("translate to French: Wo ist der Bahnhof? Ich bin hier.")
        assert [request.messages[-1].content for request in engine.requests[::2]] == [
            "Wo ist der Bahnhof?",
            "Ich bin hier.",
        ]
        assert systems(engine)[:2] == [
            prompts.build_translation_system("German", "English"),
            prompts.build_translation_system("English", "French"),
        ]
        assert "I do not know Italian" in await chat.say("translate to Italian: It rains.")


@PROPERTY
@given(markdown())
@pytest.mark.slow
async def test_an_engine_that_changes_nothing_returns_the_text_byte_for_byte(text: str) -> None:
    engine = ScriptedEngine(echo)
    async with converse(Translation, engine=engine) as chat:
        assert await translated(chat, text) == text
        assert not any("SECRET" in r.messages[-1].content for r in engine.requests)


def capitals(request: GenerationRequest) -> str:
    """Return the prompt in capitals, with its marks."""
    return echo(request).upper()


def doubling(request: GenerationRequest) -> str:
    """Return the prompt in capitals, with each mark twice."""
    return re.sub(r"(⟦\d+⟧)", r"\1 \1", echo(request).upper())


def chattering(request: GenerationRequest) -> str:
    """Return the prompt in capitals, with what a model says around it."""
    return f"Here is the translation:\n\n{echo(request).upper()}\n\nLet me know if it helps: soon."


def inventing(request: GenerationRequest) -> str:
    """Return the prompt in capitals, with further marks, lines and structure."""
    return f"- {echo(request).upper()}\n\n⟦7⟧ | x"


@pytest.mark.slow
@PROPERTY
@given(markdown(), st.sampled_from([capitals, shout, doubling, chattering, inventing]))
async def test_no_engine_changes_what_is_protected(
    text: str, engine: Callable[[GenerationRequest], str]
) -> None:
    async with converse(Translation, engine=ScriptedEngine(engine)) as chat:
        reply = await translated(chat, text)
        assert {s: reply.count(s) for s in SECRETS} == {s: text.count(s) for s in SECRETS}
        kept = [part for part in read_document(text) if isinstance(part, str)]
        at = 0
        for part in kept:
            at = reply.index(part, at) + len(part)


@pytest.mark.slow
@PROPERTY
@given(markdown(), st.sampled_from([capitals, shout, doubling]))
async def test_the_structure_stays(text: str, engine: Callable[[GenerationRequest], str]) -> None:
    async with converse(Translation, engine=ScriptedEngine(engine)) as chat:
        assert structure(await translated(chat, text)) == structure(text)


def structure(text: str) -> list[tuple[str, str, int]]:
    """Return the blocks of a document as a parser of its own sees them."""
    parser = MarkdownIt("commonmark").enable("table")
    return [(token.type, token.markup, token.level) for token in parser.parse(text)]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Here is the translation: Hallo", "Hallo"),
        ("Sure! Here's the translation:\n\nHallo", "Hallo"),
        ("Hallo\n\nNote: this is informal.", "Hallo"),
        ('"Hallo"', "Hallo"),
        ("```\nHallo\n```", "Hallo"),
        ("1. Hallo", "1\\. Hallo"),
        ("<think>\nHallo? Hi?\n</think>\n\nHallo", "Hallo"),
        ("**Translation:**\nHallo", "Hallo"),
        ("<think>Hallo", "Hello"),
        ("", "Hello"),
    ],
)
async def test_what_a_model_says_beside_the_translation_is_dropped(
    reply: str, expected: str
) -> None:
    async with converse(Translation, engine=ScriptedEngine(lambda _: reply)) as chat:
        assert await translated(chat, "Hello") == expected


async def test_an_opening_is_dropped_before_a_text_with_a_colon() -> None:
    engine = ScriptedEngine(lambda request: f"Translation: {echo(request)}")
    async with converse(Translation, engine=engine) as chat:
        assert await translated(chat, "Hello: [you](x)") == "Hello: [you](x)"


@pytest.mark.parametrize(
    "text", ["Here is the translation: Hello", '"Hello"', "Note: hello", "1. Hello\n2. You"]
)
async def test_what_the_text_says_itself_is_not_dropped(text: str) -> None:
    async with converse(Translation, engine=ScriptedEngine(echo)) as chat:
        assert await translated(chat, text) == text


async def test_each_passage_is_sent_when_it_is_translated() -> None:
    async with converse(Translation, engine=ScriptedEngine("EINS", "ZWEI")) as chat:
        reply = await translated(chat, "one\n\n`x`\n\ntwo\n\nthree")  # no answer to the third
        assert reply == "EINS\n\n`x`\n\nZWEI\n\n"


@PROPERTY
@given(st.text(max_size=60).filter(str.strip))
@pytest.mark.slow
async def test_any_text_survives_an_engine_that_changes_nothing(text: str) -> None:
    async with converse(Translation, engine=ScriptedEngine(echo)) as chat:
        assert await translated(chat, text) == text


async def translated(chat: ChatClient, text: str) -> str:
    arguments = {"target": "ja", "source": "en", "text": text}
    return await chat.say("", skill="translation", arguments=arguments)
