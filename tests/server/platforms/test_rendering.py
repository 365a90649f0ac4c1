"""A reply's Markdown in the dialects of the platforms."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.skills.markdown_strategies import markdown

from palaver.markdown import parse_blocks
from palaver.platforms.rendering import WORD_BREAK, Dialect, plain_text, render
from palaver_plugins.channels.discord.markdown import DiscordDialect, utf16_length
from palaver_plugins.channels.slack.slack_markdown import SlackDialect, plain

DIALECTS = [Dialect(), SlackDialect(), DiscordDialect()]
DISCORD_MENTION = re.compile(r"<(?:@[!&]?|#)\d+>|<a?:\w+:\d+>|<t:-?\d+|@everyone|@here")
SLACK_MENTION = re.compile(r"<[@#!]")

ON_BOTH = {
    "**bold** *it* ~~gone~~ `x`": "**bold** *it* ~~gone~~ `x`",
    "**粗体**和*斜体*字": "**粗体**和*斜体*字",
    "- a\n- b": "- a\n- b",
    "[t](http://x.y/a_b)": "[t](<http://x.y/a_b>)",
    "![a cat](http://x.y/c.png)": "[a cat](<http://x.y/c.png>)",
    "<http://x.y>": "<http://x.y>",
    "[](http://x.y)": "<http://x.y>",
    "``a ` b``": "``a ` b``",
    "```py\nx = 1\n\ny\n```": "```py\nx = 1\n\ny\n```",
    "```bad`lang\nx": "\\`\\`\\`bad\\`lang\nx",
    "    indented\n    code": "```\nindented\ncode\n```",
    "```py\nnever closed": "```py\nnever closed\n```",
    "> quoted\n> more": "> quoted\n> more",
    "3. c\n4. d": "3. c\n4. d",
    "- [x] done\n- [ ] not": "☑ done\n☐ not",
    "a\\\nb  \nc\nd": "a\nb\nc\nd",
    "\\# no\n\n1\\. no": "\\# no\n\n1\\. no",
    "2 * 3 and snake_case_name": "2 \\* 3 and snake\\_case\\_name",
    "a **  ** b": "a \\*\\*  \\*\\* b",
    "`a`[`b`](http://x.y)": "`a`[`b`](<http://x.y>)",
    "`a`<http://x.y>": "`a`<http://x.y>",
    "see\\![t](http://x.y)": f"see!{WORD_BREAK}[t](<http://x.y>)",
    "": "",
}


@pytest.mark.parametrize("dialect", [SlackDialect(), DiscordDialect()], ids=["slack", "discord"])
@pytest.mark.parametrize(("source", "expected"), ON_BOTH.items(), ids=ON_BOTH)
def test_what_both_write_alike(dialect: Dialect, source: str, expected: str) -> None:
    assert render(source, dialect) == expected


ON_DISCORD = {
    "##### deep": "**deep**",
    "### three": "### three",
    "---": "─" * 12,
    "| a | b |\n|---|---|\n| 漢字 | `x` |": "```\na    │ b\n─────┼──\n漢字 │ x\n```",
    "1. a\n   - b\n     - c": "1. a\n  - b\n    - c",
    "see https://x.y/a_b*c, ok": "see https://x.y/a_b*c, ok",
    "````\n```\n````": f"```\n`{WORD_BREAK}``\n```",
    "```\n```": f"```\n{WORD_BREAK}\n```",
    "hello @everyone": f"hello @{WORD_BREAK}everyone",
    "hi <@123> `<@!456>`": f"hi \\<{WORD_BREAK}@123\\> `<{WORD_BREAK}@!456>`",
    "```` a ``` b ````": f"``a `{WORD_BREAK}`{WORD_BREAK}` b``",
    "||secret||": "\\|\\|secret\\|\\|",
    "-# small": "\\-# small",
    "a@b.org <a@b.org>": "a@b.org a@b.org",
}


@pytest.mark.parametrize(("source", "expected"), ON_DISCORD.items(), ids=ON_DISCORD)
def test_discord(source: str, expected: str) -> None:
    assert render(source, DiscordDialect()) == expected


ON_SLACK = {
    "##### deep": "##### deep",
    "---": "---",
    "| a | b |\n|---|---|\n| `x\\|y` | z |": "| a | b |\n| --- | --- |\n| `x\\|y` | z |",
    "1. a\n   - b": "1. a\n   - b",
    "10. a\n    - b": "10. a\n    - b",
    "- a\n\n  9. b": "- a\n  \n  9. b",
    "- a\n\n  ***\n  b": "- a\n  \n  ---\n  b",
    "hi <@U1> <!channel>": f"hi \\<{WORD_BREAK}@U1\\> \\<{WORD_BREAK}!channel\\>",
    "`<!here>`": f"`<{WORD_BREAK}!here>`",
    "R&D &amp; `&`": "R\\&D \\& `&`",
}


@pytest.mark.parametrize(("source", "expected"), ON_SLACK.items(), ids=ON_SLACK)
def test_slack(source: str, expected: str) -> None:
    assert render(source, SlackDialect()) == expected


def test_a_wide_table_is_a_list_on_discord() -> None:
    table = f"| name | text |\n|---|---|\n| **x** | {'wide ' * 30} |"
    assert render(table, DiscordDialect()) == f"- **name** **x**\n  **text** {('wide ' * 30)[:-1]}"


def test_a_wide_table_without_rows_shows_its_head_on_discord() -> None:
    head = "wide " * 30
    table = f"| name | {head} | |\n|---|---|---|"
    assert render(table, DiscordDialect()) == f"- **name**\n  **{head[:-1]}**\n  "


def test_links_lead_to_the_web_or_to_mail() -> None:
    for url in ("javascript:x", "data:text/html,x", "file:///etc/passwd", "vbscript:x", "//x.y"):
        for dialect in DIALECTS:
            rendered = render(f"[t]({url}) ![i]({url})", dialect)
            assert not re.search(r"(?<!\\)\]\(", rendered), rendered


def test_text_for_mrkdwn_has_no_links_and_mentions() -> None:
    assert plain("<!channel> R&D <http://x|y>") == "&lt;!channel&gt; R&amp;D &lt;http://x|y&gt;"


def test_discord_counts_utf16_units() -> None:
    text = "a漢😀e\u0301"
    assert utf16_length(text) == len(text.encode("utf-16-le")) // 2


def words(source: str) -> str:
    """Return the letters and digits of a text without its marks."""
    text = " ".join(map(plain_text, parse_blocks(source)))
    return "".join(letter for letter in text if unicodedata.category(letter)[0] in "LN")


@given(markdown().filter(lambda source: "|" not in source))
def test_rendering_preserves_the_words(source: str) -> None:
    source = source.replace("SECRET.png", "http://x.example/i.png")
    for dialect in (Dialect(), SlackDialect()):  # what they write is CommonMark again
        assert words(render(source, dialect)) == words(source)


ANYTHING = st.lists(
    st.one_of(
        st.sampled_from(
            ["<@123>", "<@!1>", "<#9>", "<@&7>", "@everyone", "@here", "<!channel>", "<@U1>"]
        ),
        st.sampled_from(
            ["`", "```", "\n", "\n\n", "> ", "- ", "1. ", "|", "|---|", "*", "\\", "<"]
        ),
        st.sampled_from(
            ["[x](", ")", "http://x.y/", "a:smile:1>", "&lt;", "&#64;", "&#60;", "t:1>"]
        ),
        st.text(max_size=5),
    ),
    max_size=20,
).map("".join)


@given(st.one_of(ANYTHING, markdown()))
def test_no_text_becomes_a_mention(source: str) -> None:
    assert not DISCORD_MENTION.search(render(source, DiscordDialect()))
    assert not SLACK_MENTION.search(render(source, SlackDialect()))


@given(st.one_of(ANYTHING, markdown()))
def test_code_blocks_are_closed_on_discord(source: str) -> None:
    assert render(source, DiscordDialect()).count("```") % 2 == 0
