"""What of a Markdown text may be rewritten, and what stays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proof import size
from tests.skills.markdown_strategies import markdown

from palaver_skills.markdown import split_blocks, split_spans
from palaver_skills.text_splitting import (
    split_paragraphs,
    split_sentences,
    split_to_size,
    split_words,
)

ANYTHING = st.text(
    st.sampled_from("aZé你 \n\t`*_~#>-|[](){}<>%$&:;.!?\\/⟦⟧1@=\r\u2028"), max_size=80
)


def prose(text: str) -> list[str]:
    kept = [block for block in split_blocks(text) if block.is_prose]
    return [span.text for block in kept for span in split_spans(block.text) if span.is_prose]


@settings(max_examples=size(50, 3_000))
@given(st.one_of(markdown(), ANYTHING))
def test_the_pieces_joined_are_the_text(text: str) -> None:
    found = list(split_blocks(text))
    assert "".join(block.text for block in found) == text
    for block in found:
        assert "".join(span.text for span in split_spans(block.text)) == block.text


@settings(max_examples=size(50, 3_000))
@given(st.one_of(markdown(), ANYTHING), st.integers(1, 40))
def test_cutting_a_text_loses_nothing(text: str, limit: int) -> None:
    for cut in (split_sentences, split_paragraphs, split_words):
        assert "".join(cut(text)) == text
    parts = split_to_size(text, len, limit)
    assert "".join(parts) == text
    assert all(len(part) <= limit for part in parts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title\n\nSome text.", ["Title", "Some text."]),
        ("- one\n- [x] two\n  more", ["one", "two\n  more"]),
        ("1. first\n2) second", ["first", "second"]),
        ("> quoted", ["quoted"]),
        ("| a | b |\n|---|---|\n| c | `d|e` |", ["a", "b", "c"]),
        ("Title\n=====\ntext", ["Title", "text"]),
        ("```py\nx = 'text'\n```\nafter", ["after"]),
        ("~~~\nopen to the end\n", []),
        ("text\n\n    code\n", ["text"]),
        ("- item\n\n    its second paragraph", ["item", "its second paragraph"]),
        ("---\ntitle: x\n---\nbody", ["body"]),
        ("<!-- a\nb -->\ntext", ["text"]),
        ("[here]: https://example.org 'T'\n\ntext", ["text"]),
        ("line one  \nline two", ["line one", "line two"]),
        ("12:30, 5 %", []),
    ],
)
def test_structure_and_code_are_no_prose(text: str, expected: list[str]) -> None:
    assert prose(text) == expected


@pytest.mark.parametrize(
    "fixed",
    [
        "`code`",
        "``a ` b``",
        "https://example.org/a_b?c=d&e=f",
        "www.example.org/x",
        "someone@example.org",
        "{name}",
        "{0:.2f}",
        "{{ user.name }}",
        "{% if x %}",
        "${home}",
        "%(count)d",
        "%s",
        "%1$s",
        "<b>",
        "</div>",
        "<https://example.org>",
        "<@U123>",
        "&nbsp;",
        ":smile:",
        "snake_case",
        "@someone",
        "⟦0⟧",
    ],
)
def test_placeholders_code_and_addresses_stand_fixed_in_prose(fixed: str) -> None:
    assert prose(f"before {fixed} after") == ["before", "after"]


def test_a_link_keeps_its_target_and_offers_its_words() -> None:
    assert prose("see [the page](https://example.org/x_(y) 'T') now") == ["see", "the page", "now"]
    assert prose("![an image](a.png)") == ["an image"]


def test_emphasis_marks_are_fixed_and_their_words_are_not() -> None:
    assert prose("a **bold** and _soft_ word") == ["a", "bold", "and", "soft", "word"]


def test_sentences_end_where_people_end_them() -> None:
    text = "Dr. Smith came at 3. He left! 你好。我很好。Am 3. Mai z.B. war es so. Ok?\nNew line"
    assert [sentence.strip() for sentence in split_sentences(text)] == [
        "Dr. Smith came at 3. He left!",
        "你好。",
        "我很好。",
        "Am 3. Mai z.B. war es so.",
        "Ok?",
        "New line",
    ]


def test_a_long_text_is_cut_at_the_widest_border_that_fits() -> None:
    text = "One two three. Four five six.\n\nSeven eight nine ten eleven"
    assert split_to_size(text, len, 18) == [
        "One two three. ",
        "Four five six.\n\n",
        "Seven eight nine ",
        "ten eleven",
    ]
