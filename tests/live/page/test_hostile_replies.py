"""Hostile replies and names run nothing, load nothing, and do not break the page."""

import asyncio
from collections.abc import Iterator

import pytest
from playwright.async_api import Browser, ViewportSize, expect
from tests.live.page.chat_page import ChatPage, open_page
from tests.live.page.hostile_markdown import VECTORS
from tests.live.page.hostile_names import NAMES, STEMS
from tests.live.page.hostile_names import URLS as HOSTILE_URLS
from tests.server.web.live_server import open_live_server

from palaver.config.settings import AdmissionSettings
from palaver.knowledge import Passage
from palaver.messages import Attachment
from palaver.skills import Skill
from palaver.turns.turn import Turn

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]

PER_CONVERSATION = 120
ADMISSION = AdmissionSettings(inbox_limit=PER_CONVERSATION)
LARGEST_PIECE = 9
PHONE = ViewportSize(width=360, height=640)


class HostileSkill(Skill):
    """Say the hostile text of a number: ``/hostile 7 0`` as a whole, ``/hostile 7 1`` in pieces."""

    name = "hostile"

    async def answer(self, turn: Turn) -> None:
        number, is_streamed = map(int, turn.message.text.split())
        text = VECTORS[number]
        size = number % LARGEST_PIECE + 1 if is_streamed and len(text) < 1_000 else len(text)
        for start in range(0, len(text), size):
            await turn.say(text[start : start + size])
            await asyncio.sleep(0)


class NamingSkill(Skill):
    """Answer ``/naming 7`` with files, a source, a tool and a question of a hostile name."""

    name = "naming"

    async def answer(self, turn: Turn) -> None:
        name = NAMES[int(turn.message.text)]
        for url in HOSTILE_URLS:
            turn.attach(Attachment(name=name, media_type=name, url=url))
        passage = Passage(document=name, title=name, section=name, number=1, text=name, score=1)
        await turn.say(f"[{turn.cite(passage)}]")
        await turn.ask(name, suggestions=[name])


WATCH = """
() => {
  window.violations = [];
  document.addEventListener("securitypolicyviolation", (event) =>
    window.violations.push(`${event.violatedDirective} ${event.blockedURI}`)
  );
}
"""
POST = """
async ([thread, texts]) => {
  for (const text of texts) {
    const body = JSON.stringify({ text });
    const answer = await fetch(`/v1/conversations/${thread}/messages`, { method: "POST", body });
    if (!answer.ok) throw new Error(await answer.text());
  }
}
"""
ALL_SETTLED = """
(count) => {
  const turns = document.querySelectorAll(".turn");
  return turns.length === count && [...turns].every((turn) => turn.ariaBusy !== "true");
}
"""
INSPECT = """
(alsoKnown) => {
  const log = document.getElementById("log");
  const known = new Set(
    alsoKnown.concat(
      "article h2 h3 h4 h5 h6 div p a span strong em s code pre figure figcaption".split(" "),
      "ul ol li hr br table thead tbody tr th td blockquote details summary".split(" "),
      "button input svg path math time".split(" ")
    )
  );
  const all = [...log.querySelectorAll("*")];
  const forbiddenAttribute = /^(on|style$|srcdoc|id$)/;
  const forbiddenInMath = "a, img, script, iframe, maction, [href], [src], [id], [onclick]";
  return {
    elements: all
      .filter((node) => !node.closest("math") && !known.has(node.localName))
      .map((node) => node.outerHTML.slice(0, 200)),
    formulas: [...log.querySelectorAll("math")]
      .filter((math) => math.querySelector(forbiddenInMath))
      .map((math) => math.outerHTML.slice(0, 200)),
    links: [...log.querySelectorAll("[href], [src]")]
      .map((node) => node.getAttribute("href") ?? node.getAttribute("src"))
      .filter((url) => !/^(https?:\\/\\/|mailto:)/.test(url)),
    attributes: all
      .filter((node) => !node.closest("math"))
      .filter((node) => [...node.attributes].some(({ name }) => forbiddenAttribute.test(name)))
      .map((node) => node.outerHTML.slice(0, 200)),
    violations: window.violations,
    hacked: window.hacked ?? null,
  };
}
"""
NOTHING: dict[str, object] = {
    "elements": [],
    "formulas": [],
    "links": [],
    "attributes": [],
    "violations": [],
    "hacked": None,
}
FIND_LAYOUT_BREAKS = """
() => {
  const box = (node) => node.getBoundingClientRect();
  const scrolls = (node) => getComputedStyle(node).overflowX !== "visible";
  const main = document.getElementById("main");
  const composer = box(document.getElementById("composer"));
  const middle = [composer.x + composer.width / 2, composer.y + composer.height / 2];
  const breaks = {};
  const isOutside = (node, turn) => {
    const { left, right, top, bottom, width, height } = box(node);
    if (!width || !height || !node.checkVisibility()) return false;
    let at = node.parentElement;
    while (at !== turn && !scrolls(at)) at = at.parentElement;
    const own = box(turn);
    const isBeside = left < box(main).left - 1 || right > box(main).right + 1;
    return at === turn && (isBeside || top < own.top - 1 || bottom > own.bottom + 1);
  };
  const turns = [...document.querySelectorAll(".turn")];
  // What is far from the screen is not laid out otherwise.
  for (const turn of turns) turn.style.contentVisibility = "visible";
  if (document.documentElement.scrollWidth > innerWidth) breaks[-1] = "the page is too wide";
  if (main.scrollWidth > main.clientWidth) breaks[-1] = "the conversation is too wide";
  if (composer.bottom > innerHeight) breaks[-1] = "the composer is outside";
  if (!document.elementFromPoint(...middle)?.closest("#composer")) breaks[-1] = "it is covered";
  turns.forEach((turn, index) => {
    const { top, height } = box(turn);
    if (index && top < box(turns[index - 1]).bottom) breaks[index] = "it is covered";
    if (height > 60 * innerHeight) breaks[index] = `it is ${height} high`;
    const parts = [...turn.querySelectorAll("*:not(.visually-hidden)")];
    const outside = parts.find((part) => isOutside(part, turn));
    if (outside) breaks[index] = outside.outerHTML.slice(0, 200);
  });
  return breaks;
}
"""


