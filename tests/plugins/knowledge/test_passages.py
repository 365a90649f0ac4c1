"""Splitting documents into passages."""

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


def test_markup_is_removed_from_headings() -> None:
    [passage] = split_passages("## The `run` [command](x.md) **now**\ntext")
    assert passage.section == "The run command now"


def test_short_paragraphs_are_joined_and_long_ones_split_at_sentences() -> None:
    sentence = "This sentence has about ten tokens in it, more or less. "
    passages = split_passages("One.\n\nTwo.\n\n" + sentence * 40)
    assert passages[0].text.startswith("One.\n\nTwo.")
    assert len(passages) > 4
    assert all(passage.text.endswith(".") for passage in passages)


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
    if "#" not in text and "=" not in text and "---" not in text:
        assert sorted(kept) == sorted("".join(text.split()))
