"""Marks in an answer: which are citations, and which numbers they have."""

import itertools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tests.proof_settings import short_or_long

from palaver import Document, Passage
from palaver.testing import ScriptedEngine, converse
from palaver_skills.citations import CitationFilter, find_cited
from palaver_skills.qa import QA


def make_passages(*texts: str) -> list[Passage]:
    return [
        Passage(document="d", title="T", section="", number=number, text=text)
        for number, text in enumerate(texts, 1)
    ]


PASSAGES = make_passages(
    "The museum opens daily.",
    "Parking costs nothing here.",
    "Employees get holiday, says rows[2] and [1, 2, 3].",
)


def write(text: str, *, size: int = 1_000_000) -> str:
    """Return what the filter makes of an answer that comes in pieces of this size."""
    checked = CitationFilter(PASSAGES)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return "".join(map(checked.feed, pieces)) + checked.end()


UNTOUCHED = [
    "The museum:\n```py\nmuseum[2]\n```\n",
    "The museum:\n~~~\nmuseum [2]\n~~~\n",
    "The museum:\n````\n```\nmuseum [2]\n````\n",
    "- The museum\n\n  ```\n  museum [2]\n  ```\n",
    "1. ```\n   museum [2]\n   ```\n",
    "> ```\n> museum [2]\n",
    "The museum:\n\n    museum [2]\n",
    "- item\n\n      museum [2]\n",
    "The museum: `museum [2]`",
    "The museum: ``museum ` [2]``",
    "The museum: `museum\n[2]` opens",
    "```museum [2]``` opens",
    "The museum [2](https://example.org)",
    "The museum [[2]](https://example.org)",
    "The museum ![2](a.png)",
    "The [museum][2]",
    "The museum opens\n\n[2]: https://example.org",
    "The museum [^2] opens",
    "The museum \\[2\\] opens",
    "The museum_hours[2] and x[2] and openMuseum[2] and museum.opens[2]",
    "The museum at https://example.org/museum[2]",
    "The museum rows[2]",
    "The museum takes items[0] of the list",
    "The museum [1, 2, 3]",
    "The museum [2024] and [3 of 4] and [] and [a2] and [-2]",
    "The museum [7, 8]",
]


@pytest.mark.parametrize("text", UNTOUCHED)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
def test_what_is_no_citation_stays_as_it_is(text: str, size: int) -> None:
    assert write(text, size=size) == text
    assert find_cited(text, PASSAGES).cited == []


@pytest.mark.parametrize(
    ("text", "written", "cited"),
    [
        ("The museum opens [1].", "The museum opens [1].", [1]),
        ("The museum opens [2].", "The museum opens [1].", [1]),
        ("The museum opens[2].", "The museum opens[1].", [1]),
        ("The museum opens [2][1].", "The museum opens [2][1].", [2, 1]),
        ("The museum opens [2] [1].", "The museum opens [2] [1].", [2, 1]),
        ("The museum opens [1, 2].", "The museum opens [1, 2].", [1, 2]),
        ("The museum opens [1-3].", "The museum opens [1-3].", [1, 2, 3]),
        ("The museum opens [2–3].", "The museum opens [1].", [1]),
        ("The museum opens [2][3].", "The museum opens [1].", [1]),
        ("The museum opens [1][9].", "The museum opens [1].", [1]),
        ("The museum opens [1, 9].", "The museum opens [1].", [1]),
        ("The museum opens [2-9].", "The museum opens [1].", [1]),
        ("The museum opens [9].", "The museum opens [1].", [1]),
        ("Nobody knows [9].", "Nobody knows.", []),
        ("Nobody knows[9][0].", "Nobody knows[9][0].", []),
        ("Nobody knows [3].", "Nobody knows [3].", [3]),
        ("The museum opens【2】.", "The museum opens[1].", [1]),
        ("The museum opens 【1†source】.", "The museum opens [1].", [1]),
        ("The museum opens ［２］.", "The museum opens [1].", [1]),
        ("The museum [1], parking [1].", "The museum [1], parking [2].", [1, 2]),
        ("The museum [1] [2](url)", "The museum [1] [2](url)", [1]),
        ("The museum `a[2]` opens [2]", "The museum `a[2]` opens [1]", [1]),
        ("```\nmuseum[2]\n```\nIt opens [2]", "```\nmuseum[2]\n```\nIt opens [1]", [1]),
        ("- ```\n  museum[2]\n  ```\n- opens [2]", "- ```\n  museum[2]\n  ```\n- opens [1]", [1]),
        ("A stray ` museum [2]\n\n`opens`", "A stray ` museum [1]\n\n`opens`", [1]),
        ("- a ` museum [2]\n- b ` c", "- a ` museum [1]\n- b ` c", [1]),
        ("| museum | [2] |\n|---|---|", "| museum | [1] |\n|---|---|", [1]),
        ("# Museum [2]\n", "# Museum [1]\n", [1]),
        ("> museum [2]", "> museum [1]", [1]),
        ("The museum (see [2]) opens", "The museum (see [1]) opens", [1]),
        ("Парковка. The museum opens [2", "Парковка. The museum opens [2", []),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 1_000])
