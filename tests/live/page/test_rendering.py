"""What the page makes of a reply's Markdown, and of long messages."""

import itertools

import pytest
from playwright.async_api import Browser, expect
from tests.live.page.chat_page import ChatPage, open_page
from tests.server.web.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


async def show(chat: ChatPage, live_server: LiveServer, *pieces: str) -> None:
    """Let the page show a reply that comes in these pieces."""
    await chat.open()
    await chat.send("/scripted go")
    live_server.scripted.emit(*pieces)
    await expect(chat.page.locator("#announcement")).to_have_text("The reply is complete.")


@pytest.mark.firefox
async def test_markdown_is_shown_and_html_is_inert(
    live_server: LiveServer, browser: Browser
) -> None:
    evil = (
        "# Title\n\n**bold** *it* `code` [ok](https://a.example) [bad](javascript:alert(1)) "
        "<img src=x onerror=alert(1)> <script>alert(2)</script>\n\n"
        "- one\n- two\n  1. deep\n\n```html\n<b onclick=alert(3)>x</b>\n```\n\n"
        "| a | b |\n| --- | --- |\n| 1 | <i>2</i> |\n\n> quoted\n\n"
        "[x](data:text/html,<script>alert(4)</script>) https://b.example/path."
    )
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("/scripted go")
        for letter in evil:
            live_server.scripted.emit(letter, end=False)
        live_server.scripted.emit()
        await chat.wait_until_done()
        reply = chat.page.locator(".reply")
        for tag, count in {
            "h3": 1, "strong": 1, "em": 1, "ul > li": 2, "ol > li": 1, "blockquote": 1, "td": 2,
            "figure code": 1, "a": 2, "img": 0, "script": 0, "i": 0, "b": 0, "iframe": 0,
        }.items():  # fmt: skip
            await expect(reply.locator(tag), tag).to_have_count(count)
        links = await reply.locator("a").evaluate_all("all => all.map(a => [a.href, a.rel])")
        assert links == [
            ["https://a.example/", "noopener noreferrer"],
            ["https://b.example/path", "noopener noreferrer"],
        ]
        await expect(reply).to_contain_text("<img src=x onerror=alert(1)>")
        await expect(reply.locator("figcaption")).to_contain_text("html")


