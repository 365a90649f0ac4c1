"""Splitting documents into passages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver_plugins.knowledge.passages import TARGET_TOKENS, estimate_tokens, split_passages

LINES = st.lists(
    st.one_of(
        st.text(st.sampled_from("aé你 .!?。#-=`|"), max_size=40),
        st.sampled_from(["", "# One", "## Two", "### Three", "```", "word " * 200, "字" * 300]),
    ),
    max_size=12,
)


def test_each_passage_has_its_path_of_headings() -> None:
    text = """# Manual

Read me.

## Install

### Linux

Use the package.

### Windows ###

Use the *installer*.

## Use
Press start.
"""
    assert split_passages(text, "Manual") == [
        ("", "Read me."),
        ("Install > Linux", "Use the package."),
        ("Install > Windows", "Use the *installer*."),
        ("Use", "Press start."),
    ]


def test_underlined_headings_count_and_horizontal_rules_do_not() -> None:
    text = "Title\n=====\n\none\n\n---\n\ntwo\n\nSection\n-------\nthree"
    assert split_passages(text) == [("Title", "one\n\n---\n\ntwo"), ("Title > Section", "three")]


def test_a_hash_in_a_code_block_is_not_a_heading() -> None:
    [passage] = split_passages("```sh\n# a comment\nrun\n```")
    assert passage == ("", "```sh\n# a comment\nrun\n```")


def test_headings_are_those_of_the_parser() -> None:
    text = (
        "# max_message_bytes\none\n## C#\ntwo\n## F# #\n````md\n```\n# no\n```\n````\n"
        "- item\n\n  ~~~\n  # no\n  ~~~\n\nTwo\nlines\n---\n\n> # quoted\n"
    )
    assert [passage.section for passage in split_passages(text)] == [
        "max_message_bytes",
        "max_message_bytes > C#",
        "max_message_bytes > F#",
        "max_message_bytes > Two lines",
    ]


def test_a_heading_with_nothing_below_can_be_found() -> None:
    assert split_passages("# Manual\n## Questions\n### Why?\n### How?\n## End\n", "Manual") == [
        ("Questions", "Why?"),
        ("Questions", "How?"),
        ("", "End"),
    ]
    assert split_passages("# Manual", "Manual") == [("", "Manual")]


@pytest.mark.parametrize("mark", ["```", "~~~~", "```` python title=x"])
@pytest.mark.parametrize("indent", ["", "  "])
def test_a_long_code_block_is_split_at_lines_and_stays_fenced(mark: str, indent: str) -> None:
    code = [f"    value_{n} = compute({n})  # number {n}" for n in range(100)]
    fence = mark.split()[0]
    lines = [mark, *code, fence]
    text = ("- item\n\n" if indent else "") + "\n".join(indent + line for line in lines)
    passages = [passage.text for passage in split_passages(text + "\n\nEnd.")]
    blocks = [passage.removeprefix("- item\n\n").removesuffix("\n\nEnd.") for passage in passages]
    assert len(blocks) > 5
    assert all(block.startswith(f"{mark}\n") and block.endswith(f"\n{fence}") for block in blocks)
    kept = [line for block in blocks for line in block.split("\n") if "value" in line]
    assert kept == code


def test_a_long_table_repeats_its_header() -> None:
    rows = [f"| name {n} | a description of number {n} | {n} |" for n in range(60)]
    header = "| Name | Description | Number |\n| --- | :-: | --- |"
    passages = [p.text for p in split_passages("\n".join([header, *rows]))]
    assert len(passages) > 5
    assert all(passage.startswith(header + "\n") for passage in passages)
    assert [line for p in passages for line in p.split("\n") if "name" in line] == rows
    assert all(estimate_tokens(passage) <= TARGET_TOKENS * 1.3 for passage in passages)


def test_a_short_table_or_code_block_is_not_joined_into_a_line() -> None:
    text = (
        "Intro.\n\na | b\n--|--\n1 | 2\n\n    code\n      more\n\n```\nx\n\n\ny\n```\n- one\n- two"
    )
    [passage] = split_passages(text)
    assert passage.text == text


@pytest.mark.parametrize("width", [40, 1])
def test_a_wide_header_is_repeated_and_its_padding_is_not(width: int) -> None:
    columns = [f"long name of column {number}" for number in range(12)]
    rows = [[f"{row}-{column}" for column in range(12)] for row in range(30)]
    lines = [" | ".join(cell.ljust(width) for cell in row) for row in [columns, *rows]]
    lines.insert(1, " | ".join("-" * max(3, width) for _ in columns))
    passages = split_passages("\n".join(f"  | {line} |" for line in lines))
    header = f"| {' | '.join(columns)} |\n|{' --- |' * 12}\n"
    assert len(passages) > 2
    assert all(passage.text.startswith(header) for passage in passages)


def test_a_row_that_is_too_long_keeps_its_header() -> None:
    header = "| Name | Text |\n| --- | --- |"
    passages = [p.text for p in split_passages(f"{header}\n| x | {'words ' * 500}|\n| y | z |")]
    assert all(passage.startswith(header + "\n") for passage in passages)
    assert sum(passage.count("words") for passage in passages) == 500


def test_markup_is_removed_from_headings() -> None:
    [passage] = split_passages("## The `run` [command](x.md) **now**\ntext")
    assert passage.section == "The run command now"


def test_short_paragraphs_are_joined_and_long_ones_split_at_sentences() -> None:
    sentence = "This sentence has about ten tokens in it, more or less. "
    passages = split_passages("One.\n\nTwo.\n\n" + sentence * 40)
    assert passages[0].text.startswith("One.\n\nTwo.")
    assert len(passages) > 4
    assert all(passage.text.endswith(".") for passage in passages)


def test_the_lines_of_a_long_text_stay_lines() -> None:
    lines = [f"Name {n}     Value {n}     A column of plain text" for n in range(40)]
    passages = split_passages("\n".join(lines))
    assert len(passages) > 3
    assert [line for passage in passages for line in passage.text.split("\n")] == lines


def test_chinese_is_measured_by_its_characters() -> None:
    passages = split_passages("知识就是力量。" * 100)
    assert all(30 < len(passage.text) <= TARGET_TOKENS for passage in passages)
    assert all(passage.text.endswith("。") for passage in passages)


@given(LINES)
def test_no_passage_is_empty_or_too_long_and_no_word_is_lost(lines: list[str]) -> None:
    text = "\n".join(lines)
    passages = split_passages(text)
    assert all(passage.text.strip() for passage in passages)
    assert all(estimate_tokens(passage.text) <= TARGET_TOKENS * 1.3 for passage in passages)
    kept = "".join("".join(f"{passage.section} {passage.text}".split()) for passage in passages)
    assert kept.count("word") == text.count("word")
    # A heading loses its marks, a long code block or table repeats its header.
    if not any(mark in text for mark in ("#", "=", "-", "```", "|")):
        assert sorted(kept) == sorted("".join(text.split()))
