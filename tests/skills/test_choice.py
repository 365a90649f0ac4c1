"""Routing of messages to the built-in skills."""

import time

import pytest

from palaver import Skill, compile_pattern
from palaver.testing import ScriptedEngine, converse
from palaver_skills import prompts, summarization, translation
from palaver_skills.chat import Chat
from palaver_skills.codegen import Codegen
from palaver_skills.instructions import is_unclear, split_request
from palaver_skills.language_detection import detect_language
from palaver_skills.markdown import read_document, split_blocks
from palaver_skills.qa import QA
from palaver_skills.summarization import Summarization
from palaver_skills.text_splitting import split_sentences
from palaver_skills.translation import Translation

SKILLS: tuple[type[Skill], ...] = (Chat, QA, Translation, Summarization, Codegen)
PATTERNS = [compile_pattern(pattern) for skill in SKILLS for pattern in skill.patterns]


def find_matching_skills(message: str) -> set[str]:
    """Return the skills with a pattern that matches the whole message."""
    return {
        skill.name
        for skill in SKILLS
        for pattern in skill.patterns
        if compile_pattern(pattern).fullmatch(message)
    }


def test_descriptions_are_those_that_the_starter_model_was_trained_on() -> None:
    assert {skill.name: skill.description() for skill in SKILLS} == dict(prompts.SKILLS)


@pytest.mark.parametrize("skill", SKILLS)
def test_a_pattern_takes_no_example_of_another_skill(skill: type[Skill]) -> None:
    taken = {example: find_matching_skills(example) - {skill.name} for example in skill.examples}
    assert not any(taken.values()), taken


@pytest.mark.parametrize(
    "message",
    [
        "I went to a French class yesterday",
        "we talked about a summary of the book",
        "create a class schedule for my students",
        "write a short program for the theatre evening",
        "Resume your work",
        "my number is 555-1234",
        "the translation was bad",
        "what is love",
    ],
)
def test_ordinary_sentences_match_no_pattern(message: str) -> None:
    assert find_matching_skills(message) == set()


@pytest.mark.parametrize(
    ("message", "skill"),
    [
        ("translate 'good night' into Spanish", "translation"),
        ("Wie sagt man Danke auf Englisch?", "translation"),
        ("tl;dr: it rained and rained and rained", "summarization"),
        ("请总结一下：昨天下雨了", "summarization"),
        ("write a Rust function that adds", "codegen"),
        ("according to the manual, how do I start it?", "qa"),
        ("what is 3 * 4?", "chat"),
        ("hi, how are you doing?", "chat"),
        ("/tldr it rained and rained", "summarization"),
        ("/docs where is the key", "qa"),
    ],
)
async def test_a_message_finds_its_skill(message: str, skill: str) -> None:
    engine = ScriptedEngine(lambda request: "Done.")
    async with converse(*SKILLS, engine=engine) as chat:
        assert (await chat.say(message)).skill == skill


BUSY = 1.5
"""Seconds of processor time for all patterns of all skills together."""
LONG = 50_000
"""Characters of a message that is made to keep a server busy."""


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        " ",
        "translate ",
        "(1+",
        "in to ",
        "用",
        "把",
        "schreibe a",
        '"',
        "'",
        "„",
        "`a",
        "[a](",
        "a. ",
    ],
)
@pytest.mark.slow
def test_no_message_keeps_the_patterns_busy(unit: str) -> None:
    text = unit * (LONG // len(unit))
    began = time.process_time()
    for pattern in PATTERNS:
        pattern.fullmatch(text)
        pattern.search(text)
    for grammar in (translation.GRAMMAR, summarization.GRAMMAR):
        split_request(text, grammar)
        is_unclear(text, grammar)
    read_document(text)
    split_blocks(text)
    split_sentences(text)
    detect_language(text)
    assert time.process_time() - began < BUSY
