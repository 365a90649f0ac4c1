"""Quotations that no passage has lose their marks."""

import random

import pytest

from palaver import Document
from palaver.testing import ScriptedEngine, converse
from palaver_skills.citations import CitationFilter
from palaver_skills.qa import QA
from palaver_skills.quotes import FilterChain, QuoteFilter

SOURCE = "Goods are taken back within 30 days, if they are unused. 货物可以在三十天之内退回商店。"
CASES = [
    ('They say "goods are taken back within 30 days" there.', None),
    ('They say "Goods are taken  back, within 30 days!" there.', None),
    ('It says "goods are taken back … if they are unused".', None),
    ('It says "goods are taken back in a year".', "It says goods are taken back in a year."),
    ("“Goods come back when they like.” [1]", "Goods come back when they like. [1]"),
    ("„Waren kommen immer gern zurück“ heißt es.", "Waren kommen immer gern zurück heißt es."),
    ("« les biens sont repris demain »", " les biens sont repris demain "),
    ("「货物可以在三十天之内退回商店」", None),
    ("「货物永远都不可以退回来」", "货物永远都不可以退回来"),
    ('The "three odd words" stay.', None),
    ('`print("none of these words are there")` stays', None),
    ('```\nx = "none of these words are there"\n```\n', None),
    ('    x = "none of these words are there"\n', None),
    ('A 5" or 6" pipe of no such goods 7" wide', None),
    ('An "unfinished quotation of many other words', None),
    ('A "quotation of several\nlines that nobody said" stays', None),
    ('a ` b\n"these words are not there"', "a ` b\nthese words are not there"),
    ('"these words are not there" "and these are not either"',
     "these words are not there and these are not either"),
    ('"' + "word " * 100 + '"', None),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "expected"), CASES)
def test_marks_of_what_no_source_has_are_dropped(answer: str, expected: str | None) -> None:
    found = QuoteFilter([SOURCE])
    assert found.feed(answer) + found.end() == (answer if expected is None else expected)


@pytest.mark.parametrize(("answer", "expected"), CASES)
def test_an_answer_in_pieces_is_read_as_a_whole_one(answer: str, expected: str | None) -> None:
    source = random.Random(5)
    for _ in range(5):
        found, said, at = QuoteFilter([SOURCE]), "", 0
        while at < len(answer):
            step = source.randrange(1, 8)
            said += found.feed(answer[at : at + step])
            at += step
        assert said + found.end() == (answer if expected is None else expected)


def test_a_chain_of_filters_keeps_nothing_back_at_the_end() -> None:
    chain = FilterChain(CitationFilter([]), QuoteFilter([SOURCE]))
    said = chain.feed('It says "goods are taken back in a year" [')
    assert said + chain.end() == "It says goods are taken back in a year ["


async def test_an_answer_quotes_only_what_its_passages_or_the_question_say() -> None:
    shop = [Document(id="returns", title="Returns", text=SOURCE)]
    engine = ScriptedEngine(
        '"Goods are taken back within 30 days" [1], "no matter who asks for it", '
        'to "when can I return goods".'
    )
    async with converse(QA, engine=engine, knowledge=shop) as chat:
        reply = await chat.say("When can I return goods?")
        assert reply == (
            '"Goods are taken back within 30 days" [1], no matter who asks for it, '
            'to "when can I return goods".'
        )