def test_marks_are_corrected(text: str, written: str, cited: list[int], size: int) -> None:
    assert write(text, size=size) == written
    assert find_cited(written, PASSAGES).cited == cited


UNITS = (
    "museum", "opens", "parking", "costs", "holiday", " ", " ", "  ", "\n", "\n\n", "a", "x_y",
    "[1]", "[2]", "[3]", "[9]", "[1, 2]", "[1-3]", "[2][1]", "【2】", "[", "]", "(", ")", ":",
    "[^1]", "](u)", "`", "``", "```", "```py\n", "\n```\n", "~~~\n", "\n~~~\n", "\\", "!",
    "- ", "\n- ", "\n1. ", "\n    ", "\n  ", "> ", "\n> ", "# ", "\t", "\n---\n", "2", ",", "|",
)  # fmt: skip
PIECES = st.lists(st.sampled_from(UNITS), max_size=30).map("".join)


@pytest.mark.slow
@settings(max_examples=short_or_long(500, 20_000), deadline=None)
@given(PIECES, st.data())
def test_pieces_give_what_the_whole_gives(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=len(text))))
    checked = CitationFilter(PASSAGES)
    bounds = [0, *cuts, len(text)]
    said = "".join(checked.feed(text[a:b]) for a, b in itertools.pairwise(bounds))
    assert said + checked.end() == write(text)


def code_in(text: str) -> list[str]:
    """Return the contents of all code, as the parser finds them."""
    tokens = MarkdownIt("commonmark").parse(text)
    leaves = [each for token in tokens for each in token.children or [token]]
    return [x.content for x in leaves if x.type in {"fence", "code_block", "code_inline"}]


@pytest.mark.slow
@settings(max_examples=short_or_long(500, 20_000), deadline=None)
@given(PIECES)
@example("- a ` b\n- c `museum [2]`")
@example("```\nmuseum [2]\n\n    museum [2]")
def test_code_is_never_changed(text: str) -> None:
    assert code_in(write(text)) == code_in(text)


@pytest.mark.slow
@settings(max_examples=short_or_long(500, 20_000), deadline=None)
@given(PIECES)
def test_the_numbers_in_the_text_are_those_of_the_citations(text: str) -> None:
    checked = CitationFilter(PASSAGES)
    said = checked.feed(text) + checked.end()
    read = find_cited(said, PASSAGES)
    assert read.cited == checked.cited
    marked = {int(number) for number in re.findall(r"\d+", said)}
    assert marked >= set(read.cited) - {2}  # 2 may be inside of a range


def test_marks_of_a_block_that_costs_too_much_stay_as_they_are() -> None:
    written = write("The museum opens [2]. " * 1_000)
    assert written.startswith("The museum opens [1]. ")
    assert written.endswith("The museum opens [2]. ")


async def test_the_citations_of_a_reply_are_the_marks_of_its_text() -> None:
    documents = [Document(id="m", title="Museum", text="The museum opens daily at nine.")]
    text = "```py\nmuseum[2]\n```\nThe museum opens daily [2][1], x[1]. Nothing [9]."
    async with converse(QA, engine=ScriptedEngine(text), knowledge=documents) as chat:
        reply = await chat.say("When does the museum open?")
        assert reply == "```py\nmuseum[2]\n```\nThe museum opens daily [1], x[1]. Nothing."
        assert [citation.number for citation in reply.citations] == [1]


async def test_a_citation_after_a_fence_leaves_the_fence_closed() -> None:
    documents = [Document(id="m", title="Museum", text="The museum opens daily at nine.")]
    text = "The museum:\n```\nopens daily\n```"
    async with converse(QA, engine=ScriptedEngine(text), knowledge=documents) as chat:
        reply = await chat.say("When does the museum open?")
        assert reply == f"{text}\n\n[1]"


@pytest.mark.parametrize(
    "unit", ["` ", "`" * 3 + "\n", "[9] x ", "[1", "- [1]\n", " " * 50 + "[", "x[1] ", "\\", "[1]"]
)
@pytest.mark.slow
def test_a_long_answer_is_read_in_pieces_as_well(unit: str) -> None:
    text = unit * (8_000 // len(unit))
    assert write(text, size=50) == write(text)
