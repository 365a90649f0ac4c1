"""The page that shows a conversation of the fake Discord as people see it."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from selectolax.lexbor import LexborHTMLParser as Parser

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.discord import (
    DiscordChannel,
    DiscordFile,
    DiscordLimits,
    DiscordUser,
    FakeDiscord,
)
from palaver.testing.fakes.discord.markdown import render_markdown

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeDiscord]:
    async with FakeDiscord(clock=FakeClock(), limits=DiscordLimits.generous()) as fake:
        yield fake


@pytest.fixture
def ada(fake: FakeDiscord) -> DiscordUser:
    return fake.add_user("Ada")


@pytest.fixture
def general(fake: FakeDiscord) -> DiscordChannel:
    return fake.add_channel("general")


def name(sign: str, target: int) -> str:
    return f"<{target}>"


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**b** *i* _i_ ~~s~~", "<p><strong>b</strong> <em>i</em> <em>i</em> <s>s</s></p>"),
        ("__u__", "<p><u>u</u></p>"),
        ("# A\n## B\n### C\n#### D", "<h1>A</h1><h2>B</h2><h3>C</h3><p>#### D</p>"),
        ("text\n-# small\ntext", '<p>text</p><p class="small">small</p><p>text</p>'),
        ("a\nb", "<p>a<br />b</p>"),
        ("    no code", "<p>no code</p>"),
        ("| a |\n| - |\n| b |", "<p>| a |<br />| - |<br />| b |</p>"),
        ("a\n---", "<p>a<br />---</p>"),
        ("![a](http://b)", '<p>!<a href="http://b">a</a></p>'),
        ("<@1> <#2> @here", "<p>@&lt;1&gt; #&lt;2&gt; @here</p>"),
        ("`<@1>` \\<@1>", "<p><code>&lt;@1&gt;</code> &lt;@1&gt;</p>"),
        (
            "see http://a.b/c?d&e.",
            '<p>see <a href="http://a.b/c?d&amp;e">http://a.b/c?d&amp;e</a>.</p>',
        ),
        ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>"),
        ("&lt; <b>", "<p>&amp;lt; &lt;b&gt;</p>"),
        ("```py\n<b>\n```", '<pre><code class="language-py">&lt;b&gt;</code></pre>'),
        ("- a\n  - b", "<ul><li>a<ul><li>b</li></ul></li></ul>"),
        ("> # a\n> b", "<blockquote><h1>a</h1><p>b</p></blockquote>"),
    ],
)
def test_markdown_as_discord_shows_it(text: str, html: str) -> None:
    shown = render_markdown(text, name).replace("\n", "")
    assert shown.replace('<span class="mention">', "").replace("</span>", "") == html


async def post(fake: FakeDiscord, path: str, body: Any) -> None:
    headers = {"Authorization": f"Bot {fake.token}"}
    url = fake.api_url + path
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=body, headers=headers) as response,
    ):
        assert response.status < 300, await response.text()


def read_page(fake: FakeDiscord, channel: DiscordChannel, **options: Any) -> Parser:
    return Parser(fake.render_html(channel, **options))


def words(page: Parser, selector: str) -> list[str]:
    return [" ".join(node.text().split()) for node in page.css(selector)]


async def test_a_conversation(fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser) -> None:
    said = await fake.say(general, ada, "Hello *there*", mentions_bot=True)
    await fake.say(general, ada, "second")
    buttons = [
        {"type": 2, "style": 4, "label": "Stop", "custom_id": "s"},
        {"type": 2, "style": 1, "label": "Old", "custom_id": "o", "disabled": True},
    ]
    options = [{"label": "a", "value": "a"}]
    menu = {"type": 3, "custom_id": "m", "placeholder": "Which?", "options": options}
    reply = {
        "content": "Hi",
        "message_reference": {"message_id": str(said.id)},
        "allowed_mentions": {"parse": []},
        "components": [{"type": 1, "components": buttons}, {"type": 1, "components": [menu]}],
    }
    await post(fake, f"/channels/{general.id}/messages", reply)
    await post(fake, f"/channels/{general.id}/typing", {})
    page = read_page(fake, general)
    assert words(page, "header") == ["# general"]
    assert words(page, "article h4") == ["Ada Today at 22:13", "PalaverAPP Today at 22:13"]
    assert words(page, "article .text") == ["@Palaver Hello there", "second", "Hi"]
    assert words(page, ".above b, .above .excerpt") == ["Ada", "@Palaver Hello there"]
    assert words(page, ".button") == ["Stop", "Old"]
    assert words(page, ".button.off") == ["Old"]
    assert words(page, ".menu") == ["Which? ⌄"]
    assert words(page, ".typing") == ["● ● ● Palaver is typing…"]


async def test_files_reactions_threads_and_edits(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    said = await fake.say(general, ada, "first", attachments=[DiscordFile("a.txt", b"x" * 2048)])
    await fake.edit(said, "second")
    await fake.react(said, ada, "👍")
    thread = await fake.start_thread(general, ada, "talk", message=said)
    await fake.say(thread, ada, "inside")
    record = DiscordFile("a.ogg", b"a", audio_seconds=65)
    await fake.say(general, ada, attachments=[record])
    await fake.say(general, ada, forward=said)
    page = read_page(fake, general)
    assert words(page, ".text.is-edited") == ["second (edited)"]
    assert words(page, ".file") == ["a.txt 2.00 KB"]
    assert words(page, ".reaction") == ["👍 1"]
    assert words(page, ".thread") == ["talk 1 message ›"]
    assert words(page, ".audio") == ["▶ 1:05"]
    assert words(page, ".forward .text") == ["second"]


async def test_answers_to_commands(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    application = fake.state.application.id
    await post(fake, f"/applications/{application}/commands", {"name": "ask", "description": "d"})
    for body in ({"type": 5}, {"type": 4, "data": {"content": "secret", "flags": 64}}):
        used = await fake.command(general, ada, "ask")
        await post(fake, f"/interactions/{used.id}/{used.token}/callback", body)
    page = read_page(fake, general, seen_by=ada)
    assert words(page, ".command") == ["/ask", "/ask"]
    assert words(page, ".thinking") == ["● ● ● Palaver is thinking…"]
    assert words(page, ".dismiss") == ["Only you can see this · Dismiss message"]
    assert "secret" not in fake.render_html(general)


async def test_embeds_and_components_of_version_2(
    fake: FakeDiscord, general: DiscordChannel
) -> None:
    embed: Any = {"title": "T", "description": "**d**", "color": 255, "footer": {"text": "f"}}
    embed |= {"fields": [{"name": "n", "value": "v"}], "author": {"name": "a"}}
    path = f"/channels/{general.id}/messages"
    await post(fake, path, {"embeds": [embed]})
    await post(fake, path, {"content": "hidden", "embeds": [embed], "flags": 4})
    text = {"type": 10, "content": "# big"}
    button = {"type": 2, "style": 3, "label": "OK", "custom_id": "o"}
    parts: list[Any] = [
        text,
        {"type": 14},
        {"type": 9, "components": [text], "accessory": button},
        {"type": 12, "items": [{"media": {"url": "http://a"}, "description": "cat"}]},
    ]
    box = {"type": 17, "accent_color": 16, "components": parts}
    await post(fake, path, {"flags": 1 << 15, "components": [box]})
    page = read_page(fake, general)
    assert words(page, ".embed") == ["a T d n v f"]
    assert page.css(".embed")[0].attributes["style"] == "border-color: #0000ff"
    assert words(page, ".box") == ["big big OKcat"]
    assert page.css(".box")[0].attributes["style"] == "border-color: #000010"


async def test_every_text_is_escaped(fake: FakeDiscord) -> None:
    mallory = fake.add_user(HOSTILE)
    channel = fake.add_channel(HOSTILE)
    file = DiscordFile(HOSTILE, b"a")
    said = await fake.say(channel, mallory, f"{HOSTILE} {mallory.mention}", attachments=[file])
    await fake.say(channel, mallory, HOSTILE, reply_to=said)
    await fake.say(channel, mallory, forward=said)
    await fake.react(said, mallory, HOSTILE)
    await fake.start_thread(channel, mallory, HOSTILE, message=said)
    embed: Any = {"title": HOSTILE, "description": HOSTILE, "footer": {"text": HOSTILE}}
    embed |= {"fields": [{"name": HOSTILE, "value": HOSTILE}], "author": {"name": HOSTILE}}
    button = {"type": 2, "style": 1, "label": HOSTILE, "custom_id": "b", "emoji": {"name": HOSTILE}}
    body = {"embeds": [embed], "components": [{"type": 1, "components": [button]}]}
    await post(fake, f"/channels/{channel.id}/messages", body)
    html = fake.render_html(channel)
    page = Parser(html)
    assert not page.css("script, img, [onerror]")
    assert html.count("&lt;script&gt;") > 12