async def test_a_persons_text_is_inert_too(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.say("<img src=x onerror=alert(1)> **not bold**")
        await expect(chat.page.locator(".message")).to_have_text(
            "<img src=x onerror=alert(1)> **not bold**"
        )
        await expect(chat.page.locator("#log img")).to_have_count(0)


LISTS = """\
- a bullet
- another
1. first
2. second
   - deep

- [x] packed
- [ ] posted
  - [X] inside

7. seven
8. eight
"""


@pytest.mark.parametrize("size", [1, 7, len(LISTS)])
async def test_lists_follow_lists(live_server: LiveServer, browser: Browser, size: int) -> None:
    async with open_page(browser, live_server.address) as chat:
        pieces = [LISTS[at : at + size] for at in range(0, len(LISTS), size)]
        await show(chat, live_server, *pieces)
        lists = chat.page.locator(".reply > :is(ul, ol)")
        names = await lists.evaluate_all("all => all.map(node => node.localName)")
        assert names == ["ul", "ol", "ul", "ol"]
        await expect(lists.nth(1).locator("> li")).to_have_count(2)
        await expect(lists.nth(1).locator("ul > li")).to_have_text("deep")
        boxes = chat.page.locator(".reply input[type=checkbox]")
        assert await boxes.evaluate_all("all => all.map(box => [box.checked, box.disabled])") == [
            [True, True],
            [False, True],
            [True, True],
        ]
        await expect(chat.page.locator(".reply")).not_to_contain_text("[x]")
        await expect(lists.nth(3)).to_have_attribute("start", "7")


async def test_images_are_links_that_load_nothing(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await show(
            chat,
            live_server,
            "![a cat](https://a.example/cat.png) ![](https://b.example/x.gif 'title') "
            "![evil](javascript:alert(1)) ![data](data:image/png;base64,AAAA) "
            "[![nested](https://c.example/n.png)](https://d.example)",
        )
        links = chat.page.locator(".reply a")
        found = await links.evaluate_all("all => all.map(a => [a.href, a.textContent])")
        assert found == [
            ["https://a.example/cat.png", "a cat"],
            ["https://b.example/x.gif", "image"],
            ["https://d.example/", "nested"],
        ]
        await expect(chat.page.locator(".reply img")).to_have_count(0)


@pytest.mark.parametrize(
    ("reply", "thought"),
    [
        ("<think>\nFirst *this*.\n\nThen that.\n</think>\n\nThe reply.", "First this."),
        ("<think>short</think>The reply.", "short"),
        ("No beginning was written.\n</think>\nThe reply.", "No beginning"),
        ("<thinking>a\n```\n</b>\n```\n</thinking>\nThe reply.", "</b>"),
    ],
)
async def test_thoughts_are_folded(
    live_server: LiveServer, browser: Browser, reply: str, thought: str
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await show(chat, live_server, *reply)
        folded = chat.page.locator(".thought")
        await expect(folded).to_have_count(1)
        await expect(folded.locator("> div")).to_be_hidden()
        await expect(folded.locator("> div")).to_contain_text(thought)
        await expect(chat.page.locator(".reply > p")).to_have_text("The reply.")
        await folded.get_by_text("Thoughts").click()
        await expect(folded.locator("> div")).to_be_visible()


async def test_a_thought_is_folded_while_it_is_written(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("/scripted go")
        live_server.scripted.emit("<think>hm, ", end=False)
        await expect(chat.page.locator(".thought summary")).to_have_text("Thinking…")
        live_server.scripted.emit("so</think>It is so.")
        await expect(chat.page.locator(".thought summary")).to_have_text("Thoughts")
        await expect(chat.page.locator(".reply > p")).to_have_text("It is so.")


async def test_what_only_names_the_tag_is_no_thought(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await show(
            chat,
            live_server,
            "Models write `<think>` and </think> so:\n\n```xml\n<think>\nx\n</think>\n```\n\nEnd.",
        )
        await expect(chat.page.locator(".thought")).to_have_count(0)
        await expect(chat.page.locator("figure code")).to_have_text("<think>\nx\n</think>")


@pytest.mark.firefox
async def test_code_is_coloured_and_copied(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(
        browser, live_server.address, permissions=["clipboard-read", "clipboard-write"]
    ) as chat:
        source = "def double(x):\n    return 2 * x  # <b>twice</b>"
        await show(chat, live_server, f"So:\n\n```python\n{source}\n```\n\n```nolang\nif x\n```\n")
        await expect(chat.page.locator(".hljs-keyword").first).to_have_text("def")
        await expect(chat.page.locator("figure code").first).to_have_text(source)
        await expect(chat.page.locator("figure code").last.locator("[class^=hljs]")).to_have_count(
            0
        )
        read = "navigator.clipboard.readText()"
        figure = chat.page.locator("figure").first
        await figure.get_by_role("button", name="Copy").click()
        await expect(figure.get_by_role("button", name="Copied")).to_be_visible()
        assert await chat.page.evaluate(read) == source
        await chat.page.get_by_role("button", name="Copy the reply").click()
        await chat.page.wait_for_function(f"async () => (await {read}).startsWith('So:')")


async def test_long_code_is_coloured_while_it_is_written_and_can_be_selected(
    live_server: LiveServer, browser: Browser
) -> None:
    lines = [f"def function_{number}(x): return x  # line {number}" for number in range(200)]
    source = "\n".join(lines)
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("/scripted go")
        code = chat.page.locator("figure code")
        live_server.scripted.emit("```python\n", *(f"{line}\n" for line in lines), end=False)
        await expect(code).to_contain_text("line 199")
        await expect(code.locator(".hljs-keyword")).to_have_count(2 * len(lines))
        for end in ("```", "\n\nThat is all."):
            live_server.scripted.emit(end, end=end != "```")
            await expect(code).to_have_text(source, use_inner_text=True)
            selected = """code => {
              getSelection().selectAllChildren(code);
              return String(getSelection()).trimEnd();
            }"""
            assert await code.evaluate(selected) == source
        await expect(chat.page.locator("#announcement")).to_have_text("The reply is complete.")
        await expect(code).to_have_text(source, use_inner_text=True)


GROWING = (
    "1. a *first* item\n2. a second\n\n   with a paragraph\n\n   ```js\n   let x = 1\n   ```\n"
    "3. a third\n   - [x] deeper\n   - [ ] and **deeper**\n     - still\n4. a last\n\n"
    "> - quoted\n> - twice\n\n"
    "| a | b |\n| :- | -: |\n| `one` | 1 |\n| two | *2* |\n| two | *2* |\n| three [1] | |\n\n"
    "- same\n- same\n- same\n\nSee [the end][end].\n\n[end]: https://end.example\n"
)


@pytest.mark.parametrize("size", [1, 7, 40])
async def test_a_growing_reply_becomes_what_a_complete_one_is(
    live_server: LiveServer, browser: Browser, size: int
) -> None:
    pieces = [GROWING[start : start + size] for start in range(0, len(GROWING), size)]
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.send("/scripted go")
        reply = chat.page.locator(".reply")
        for number, piece in enumerate(pieces):
            live_server.scripted.emit(piece, end=False)
            if number % 8 == 0:
                await chat.page.evaluate("() => new Promise(requestAnimationFrame)")
        await expect(reply.locator("tbody tr")).to_have_count(4)
        await expect(reply.locator("ul > li").last).to_have_text("same")
        live_server.scripted.emit()
        await chat.wait_until_done()
        await expect(reply.get_by_role("link", name="the end")).to_have_count(1)
        await expect(reply.locator(".hljs-keyword")).to_have_count(1)
        written = await reply.inner_html()
        await chat.page.reload()
        await expect(reply.locator(".hljs-keyword")).to_have_count(1)
        assert await reply.inner_html() == written


@pytest.mark.firefox
async def test_formulas_are_set_and_prices_are_not(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await show(
            chat,
            live_server,
            "It costs $5 or $10. But $x^2$, \\(y_1\\) and\n\n$$\\sum_{i=1}^n i$$\n\n"
            "\\[\\frac{1}{2}\\]\n\nwrong: $\\frac{$ and `$z$`, $\\href{javascript:alert(1)}{x}$",
        )
        await expect(chat.page.locator(".math-block math")).to_have_count(2)
        await expect(chat.page.locator(".reply p").first.locator("math")).to_have_count(2)
        await expect(chat.page.locator(".reply p").first).to_contain_text("It costs $5 or $10.")
        await expect(chat.page.locator(".reply")).to_contain_text("\\frac{")
        await expect(chat.page.locator(".reply [href^=javascript]")).to_have_count(0)


async def test_tables_keep_their_alignment(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await show(chat, live_server, "a | b | c\n:-- | --: | :-:\n1 | 2 | `x\\|y`\n")
        cells = chat.page.locator(".reply td")
        await expect(cells).to_have_text(["1", "2", "x|y"])
        align = "all => all.map(cell => getComputedStyle(cell).textAlign)"
        assert await cells.evaluate_all(align) == ["start", "end", "center"]


async def test_long_messages_are_collapsed(live_server: LiveServer, browser: Browser) -> None:
    texts = ("word " * 500 + "the end", "\n".join(f"line {n}" for n in range(40)) + "\nthe end")
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        for number, text in enumerate(texts):
            await chat.send(text)
            turn = chat.page.locator(".turn").nth(number)
            message = turn.locator(".message")
            await expect(turn.locator(".reply")).to_contain_text("the end")
            await expect(message).not_to_contain_text("the end")
            await turn.get_by_role("button", name="Show more").click()
            await expect(message).to_have_text(text)
            await turn.get_by_role("button", name="Show less").click()
            await expect(message).not_to_contain_text("the end")


async def test_a_very_long_reply_is_collapsed_when_it_is_not_the_last(
    live_server: LiveServer, browser: Browser
) -> None:
    async def height() -> float:
        box = await chat.page.locator(".reply").first.bounding_box()
        assert box is not None
        return box["height"]

    async with open_page(browser, live_server.address) as chat:
        await show(chat, live_server, "A long paragraph.\n\n" * 1000)
        full = await height()
        await chat.send("and now?")
        await chat.wait_for_text("and now?")
        more = chat.page.get_by_role("button", name="Show more")
        await expect(more).to_be_visible()
        assert await height() < full / 10
        await more.click()
        await expect(chat.page.get_by_role("button", name="Show less")).to_be_visible()
        assert await height() == full


@pytest.mark.firefox
async def test_no_text_becomes_markup_by_any_way(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        refused = await chat.page.evaluate(
            """() => {
              const refuses = (use) => { try { use(); return false; } catch { return true; } };
              return [
                refuses(() => (document.createElement("p").innerHTML = "<b>x</b>")),
                refuses(() => (document.createElement("script").text = "1")),
                refuses(() => trustedTypes.createPolicy("any", {})),
              ];
            }"""
        )
        assert refused == [True, True, True]
        chat.tolerate("Trusted|trusted-types")


AT_END = """
() => {
  const { scrollHeight, scrollTop, clientHeight } = document.getElementById("main");
  return scrollHeight - scrollTop - clientHeight < 2;
}
"""


async def test_of_a_long_conversation_the_last_turns_appear_first_and_then_all(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open("/c/long")
        await chat.page.evaluate(
            """async () => {
              for (let number = 0; number < 120; number += 1) {
                const body = JSON.stringify({ text: `message ${number}` });
                await fetch("/v1/conversations/long/messages?wait=true", { method: "POST", body });
              }
            }"""
        )
        await chat.page.add_init_script(
            """document.addEventListener("DOMContentLoaded", () => {
              new MutationObserver(() => {
                const shown = document.querySelectorAll(".message");
                const texts = Array.from(shown, (message) => message.textContent);
                if (texts.length) window.seen = [...(window.seen ?? []), texts];
              }).observe(document.body, { childList: true, subtree: true });
            })"""
        )
        await chat.page.reload()
        await expect(chat.page.locator(".turn")).to_have_count(120)
        expected = [f"message {number}" for number in range(120)]
        assert await chat.page.locator(".message").all_text_contents() == expected
        await chat.page.wait_for_function(AT_END)
        seen = await chat.page.evaluate("window.seen")
        for before, after in itertools.pairwise(seen):
            assert len(after) - len(before) <= 20
            assert after == sorted(after, key=expected.index)


async def test_the_page_scrolls_along_until_a_person_scrolls_back(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.begin_reply(live_server, "the beginning")
        live_server.scripted.emit("\n\na line" * 100, "\n\nthe middle", end=False)
        await chat.wait_for_text("the middle")
        await chat.page.wait_for_function(AT_END)
        to_end = chat.page.get_by_role("button", name="Go to the latest message")
        await expect(to_end).to_have_count(0)
        await chat.page.locator("#main").hover()
        await chat.page.mouse.wheel(0, -600)
        await expect(to_end).to_be_visible()
        live_server.scripted.emit("\n\na line" * 100, "\n\nmore", end=False)
        await chat.wait_for_text("more")
        await expect(to_end).to_be_visible()
        assert not await chat.page.evaluate(AT_END)
        await to_end.click()
        live_server.scripted.emit("\n\na line" * 100, "\n\nthe end")
        await chat.wait_for_text("the end")
        await chat.page.wait_for_function(AT_END)
        await expect(to_end).to_have_count(0)
