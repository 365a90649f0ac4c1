"""Texts of Slack become what a person meant."""

import pytest

from palaver_plugins.channels.slack.texts import (
    MAX_MENTIONS,
    mentioned_users,
    mentions,
    readable,
    without_mention,
)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1 &lt; 2 &amp;&amp; 3 &gt; 2", "1 < 2 && 3 > 2"),
        ("&amp;lt; stays", "&lt; stays"),
        ("&quot; is no entity of Slack", "&quot; is no entity of Slack"),
        ("ask <@U1>", "ask @Ada Lovelace"),
        ("ask <@U2|bob>", "ask @bob"),
        ("ask <@U3>", "ask @U3"),
        ("in <#C1|general> and <#C2>", "in #general and #C2"),
        ("<!here> <!channel> <!everyone>", "@here @channel @everyone"),
        ("<!subteam^S1|@team> <!subteam^S2>", "@team @subteam"),
        ("<!date^1392734382^{date}|Feb 18>", "Feb 18"),
        ("see <https://a.example/x?y=1&amp;z=2|the page>", "see [the page](https://a.example/x?y=1&z=2)"),
        ("see <https://a.example>", "see https://a.example"),
        ("see <http://a.example|a.example>", "see http://a.example"),
        ("see <https://a.example|https://a.example>", "see https://a.example"),
        ("<mailto:a@b.example|a@b.example>", "a@b.example"),
        ("a < b and <unclosed", "a < b and <unclosed"),
    ],
)  # fmt: skip
def test_slack_s_own_marks_are_read(written: str, read: str) -> None:
    assert readable(written, {"U1": "Ada Lovelace"}) == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (":thumbsup:", "👍"),
        (":+1::skin-tone-3: :tada::tada:", "👍 🎉🎉"),
        (":rocket: :fire:", "🚀 🔥"),
        (":no_such_emoji: at 10:30:45", ":no_such_emoji: at 10:30:45"),
        ("key:fire:value", "key:fire:value"),
        ("`:fire:` and ```\n:fire:\n``` :fire:", "`:fire:` and ```\n:fire:\n``` 🔥"),
        (":space: :digit_one:", ":space: :digit_one:"),
    ],
)
def test_emoji_are_read(written: str, read: str) -> None:
    assert readable(written, {}) == read


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("<@UBOT> hello", "hello"),
        ("<@UBOT>, hello", "hello"),
        ("hello <@UBOT|palaver>", "hello"),
        ("tell <@UBOT> what <@U1> said", "tell what <@U1> said"),
        ("<@UBOT>", ""),
        ("<@UBOT> <@UBOT>\n", ""),
        ("<@UBOTX> hello", "<@UBOTX> hello"),
    ],
)
def test_the_bot_s_mention_is_left_out(written: str, said: str) -> None:
    assert without_mention(written, "UBOT") == said


def test_mentions_are_found_once_each_and_not_without_end() -> None:
    assert mentioned_users("<@U1> <@W2|bob> <@U1> @U3 <@u4>") == ["U1", "W2"]
    assert mentions("hi <@U1|ada>", "U1")
    assert not mentions("hi <@U12>", "U1")
    assert len(mentioned_users(" ".join(f"<@U{n}>" for n in range(100)))) == MAX_MENTIONS
