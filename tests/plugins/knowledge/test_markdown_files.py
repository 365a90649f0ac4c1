"""Titles of Markdown files, and what is left out of their text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver_plugins.knowledge.markdown_files import read_markdown


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("# `max_message_bytes` and C#\n", "max_message_bytes and C#"),
        ("# C# #\n", "C#"),
        ("Two *words*\nin lines\n===\n\n# Other\n", "Two words in lines"),
        ("```sh\n# comment\n```\n\n# Title\n", "Title"),
        ("~~~~\n```\n# comment\n~~~\n~~~~\n# Title", "Title"),
        ("- item\n\n  ```\n  # comment\n  ```\n\n# Title", "Title"),
        ("<!--\n# hidden\n-->\n# Title", "Title"),
        ('<h1 align="center">My <b>app</b></h1>\n\n# Other', "My app"),
        ("# [Link](http://x) ![logo](y.png)\n", "Link logo"),
        ("## Only a section\n", ""),
        ("---\ntitle: It's\n---\n# Other\n", "It's"),
        ("---\ndate: 1\ntitle: 'It''s'  \n---\n# Other\n", "It's"),
        ('---\ntitle: "a \\"b\\": c"\n---\n', 'a "b": c'),
        ("---\ntitle: >-\n  Two\n  lines\ntags: [a]\n---\n", "Two lines"),
        ("---\ntitle: name # comment\n---\n", "name"),
        ("---\ntags:\n- a\n---\n# Title\n", "Title"),
        ("---\ndate created: Monday, 1:00\nTitle: A\n---\n# Other", "A"),
        ("---\n'title': A\n  and B # c\n---\n# Other", "A and B # c"),
        ('+++\ntitle = "A # b"\n[params]\nx = 1\n+++\n# Other', "A # b"),
        ("+++\ndate = 1\n+++\n# Title {#top .wide}", "Title"),
        ("# Title {: #top }", "Title"),
        ("# {#a}", "{#a}"),
    ],
)
def test_the_title_is_found_by_the_parser(content: str, title: str) -> None:
    assert read_markdown(content)[0] == title


def test_front_matter_is_left_out() -> None:
    assert read_markdown("---\ntitle: x\nempty:\n\n# note\n---\nwords") == ("x", "words")
    assert read_markdown("---\ntitle: x\n...\nwords") == ("x", "words")
    assert read_markdown("---\nlast updated: x\n---\nwords") == ("", "words")
    assert read_markdown("+++\ntitle='x'\n[a]\n+++\nwords") == ("x", "words")


@pytest.mark.parametrize(
    "text",
    [
        "---\nJust words\n---\nmore",
        "---\n\nwords",
        "---\n# Title\n\n---\n",
        "---",
        "----\na: b\n",
        "+++",
        "+++ a\n+++",
    ],
)
def test_lines_are_not_front_matter(text: str) -> None:
    assert read_markdown(text)[1] == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a <!-- x --> b", "a  b"),
        ("a <!-- x\ny --> b", "a  b"),
        ("`<!-- x -->` b", "`<!-- x -->` b"),
        ("``a ` <!-- x -->`` <!-- y -->", "``a ` <!-- x -->`` "),
        ("a ` b <!-- x -->", "a ` b "),
        ("```html\n<!-- x -->\n```", "```html\n<!-- x -->\n```"),
        ("- a\n\n      <!-- x -->", "- a\n\n      <!-- x -->"),
        ("\\<!-- x", "\\<!-- x"),
    ],
)
def test_comments_are_left_out_but_not_in_code(text: str, left: str) -> None:
    assert read_markdown(text)[1] == left


def test_html_blocks_become_text() -> None:
    text = read_markdown(
        "<details>\n<summary>More</summary>\n\nwords\n\n</details>\n\n"
        "<table>\n<tr><th>A<th>B\n<tr><td>1<td>2\n</table>\n\n<script>\n\nbad()\n</script>\n"
    )[1]
    assert text.split() == "More words | A | B | | --- | --- | | 1 | 2 |".split()


@given(
    st.lists(
        st.sampled_from(
            ["---", "title: a", "# b", "```", "<!--", "-->", "<p>x", "`", "> ", "- c", ""]
        )
    )
)
def test_any_markdown_is_read(lines: list[str]) -> None:
    read_markdown("\n".join(lines))