async def post(chat: ChatPage, texts: list[str]) -> None:
    """Post messages into a new conversation; return when the page shows all replies."""
    await chat.open()
    await chat.page.evaluate(WATCH)
    await chat.page.evaluate(POST, [chat.path.removeprefix("/c/"), texts])
    await chat.page.wait_for_function(ALL_SETTLED, arg=len(texts))


@pytest.mark.firefox
async def test_no_hostile_reply_does_anything(browser: Browser) -> None:
    assert len(VECTORS) >= 500
    async with (
        open_live_server(skills=(HostileSkill(),), admission=ADMISSION) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        for numbers in batched(range(len(VECTORS))):
            await post(chat, [f"/hostile {number} {number % 2}" for number in numbers])
            assert await chat.page.evaluate(INSPECT, []) == NOTHING
            breaks = await chat.page.evaluate(FIND_LAYOUT_BREAKS)
            assert breaks == {}, [(numbers[int(turn)], found) for turn, found in breaks.items()]
            await expect(chat.page.get_by_label("Your message")).to_be_focused()


async def test_no_hostile_name_does_anything(browser: Browser) -> None:
    assert len(NAMES) >= 100
    async with (
        open_live_server(skills=(NamingSkill(),), admission=ADMISSION) as live_server,
        open_page(browser, live_server.address, viewport=PHONE) as chat,
    ):
        for numbers in batched(range(len(NAMES))):
            await post(chat, [f"/naming {number}" for number in numbers])
            found = await chat.page.evaluate(INSPECT, ["b", "img"])
            files = [url for url in found.pop("links") if not url.startswith("data:")]
            assert found == {key: [] for key in found} | {"hacked": None}
            assert files == []
            assert await chat.page.evaluate(FIND_LAYOUT_BREAKS) == {}
            saved = await chat.page.locator(".attachments a[href^=data]").evaluate_all(
                "all => all.filter((link) => !link.download)"
            )
            assert saved == []
            images = chat.page.locator(".attachments img")
            assert await images.evaluate_all(
                "all => all.every((node) => /^data:image.png/.test(node.src))"
            )


def batched(numbers: range) -> Iterator[range]:
    for start in range(0, len(numbers), PER_CONVERSATION):
        yield numbers[start : start + PER_CONVERSATION]


NAME_CONVERSATIONS = """
async (titles) => {
  for (const [number, title] of titles.entries()) {
    const path = `/v1/conversations/titled-${number}`;
    const body = JSON.stringify({ text: `/parrot ${title}` });
    const sent = await fetch(`${path}/messages`, { method: "POST", body });
    if (!sent.ok) throw new Error(await sent.text());
    const named = await fetch(path, { method: "PATCH", body: JSON.stringify({ title }) });
    if (!named.ok && named.status !== 400) throw new Error(await named.text());
  }
}
"""
INSPECT_LIST = """
() => {
  const box = (node) => node.getBoundingClientRect();
  const items = [...document.querySelectorAll(".conversations li")];
  const known = "li a span small button svg path".split(" ");
  const parts = items.flatMap((item) => [...item.querySelectorAll("*")]);
  return {
    count: items.length,
    elements: parts.filter((node) => !known.includes(node.localName)).map((node) => node.outerHTML),
    covered: items.filter((item, at) => at && box(item).top < box(items[at - 1]).bottom).length,
    high: items.filter((item) => box(item).height > 80).length,
    wide: document.querySelector(".conversations").scrollWidth > 400,
    page: document.documentElement.scrollWidth - innerWidth,
    hacked: window.hacked ?? null,
  };
}
"""


async def test_no_hostile_title_or_message_does_anything(browser: Browser) -> None:
    async with (
        open_live_server(admission=ADMISSION) as live_server,
        open_page(browser, live_server.address) as chat,
    ):
        await chat.open()
        await chat.page.evaluate(NAME_CONVERSATIONS, STEMS)
        chat.tolerate("400")  # a title that is too long, or has control characters, is refused
        await post(chat, [f"/parrot {stem}" for stem in STEMS])
        assert await chat.page.evaluate(INSPECT, []) == NOTHING
        assert await chat.page.evaluate(FIND_LAYOUT_BREAKS) == {}
        await chat.page.reload()
        await expect(chat.page.locator(".conversations li")).to_have_count(len(STEMS) + 1)
        assert await chat.page.evaluate(INSPECT_LIST) == {
            "count": len(STEMS) + 1, "elements": [], "covered": 0, "high": 0, "wide": False,
            "page": 0, "hacked": None,
        }  # fmt: skip
        for item in await chat.page.locator(".conversations .icon-button").all():
            await item.click()
            await chat.page.get_by_role("button", name="Delete", exact=True).click()
            dialog = chat.page.get_by_role("dialog")
            await expect(dialog).to_be_in_viewport(ratio=1)
            assert await dialog.evaluate("node => node.scrollWidth - node.clientWidth") <= 0
            await chat.page.keyboard.press("Escape")


UPLOAD = """
async ([thread, names]) => {
  const served = [];
  for (const name of names) {
    const query = new URLSearchParams({ name });
    const stored = await fetch(`/v1/files?${query}`, { method: "POST", body: "<b>x</b>" });
    if (!stored.ok) throw new Error(await stored.text());
    const { id } = await stored.json();
    const { headers } = await fetch(`/v1/files/${id}`);
    const [type, disposition, policy] = ["type", "disposition", "security-policy"].map((header) =>
      headers.get(`content-${header}`)
    );
    served.push([type, disposition.split(";")[0], policy.includes("sandbox")]);
    const body = JSON.stringify({ text: "/parrot read this", attachments: [{ file: id }] });
    const sent = await fetch(`/v1/conversations/${thread}/messages`, { method: "POST", body });
    if (!sent.ok) throw new Error(await sent.text());
  }
  return served;
}
"""


async def test_no_hostile_name_of_an_upload_does_anything(browser: Browser) -> None:
    async with (
        open_live_server(admission=ADMISSION) as live_server,
        open_page(browser, live_server.address, viewport=PHONE) as chat,
    ):
        for numbers in batched(range(len(NAMES))):
            await chat.open()
            await chat.page.evaluate(WATCH)
            thread, names = chat.path.removeprefix("/c/"), [NAMES[number] for number in numbers]
            served = await chat.page.evaluate(UPLOAD, [thread, names])
            assert served == [["text/plain", "attachment", True]] * len(names)
            await chat.page.wait_for_function(ALL_SETTLED, arg=len(names))
            found = await chat.page.evaluate(INSPECT, ["img", "small"])
            files = [url for url in found.pop("links") if not url.startswith("/v1/files/")]
            assert (files, found) == ([], {key: [] for key in found} | {"hacked": None})
            assert await chat.page.evaluate(FIND_LAYOUT_BREAKS) == {}
