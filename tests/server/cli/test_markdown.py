"""Markdown for a terminal, whole and while it arrives."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palaver.cli.markdown import BOLD, CODE, DIM, ITALIC, LINK, PLAIN, STRUCK, Run, plain_text
from palaver.cli.markdown_stream import LONG_FENCE, MAX_WITHHELD, MarkdownStream


def stream(*pieces: str) -> list[str]:
    """Return what is written after each piece, and at the end."""
    markdown = MarkdownStream()
    written = [plain_text(markdown.feed(piece)) for piece in pieces]
    return [*written, plain_text(markdown.end())]


def show(text: str, size: int = 0) -> str:
    """Return what is written of ``text`` that comes in pieces of ``size``."""
    size = size or max(1, len(text))
    pieces = [text[place : place + size] for place in range(0, len(text), size)]
    return "".join(stream(*pieces)).removeprefix("\n")


def runs(text: str) -> list[Run]:
    markdown = MarkdownStream()
    return [run for run in [*markdown.feed(text), *markdown.end()] if run.text]


SHOWN = {
    "- a\n- b\n\n1. one\n2. two": "• a\n• b\n\n1. one\n2. two",
    "- a\n1. one\n1. two": "• a\n\n1. one\n2. two",
    "3) c\n4) d": "3) c\n4) d",
    "- a\n  - b\n    1. c\n- d": "• a\n  • b\n    1. c\n• d",
    "- a\n\n  more\n- b": "• a\n  more\n• b",
    "- [ ] to do\n- [x] done\n- [link](u)": "☐ to do\n☑ done\n• link (u)",
    "![a cat](http://x/c.png) and ![](d.png)": "a cat (http://x/c.png) and d.png",
    "[text](http://x) <http://y> <a@b.org>": "text (http://x) http://y a@b.org",
    "[run](javascript:alert(1))": "[run](javascript:alert(1))",
    "[1]: http://x\n\nSee [1].": "[1]: http://x\n\nSee [1].",
    "| a | b |\n|---|--:|\n| 1 | long |\n| 漢字 |": (
        "a    │ b   \n─────┼─────\n1    │ long\n漢字 │     "
    ),
    "```py\nx = [1]\n\n# no heading\n```": "```py\nx = [1]\n\n# no heading\n```",
    "````\n```\n````\nafter": "````\n```\n````\n\nafter",
    "```\nnever closed": "```\nnever closed",
    "> quoted\n> - a": "│ quoted\n│ \n│ • a",
    "# Title\ntext\n***\nTwo\n===\nThree\n---": "Title\n\ntext\n\n" + "─" * 20 + "\n\nTwo\n\nThree",
    "<b>HTML</b> &amp; \\*stars\\*": "<b>HTML</b> & *stars*",
    "max_message_bytes, 5 * 3 and 2*3": "max_message_bytes, 5 * 3 and 2*3",
    "<think>\nHm, *so*.\n</think>\n\n*Yes*": "Hm, *so*.\n\nYes",
    "<think>\n\n</think>\n\nYes": "Yes",
    "<thinking>a</thinking>b": "a\n\nb",
    "<think>cut": "cut",
    "```\n<think>\n```": "```\n<think>\n```",
    "one<think>two": "one<think>two",
    "line  \nbreak\r\nend": "line\nbreak\nend",
    "": "",
    "\n\n": "",
}


@pytest.mark.parametrize(("text", "shown"), SHOWN.items())
def test_markdown_is_shown(text: str, shown: str) -> None:
    assert show(text) == shown


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("text", SHOWN)
def test_it_is_the_same_in_pieces(text: str, size: int) -> None:
    assert show(text, size) == show(text)


def test_styles() -> None:
    assert runs("a **b** *c* `d` ~~e~~ ***f***") == [
        Run("a "),
        Run("b", BOLD),
        Run(" "),
        Run("c", ITALIC),
        Run(" "),
        Run("d", CODE),
        Run(" "),
        Run("e", STRUCK),
        Run(" "),
        Run("f", BOLD | ITALIC),
    ]
    assert runs("# T\n## t") == [Run("T", BOLD | LINK), Run("\n\n"), Run("t", BOLD)]
    assert [run.style for run in runs("```py\nx\n```")] == [PLAIN, DIM, PLAIN, CODE, PLAIN, DIM]
    assert runs("<think>hm</think>so") == [Run("hm", DIM), Run("\n\n"), Run("so")]


@pytest.mark.parametrize(
    ("pieces", "written"),
    [
        (["Once upon", " a time", " in"], ["Once upon", " a time", " in", ""]),
        (["a ", "**bo", "ld", "** c"], ["a", " ", "", "bold c", ""]),
        (["see [1", "]", " and"], ["see ", "", "[1] and", ""]),
        (["```py\n", "x = 1\n", "y = 2\n"], ["\n```py", "\nx = 1", "\ny = 2", ""]),
        (["- a\n- ", "b"], ["\n• a\n", "• b", ""]),
        (["para\n#", "tag"], ["para\n", "#tag", ""]),
        (["<th", "ink>hm", " so", "</think>", "yes"], ["", "hm", " so", "", "\n\nyes", ""]),
        (["|a|\n", "|-|\n", "|b|\n", "\nend"], ["", "", "", "\na\n─\nb\n\nend", ""]),
    ],
)
def test_text_is_written_as_it_arrives(pieces: list[str], written: list[str]) -> None:
    assert stream(*pieces) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("- a", "\n• a"),
        ("# T", "T"),
        ("a\n\n- b", "a\n\n• b"),
        ("```\nx\n```", "\n```\nx\n```"),
        ("<think>a</think>- b", "a\n\n• b"),
    ],
)
def test_a_block_of_lines_begins_on_its_own_line(text: str, written: str) -> None:
    """The label of the skill stands before the reply."""
    for size in (1, len(text)):
        assert "".join(stream(*(text[i : i + size] for i in range(0, len(text), size)))) == written


def test_a_mark_without_counterpart_does_not_hold_up_a_block() -> None:
    words = " and more words" * (MAX_WITHHELD // 10)
    *written, rest = stream("area is w*h", *re.split("(?= )", words))
    assert "".join(written) + rest == f"area is w*h{words}"
    assert sum(map(len, written)) > MAX_WITHHELD
    for end in ("", "\n"):
        assert show(f"area is w*h{words}\n\n- *next*{end}", 3) == f"area is w*h{words}\n\n• next"


def test_a_long_fence_is_written_line_by_line() -> None:
    lines = [f'print("{number}")  # `x` **y**' for number in range(LONG_FENCE // 10)]
    text = "\n".join(["```py", *lines, "```", "", "after"])
    assert show(text, 4) == text
    *written, _ = stream("```py\n", *(f"{line}\n" for line in lines))
    assert all(line in piece for line, piece in zip(lines, written[1:], strict=True))


blocks = st.sampled_from(
    [
        *("word", "two words and **bold** text", "*em* and `code`", "a [link](http://u) here"),
        *("![image](u)", "- item\n- **item**\n  - inner", "1. one\n2. two", "- [ ] a\n- [x] b"),
        *("```py\nx = 1  # *\n```", "| a | b |\n|---|---|\n| 1 | 2 |", "> quote\n> more"),
        *("# Head", "---", "5 * 3 = 15", "see [1] and [2]", "snake_case and a | b", "1 < 2 & 3"),
        *("~~gone~~ text", "line\nline", "***all***", "\\*no em\\*", "<b>tag</b>", "---\n\nrule"),
    ]
)
documents = st.lists(blocks, max_size=6).map("\n\n".join)


@pytest.mark.slow
@settings(deadline=None)
@given(documents, st.integers(1, 9))
def test_a_document_is_the_same_in_pieces(text: str, size: int) -> None:
    assert show(text, size) == show(text)


@pytest.mark.slow
@settings(deadline=None)
@given(st.text("ab1 *_`~[]()!<>&;|-#.\\\n\t:=+x", max_size=60), st.integers(1, 5))
def test_no_word_of_any_text_is_lost(text: str, size: int) -> None:
    written = iter(re.sub(r"\W", "", show(text, size)))
    whole = re.sub(r"\W", "", show(text))
    assert all(letter in written for letter in whole)
