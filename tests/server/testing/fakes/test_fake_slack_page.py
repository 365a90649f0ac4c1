"""Conversations of the fake Slack as pages, and what people see in them."""

from typing import Any

import pytest
from selectolax.lexbor import LexborHTMLParser, LexborNode
from slack_sdk.web.async_client import AsyncWebClient

from palaver.testing.fakes.slack import FakeSlack
from palaver.testing.fakes.slack.html import markdown_html, mrkdwn_html

pytestmark = pytest.mark.slow

HOSTILE = '<script>alert("1")</script> & <img src=x onerror=alert(1)> \'"'


def label(text: str) -> dict[str, str]:
    return {"type": "plain_text", "text": text}


def button(id: str, text: str, **more: str) -> dict[str, Any]:
    return {"type": "button", "action_id": id, "text": label(text), "value": id} | more


def page(slack: FakeSlack, thread: str | None = None, **options: str) -> LexborHTMLParser:
    return LexborHTMLParser(slack.render_html(slack.general, thread, **options))


def texts(parser: LexborHTMLParser, selector: str) -> list[str]:
    return [node.text().strip() for node in parser.css(selector)]


def only(parser: LexborHTMLParser, selector: str) -> LexborNode:
    [node] = parser.css(selector)
    return node


async def test_a_thread_shows_authors_texts_and_blocks(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    thread = await slack.mention(slack.general, slack.ada, "how many *days*?")
    table = {"type": "table", "rows": [[{"type": "raw_text", "text": "30 days"}]]}
    await client.chat_postMessage(
        channel=slack.general,
        thread_ts=thread,
        text="fallback",
        blocks=[
            {"type": "markdown", "text": "**30** days, see [here](https://example.com)"},
            {"type": "header", "text": label("A header")},
            {"type": "divider"},
            table,
            {"type": "section", "text": {"type": "mrkdwn", "text": "a _section_"}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": "<https://x.org|1>"}]},
            {
                "type": "actions",
                "elements": [button("a", "Yes", style="primary"), button("b", "No")],
            },
        ],
    )
    shown = page(slack, thread)
    assert texts(shown, ".heading b") == ["Ada", "Palaver"]
    assert texts(shown, ".heading em") == ["APP"]
    assert texts(shown, ".mention") == ["@Palaver"]
    assert texts(shown, ".text b, .text strong, .text i") == ["days", "30", "section"]
    assert texts(shown, "h3, td, .context a, .button") == ["A header", "30 days", "1", "Yes", "No"]
    assert only(shown, ".text a").attributes["href"] == "https://example.com"
    assert only(shown, ".button.primary").text() == "Yes"
    assert "fallback" not in shown.text()
    assert texts(shown, ".rule") == ["1 reply"]
    assert texts(page(slack), ".replies") == ["1 reply"]


async def test_all_text_is_escaped(slack: FakeSlack, client: AsyncWebClient) -> None:
    slack.world.users[slack.ada].name = HOSTILE
    slack.world.channels[slack.general].name = HOSTILE
    thread = await slack.say(slack.general, slack.ada, HOSTILE)
    cell = {"type": "raw_text", "text": HOSTILE}
    await client.chat_postMessage(
        channel=slack.general,
        thread_ts=thread,
        text=HOSTILE,
        metadata={"event_type": "x", "event_payload": {"x": HOSTILE}},
    )
    slack.clock.advance(1)
    await client.chat_postMessage(
        channel=slack.general,
        thread_ts=thread,
        text="fallback",
        blocks=[
            {"type": "markdown", "text": f"{HOSTILE}\n\n`{HOSTILE}`\n\n<@U404|{HOSTILE}>"},
            {"type": "section", "text": {"type": "mrkdwn", "text": f"*{HOSTILE}* `{HOSTILE}`"}},
            {"type": "header", "text": label(HOSTILE)},
            {"type": "table", "rows": [[cell]]},
            {"type": "context", "elements": [label(HOSTILE)]},
            {"type": "actions", "elements": [button("a", HOSTILE[:75])]},
            {"type": "image", "image_url": "https://x.org", "alt_text": HOSTILE},
        ],
    )
    await client.assistant_threads_setStatus(
        channel_id=slack.general, thread_ts=thread, status=HOSTILE
    )
    files = [slack.file(slack.ada, HOSTILE, b"x")]
    await slack.say(slack.general, slack.ada, "<javascript:alert(1)|x>", thread=thread, files=files)
    shown = page(slack, thread)
    assert shown.css("script, img, [onerror]") == []
    assert not any("javascript:" in str(node.attributes["href"]) for node in shown.css("a"))
    assert shown.text().count('alert("1")') >= 10


async def test_a_stream_shows_its_tasks_and_the_stop_button(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    thread = await slack.say(slack.general, slack.ada, "hi")
    where: dict[str, Any] = {"channel_id": slack.general, "thread_ts": thread}
    await client.agents_sessions_setStatus(status="processing", **where)
    task = {"type": "task_update", "id": "1", "title": "Searching", "status": "complete"}
    await client.chat_startStream(
        channel=slack.general,
        thread_ts=thread,
        recipient_team_id=slack.team,
        recipient_user_id=slack.ada,
        chunks=[task, {"type": "markdown_text", "text": "So *far*"}],
    )
    await client.assistant_threads_setStatus(status="is thinking…", **where)
    shown = page(slack, thread)
    assert texts(shown, ".tasks div") == ["✓ Searching"]
    assert texts(shown, ".streaming .text") == ["So far"]
    assert only(shown, ".status").text().split() == ["Palaver", "is", "thinking…", "◼", "Stop"]


async def test_files_reactions_edits_and_ephemeral_messages_are_shown(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    files = [slack.file(slack.ada, "a.pdf", b"x"), slack.file(slack.ada, "b.png", b"\x89PNG")]
    ts = await slack.say(slack.general, slack.ada, "look", files=files)
    await slack.react(slack.general, ts, slack.bob, "+1")
    await slack.edit(slack.general, ts, "look here")
    await client.chat_postEphemeral(channel=slack.general, user=slack.bob, text="psst")
    shown = page(slack)
    assert texts(shown, ".file") == ["PDFa.pdf"]
    assert str(only(shown, "img").attributes["src"]).startswith("data:image/png;base64,")
    assert texts(shown, ".reaction") == ["👍 1"]
    assert "(edited)" in shown.text()
    assert texts(shown, ".ephemeral .text") == ["psst"]
    assert page(slack, seen_by=slack.ada).css(".ephemeral") == []


async def test_messages_of_one_author_share_a_heading_for_a_while(slack: FakeSlack) -> None:
    await slack.say(slack.general, slack.ada, "1")
    await slack.say(slack.general, slack.ada, "2")
    await slack.say(slack.general, slack.bob, "3")
    slack.clock.advance(600)
    await slack.say(slack.general, slack.bob, "4")
    assert texts(page(slack), ".heading b") == ["Ada", "Bob", "Bob"]


def name(entity: str) -> str:
    return entity.replace("U1", "Ada")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("*b* _i_ ~s~ `c`", "<div><b>b</b> <i>i</i> <s>s</s> <code>c</code></div>"),
        ("中*b*文 2*3*4 a_b_c", "<div>中*b*文 2*3*4 a_b_c</div>"),
        ("*<https://x.org|there>*", '<div><b><a href="https://x.org">there</a></b></div>'),
        ("a &lt; b &amp; c", "<div>a &lt; b &amp; c</div>"),
        ("<@U1> :+1:", '<div><span class="mention">@Ada</span> 👍</div>'),
        ("```\n*x* <b>\n```", "<div><pre>*x* &lt;b&gt;\n</pre></div>"),
        ("&gt; a\n&gt; b\nc", "<blockquote>a<br>b</blockquote><div>c</div>"),
        ("<javascript:alert(1)|x>", "<div>&lt;javascript:alert(1)|x&gt;</div>"),
    ],
)
def test_mrkdwn_is_shown_as_slack_shows_it(text: str, html: str) -> None:
    assert mrkdwn_html(text, name) == html


def test_markdown_is_shown_with_mentions() -> None:
    html = markdown_html("**a** <@U1> `x` ~~y~~", name)
    assert html == (
        '<p><strong>a</strong> <span class="mention">@Ada</span> <code>x</code> <s>y</s></p>\n'
    )


@pytest.mark.parametrize(
    ("content", "mentions"),
    [
        ({"text": "<@U123> <!here> <!subteam^S1|team>"}, ("@U123", "!here", "!subteam^S1")),
        ({"text": "&lt;@U123&gt; @here"}, ()),
        ({"text": "@here", "link_names": True}, ("!here",)),
        ({"text": "x", "blocks": [{"type": "markdown", "text": "`<@U123>`"}]}, ("@U123",)),
        ({"text": "x", "blocks": [{"type": "header", "text": label("<@U123>")}]}, ()),
    ],
)
async def test_mentions_are_counted(
    slack: FakeSlack, client: AsyncWebClient, content: dict[str, Any], mentions: tuple[str, ...]
) -> None:
    await client.chat_postMessage(channel=slack.general, **content)
    assert slack.conversation(slack.general)[0].mentions == mentions
