"""What of a Markdown text may be rewritten, and what stays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proof_settings import short_or_long
from tests.skills.markdown_strategies import markdown

from palaver_skills.markdown import FIXED, Passage, read_document, split_blocks
from palaver_skills.text_splitting import (
    split_sentences,
    split_to_size,
    split_words,
)

ANYTHING = st.text(
    st.sampled_from("aZé你 \n\t`*_~#>-|[](){}<>%$&:;.!?\\/⟦⟧1@=\r\u2028"), max_size=80
)


def passages(text: str) -> list[Passage]:
    return [part for part in read_document(text) if isinstance(part, Passage)]


def prose(text: str) -> list[str]:
    """Return what a model may rewrite, between the marks."""
    runs = (run.strip() for passage in passages(text) for run in FIXED.split(passage.text))
    return [run for run in runs if run.strip(".,; ")]


@settings(max_examples=short_or_long(50, 3_000))
@given(st.one_of(markdown(), ANYTHING))
@pytest.mark.slow
def test_the_parts_joined_are_the_text(text: str) -> None:
    parts = read_document(text)
    assert "".join(x if isinstance(x, str) else x.restore(x.text) for x in parts) == text
    for nested in (False, True):
        assert "".join(split_blocks(text, nested=nested)) == text


@settings(max_examples=short_or_long(50, 3_000))
@given(markdown())
@pytest.mark.slow
def test_nothing_fixed_is_prose(text: str) -> None:
    assert not any("SECRET" in passage.text for passage in passages(text))


@settings(max_examples=short_or_long(50, 3_000))
@given(st.one_of(markdown(), ANYTHING), st.integers(1, 40))
@pytest.mark.slow
def test_cutting_a_text_loses_nothing(text: str, limit: int) -> None:
    for cut in (split_sentences, split_words):
        assert "".join(cut(text)) == text
    parts = split_to_size(text, len, limit)
    assert "".join(parts) == text
    assert all(len(part) <= limit for part in parts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title\n\nSome text.", ["Title", "Some text."]),
        ("- one\n- [x] two\n  more", ["one", "two\nmore"]),
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
        "<p v-if='on' :class='{a: on}' @click=\"go\">",
        "<Tabs values={[{label: 'x'}]} {...props} />",
        "<xliff:g id='n'>",
        "{{< figure title='no' >}}",
        "[[page|shown]]",
        "![[image.png]]",
        "\\(x + y\\)",
        "\\[ x = \\frac{a}{b} \\]",
        "\\begin{align*}a &= b\\end{align*}",
        "\\cite[p. 3]{knuth}",
        "C:\\Users\\me",
        "@scope/package",
        "$(pwd)",
        "$t(key.name)",
        "\\n",
        "\\u00e9",
    ],
)
def test_placeholders_code_and_addresses_stand_fixed_in_prose(fixed: str) -> None:
    assert prose(f"before {fixed} after") == ["before", "after"]


def test_the_keys_and_escapes_of_a_json_file_stand_fixed() -> None:
    texts = '{\n  "a.b": "one\\ntwo",\n  "c": {\n    "d": "%s three", "e": ""\n  }\n}\n'
    fixed = [mark for passage in passages(texts) for mark in passage.fixed]
    assert fixed == ['"a.b"', "\\n", '"c"', '"d"', "%s", '"e"']


def test_a_link_keeps_its_target_and_offers_its_words() -> None:
    assert prose("see [the page](https://example.org/x_(y) 'T') now") == ["see", "the page", "now"]
    assert prose("![an image](a.png)") == ["an image"]


def test_emphasis_marks_are_fixed_and_their_words_are_not() -> None:
    assert prose("a **bold** and _soft_ word") == ["a", "bold", "and", "soft", "word"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ufeff---\r\ntitle: x\r\n---\r\nbody\r\n", ["body"]),
        ("+++\nx = 'text'\n+++\nbody", ["body"]),
        ("---\n\nno front matter\n\n---\n", ["no front matter"]),
        ("a | b\n--|:-:\ncat | `x\\|y` dog\n", ["a", "b", "cat", "dog"]),
        ("> | a | b |\n> |---|---|\n> | c \\| d | |", ["a", "b", "c", "d"]),
        ("<pre>\nx\n\ny</pre>\n\nafter", ["after"]),
        ("<div><pre>\nx\n\ny\n</pre>tail\n\nafter", ["tail", "after"]),
        ("<p title='no'>one</p>\n<!-- no -->", ["one"]),
        ("a <code>no</code> b <kbd>no</kbd>", ["a", "b"]),
        (f"<!--{' no' * 3_000}\n-->\nyes", ["yes"]),
        ("<style>\nno\n\nno\n</style>\nafter", ["after"]),
        ("text[^1]\n\n[^1]: the note", ["text", "the note"]),
        ("> one\n> two", ["one\ntwo"]),
        ("> > one\n> two", ["one\ntwo"]),
        ("1. one\n   - two\n\n     three", ["one", "two", "three"]),
        ("$$\nno\n$$\n\nso $a + b$ ends", ["so", "ends"]),
        ("It costs $5 and $6.", ["It costs $5 and $6."]),
        ("Set $HOME/$USER now", ["Set", "/", "now"]),
        ("one\\\ntwo", ["one", "two"]),
        ("```\nno\n````\n\nyes", ["yes"]),
        ("- ```\n  no\n  ```\n- yes", ["yes"]),
        ("term\n: definition", ["term", "definition"]),
        ("> [!NOTE]\n> text", ["text"]),
        ("[^1] {a, plural, one {# cat} other {{b} cats}} end", ["cat", "cats", "end"]),
        ("{g, select, male {He} other {They} } went", ["He", "They", "went"]),
        (
            "{g, select, male {{n, plural, one {# cat} other {# cats}}} other {They} }",
            ["cat", "cats", "They"],
        ),
        ("see [ref] and [ref][] and [words][ref]\n\n[ref]: /x", ["see", "and", "and", "words"]),
        ("![alt `no`](a.png 'no')", ["alt"]),
        ("a `no\nno` b", ["a", "b"]),
        ("\\`yes\\` and \\{yes\\}", ["yes", "and", "yes"]),
        ("见https://x.example/a。然后", ["见", "。然后"]),
        ("a^[an *inner* note] b", ["a", "an", "inner", "note", "b"]),
        ("\\textbf{bold $x$} and \\emph{soft}", ["bold", "and", "soft"]),
        ("so \\[WIP\\] is \\(so to say\\) done", ["so", "WIP", "is", "so to say", "done"]),
        ('!!! note "The title"\n\n    the text\n', ["The title", "the text"]),
        ("import { A,\n B } from 'x';\nexport const a = 'no';\n\nyes", ["yes"]),
        ("import taxes rise.\n\nexport the file.", ["import taxes rise.", "export the file."]),
        ('"title" = "%@ text', ['= "', "text"]),
        ("#: src/a.c:4\n#, c-format\nyes", ["yes"]),
    ],
)
def test_all_that_must_not_change_is_known(text: str, expected: list[str]) -> None:
    assert prose(text) == expected


@pytest.mark.parametrize(
    ("text", "translated", "expected"),
    [
        ("> one\r\n> two\r\n", "A\nB", "> A\r\n> B\r\n"),
        ("> one\r\n> two", "A B", "> A B"),
        ("- one\n  two\n", "A\nB", "- A\n  B\n"),
        ("| a |\n|---|\n", "x | y", "| x \\| y |\n|---|\n"),
    ],
)
def test_a_translation_gets_the_line_ends_of_the_document(
    text: str, translated: str, expected: str
) -> None:
    parts = read_document(text)
    made = (x if isinstance(x, str) else x.restore(x.escape(translated)) for x in parts)
    assert "".join(made) == expected


def test_blocks_are_cut_outside_of_fences_and_tables() -> None:
    blocks = ["# T\n\n", "```\na\n\nb\n```\n", "|a|\n|-|\n|b|\n\n", "- x\n\n  y\n- z\n\n", "> q\n"]
    assert split_blocks("".join(blocks)) == blocks
    assert split_blocks(blocks[3], nested=True) == ["- x\n\n", "  y\n", "- z\n\n"]
    assert split_to_size("".join(blocks), len, 21) == [
        blocks[0] + blocks[1],
        blocks[2],
        blocks[3] + blocks[4],
    ]


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
