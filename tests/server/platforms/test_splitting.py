"""Long replies in several messages."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it.tree import SyntaxTreeNode
from tests.server.platforms.test_rendering import ANYTHING, SLACK_MENTION
from tests.skills.markdown_strategies import markdown

from palaver.markdown import is_closed, parse_blocks
from palaver.platforms.rendering import Dialect, render
from palaver.platforms.splitting import Part, end_part, split
from palaver_plugins.channels.discord.markdown import DiscordDialect, utf16_length
from palaver_plugins.channels.slack.slack_markdown import SlackDialect

pytestmark = pytest.mark.slow

DISCORD = DiscordDialect()
MENTION = {
    DiscordDialect: re.compile(r"<(?:@[!&]?|#)\d+>|<a?:\w+:\d+>|<t:-?\d+(?::\w)?>|@everyone|@here"),
    SlackDialect: SLACK_MENTION,
}
WORDS = "Some words of a sentence that goes on for a while. "


def length(source: str) -> int:
    return utf16_length(render(source, DISCORD))


def parts(text: str, limit: int) -> list[str]:
    """Return the sources of the parts of ``text``."""
    return [part.source(text) for part in split(text, lambda it: length(it) <= limit, limit)]


def test_a_short_text_is_one_part() -> None:
    assert split("Hello", lambda source: True, 100) == [Part(0, 5)]
    assert split("", lambda source: True, 100) == [Part(0, 0)]


def test_a_cut_is_between_blocks() -> None:
    paragraphs = [f"{number} {WORDS}".strip() for number in range(10)]
    assert parts("\n\n".join(paragraphs), 130) == [
        "\n\n".join(pair) for pair in zip(paragraphs[::2], paragraphs[1::2], strict=True)
    ]


def test_a_heading_stays_with_its_text() -> None:
    text = f"{WORDS}\n\n# Heading\n\n{WORDS}"
    assert parts(text, 75) == [WORDS, f"# Heading\n\n{WORDS}"]


def test_a_list_is_cut_between_its_items() -> None:
    text = "\n".join(f"{number}. {WORDS}" for number in range(1, 7))
    assert [part.split()[0] for part in parts(text, 130)] == ["1.", "3.", "5."]


def test_a_nested_list_stays_a_list() -> None:
    text = f"- top {WORDS}\n" + "".join(f"    - {number} {WORDS}\n" for number in range(6))
    for part in parts(text, 160)[1:]:
        assert re.match(r"- \d", part)
        assert "```" not in render(part, DISCORD)


def test_code_is_closed_and_opened_again() -> None:
    lines = [f"print({number})" for number in range(60)]
    text = "Look:\n\n```python\n" + "\n".join(lines) + "\n```\n\nThat is all."
    found = parts(text, 200)
    assert len(found) > 3
    rendered = [render(part, DISCORD) for part in found]
    assert all(part.count("```") == 2 for part in rendered)
    assert all("```python\n" in part for part in rendered)
    assert re.findall(r"print\(\d+\)", "".join(rendered)) == lines


def test_code_in_a_quote_is_opened_again_in_a_quote() -> None:
    lines = "".join(f"> print({number})\n" for number in range(30))
    found = parts(f"> ```python\n{lines}> ```\n\nThat is all.", 120)
    assert len(found) > 2
    assert all(render(part, DISCORD).startswith("> ```python\n> print") for part in found)
    assert render(found[-1], DISCORD).endswith("> ```\n\nThat is all.")


def test_the_indent_of_a_line_that_is_not_written_yet_moves_no_cut() -> None:
    code = "".join(f"  print({number})\n" for number in range(12))
    quoted = "".join(f"  > print({number})\n" for number in range(12, 24))
    text = f"- words\n\n  ```py\n{code}  ```\n- more\n\n  > ```py\n{quoted} "
    for limit in range(110, 160):
        shown = [render(part, DISCORD) for part in parts(text, limit)]
        outside = [re.sub(r"```.*?```", "", part, flags=re.S) for part in shown]
        assert not any("print" in part for part in outside), limit


def test_code_deep_in_a_list_is_closed_where_it_ends() -> None:
    lines = "".join(f"      print({number})\n" for number in range(30))
    found = parts(f"- a\n  - b\n    - ```python\n{lines}      ```\n\nThat is all.", 200)
    assert all("That is all." not in render(part, DISCORD) for part in found[:-1])
    assert render(found[-1], DISCORD).endswith("```\n\nThat is all.")


def test_the_end_of_code_does_not_go_on_without_the_code() -> None:
    lines = "".join(f"print({number})\n" for number in range(40))
    for limit in range(200, 260):
        for part in parts(f"```\n{lines}```\n\nThat is all.", limit):
            assert "```\n\n```" not in render(part, DISCORD)


def test_a_nested_list_in_a_quote_stays_a_list() -> None:
    text = f"> - top {WORDS}\n" + "".join(f">     - {number} {WORDS}\n" for number in range(6))
    for part in parts(text, 160)[1:]:
        assert re.match(r"> - \d", part)
        assert "```" not in render(part, DISCORD)


def test_a_paragraph_with_indented_lines_stays_text() -> None:
    text = "- " + f"\n      {WORDS}".join(["Words."] * 12)
    assert not any("```" in render(part, DISCORD) for part in parts(text, 160))


def test_a_row_that_is_too_long_is_cut_between_words() -> None:
    row = f"| {' '.join(f'word{number}' for number in range(200))} |\n"
    found = parts(f"| head |\n|---|\n{row}", 200)
    assert "".join(found).count("word") == 200
    assert re.findall(r"word\d+", " ".join(found)) == [f"word{n}" for n in range(200)]


def test_words_are_not_cut_before_a_mark_that_would_begin_a_block() -> None:
    text = "word ``` x " * 100
    assert not any(part.startswith("```") for part in parts(text, 150))


def test_a_table_repeats_its_head() -> None:
    rows = "".join(f"| {number} | value |\n" for number in range(40))
    found = parts(f"| no | name |\n|---|---|\n{rows}", 200)
    assert len(found) > 2
    assert all(part.startswith("| no | name |\n|---|---|\n") for part in found)


def test_a_paragraph_is_cut_between_sentences() -> None:
    found = parts(WORDS * 30, 200)
    assert all(part.rstrip().endswith(".") for part in found)


@pytest.mark.parametrize(
    "text", ["x" * 5_000, "漢" * 5_000, "😀" * 3_000, "*" * 3_000, "`" * 3_000]
)
def test_a_text_without_any_place_to_cut(text: str) -> None:
    found = parts(text, 200)
    assert "".join(found) == text
    assert all(length(part) <= 200 for part in found)


def test_characters_that_are_seen_as_one_stay_together() -> None:
    family = "👨‍👩‍👧"
    assert all(part.count(family) * len(family) == len(part) for part in parts(family * 200, 100))


def test_what_is_cut_off_does_not_change_when_the_text_grows() -> None:
    text = "\n\n".join(f"## {number}\n\n{WORDS * 3}\n\n- a\n- b" for number in range(12))
    limit = 300
    known: list[Part] = [Part(0, 0)]
    for end in range(0, len(text), 37):
        grown = split(text[:end], lambda it: length(it) <= limit, limit, known[-1])
        known[-1:] = grown
    known[-1:] = split(text, lambda it: length(it) <= limit, limit, known[-1])
    assert [part.start for part in known[1:]] == [part.end for part in known[:-1]]
    assert known[-1].end == len(text)


@pytest.mark.parametrize(
    ("shown", "rest"),
    [
        ("A.", "- a\n- b"),
        ("A.\n\nOne two. Thr", "- a\n- b"),
        ("A.\n\nOne two. Three.\n\n-", "- b"),
        ("A.\n\nOne two. Three.\n\n- a\n- b", None),
    ],
)
def test_a_part_ends_behind_what_is_shown_of_it(shown: str, rest: str | None) -> None:
    text = "A.\n\nOne two. Three.\n\n- a\n- b"
    found = end_part(text, Part(0, 5), lambda source: source.startswith(shown), 2_000)
    assert (found and found._replace(end=len(text)).source(text)) == rest


def test_a_paragraph_ends_between_sentences_behind_what_is_shown() -> None:
    text = "One two. Three four. Five si"
    found = end_part(text, Part(0, 5), lambda source: source.startswith("One two. T"), 2_000)
    assert found == Part(text.index("Five"), 0)


def fences(text: str) -> Iterator[SyntaxTreeNode]:
    """Yield the code blocks of a text at any depth."""
    nodes = parse_blocks(text)
    while nodes:
        node = nodes.pop()
        if node.type == "fence":
            yield node
        nodes += node.children or []


@pytest.mark.parametrize("dialect", [DISCORD, SlackDialect()], ids=["discord", "slack"])
@given(st.one_of(ANYTHING, markdown()), st.integers(min_value=100, max_value=400))
def test_no_part_is_over_the_limit_and_nothing_is_lost(
    dialect: Dialect, source: str, limit: int
) -> None:
    source = source * (1 + 600 // (len(source) + 1))
    found = split(source, lambda it: utf16_length(render(it, dialect)) <= limit, limit)
    assert found[0].start == 0
    assert found[-1].end == len(source)
    assert [part.start for part in found[1:]] == [part.end for part in found[:-1]]
    for part in found:
        rendered = render(part.source(source), dialect)
        assert utf16_length(rendered) <= limit
        assert all(is_closed(fence, rendered.split("\n")) for fence in fences(rendered))
        assert not MENTION[type(dialect)].search(rendered)


def test_a_head_that_takes_most_of_a_short_message_is_not_repeated() -> None:
    head = "q11x <!channel_q12x `` q13x__ https://x.example/q14x?b_*cq15x <b> q16x_ q17x|:/\n-|-\n"
    text = f"{head}`` `[ q21x|q22x q23x ~~q24x * q25x\nq31x h"  # found by the proof
    assert all(length(part) <= 250 for part in parts(text, 250))
