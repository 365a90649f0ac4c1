"""The widget in a page of another origin with a strict policy, in a real Chromium: talking."""

import asyncio

import pytest
from playwright.async_api import Browser, expect
from tests.live.widget.site_server import Site
from tests.live.widget.visitor import visiting, visiting_tabs
from tests.server.web.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


@pytest.mark.firefox
async def test_a_visitor_talks_and_stops_a_reply(
    site: Site, live_server: LiveServer, browser: Browser
) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        await visitor.open(site.show())
        await expect(visitor.page.locator(".greeting")).to_have_text("Hello! How can I help?")
        await visitor.say("hello there")
        await expect(visitor.page.locator(".reply")).to_have_text("hello there")
        await expect(visitor.page.locator(".greeting")).to_have_count(0)
        await visitor.begin_reply(live_server, "Once upon")
        await visitor.page.get_by_label("Stop the reply").click()
        await visitor.wait_for_text("Stopped")
        await visitor.wait_until_done()


async def test_nothing_is_asked_for_before_the_chat_is_opened(site: Site, browser: Browser) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        await visitor.visit(site.show())
        await expect(visitor.launcher).to_be_visible()
        assert await visitor.page.evaluate("JSON.stringify(localStorage)") == "{}"
        assert visitor.requests == [f"{site.widget_host}/widget.js"]
        await visitor.launcher.click()
        await visitor.say("hello")
        asked = [request.rsplit("/", 1)[-1] for request in visitor.requests]
        assert sorted(asked) == ["about", "feedback", "token", "widget.js"]
        # A complete conversation that was seen gives no reason either.
        await visitor.page.get_by_role("button", name="Close the chat").last.click()
        visitor.requests.clear()
        await visitor.page.reload()
        await expect(visitor.launcher).to_have_accessible_name("Open the chat")
        assert visitor.requests == [f"{site.widget_host}/widget.js"]
        await visitor.launcher.click()
        await visitor.wait_for_text("hello")
        await expect(visitor.page.locator(".turn")).to_have_count(1)


async def test_a_visitor_rates_a_reply(
    site: Site, live_server: LiveServer, browser: Browser
) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        await visitor.open(site.show())
        await visitor.say("hello there")
        bad = visitor.page.get_by_role("button", name="Bad reply")
        await bad.click()
        reasons = visitor.page.get_by_role("group", name="What was wrong?")
        await reasons.get_by_role("button", name="Not helpful").click()
        await visitor.page.get_by_role("textbox", name="Comment").fill("a / b?")
        await visitor.page.locator(".feedback").get_by_role("button", name="Send").click()
        await expect(reasons).to_have_count(0)
        await visitor.page.reload()
        await expect(bad).to_have_attribute("aria-pressed", "true")
        await visitor.page.get_by_role("button", name="Not helpful").click()
        await expect(visitor.page.get_by_role("textbox", name="Comment")).to_have_value("a / b?")
        await visitor.page.keyboard.press("Escape")
        await expect(reasons).to_have_count(0)
        await expect(visitor.log).to_be_visible()  # the chat stays open
        await bad.click()
        await expect(bad).to_have_attribute("aria-pressed", "false")


@pytest.mark.firefox
async def test_a_reply_goes_on_through_a_reload_and_on_another_page(
    site: Site, live_server: LiveServer, browser: Browser
) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        await visitor.open(site.show())
        await visitor.begin_reply(live_server, "Once upon")
        await visitor.page.reload()
        await visitor.wait_for_text("Once upon")
        live_server.scripted.emit(" a time", end=False)
        await visitor.wait_for_text("Once upon a time")
        await visitor.visit(site.show(path="/other"))
        await visitor.wait_for_text("Once upon a time")
        live_server.scripted.emit(" there was a shop.")
        await visitor.wait_for_text("Once upon a time there was a shop.")
        await visitor.wait_until_done()
        await expect(visitor.page.locator(".message")).to_have_count(1)
        assert await visitor.page.evaluate("document.activeElement === document.body")


async def test_a_reply_that_nobody_saw_is_marked(
    site: Site, live_server: LiveServer, browser: Browser
) -> None:
    async with visiting_tabs(browser, site.widget_host, 2) as (visitor, other):
        await visitor.open(site.show())
        await visitor.begin_reply(live_server, "One moment")
        await visitor.launcher.click()
        await visitor.visit(site.show(path="/other"))
        await expect(visitor.launcher).to_have_accessible_name("Open the chat")
        live_server.scripted.emit(", here it is.")
        await expect(visitor.launcher).to_have_accessible_name("Open the chat: 1 new reply")
        await expect(visitor.page.locator(".unread")).to_have_text("1")
        assert await visitor.wait_for_event("unread") == {"count": 1}
        await visitor.page.reload()
        await expect(visitor.page.locator(".unread")).to_have_text("1")
        # Another tab marks it as well, until one of them shows it.
        await other.visit(site.show())
        await expect(other.page.locator(".unread")).to_have_text("1")
        await visitor.page.bring_to_front()
        await visitor.launcher.click()
        await visitor.wait_for_text("One moment, here it is.")
        for tab in (visitor, other):
            await expect(tab.page.locator(".unread")).to_have_count(0)


async def test_tabs_show_one_conversation_and_begin_a_new_one_together(
    site: Site, browser: Browser
) -> None:
    async with visiting_tabs(browser, site.widget_host, 2) as (one, two):
        await one.open(site.show())
        await one.say("from one")
        await two.open(site.show(path="/other"))
        await two.wait_for_text("from one")
        await two.say("from two")
        await one.wait_for_text("from two")
        await one.page.get_by_role("button", name="Options").click()
        await one.page.get_by_role("button", name="New conversation").click()
        for tab in (one, two):
            await expect(tab.page.locator(".greeting")).to_be_visible()
            await expect(tab.page.locator(".turn")).to_have_count(0)
        await expect(one.field).to_be_focused()
        await one.say("something else")
        await two.wait_for_text("something else")


async def test_tabs_that_open_at_the_same_time_are_one_visitor(
    site: Site, live_server: LiveServer, browser: Browser
) -> None:
    async with visiting_tabs(browser, site.widget_host, 4) as tabs:
        address = site.show()
        await asyncio.gather(*(tab.visit(address) for tab in tabs))
        await asyncio.gather(*(tab.page.evaluate("palaver.open()") for tab in tabs))
        for number, tab in enumerate(tabs):
            await tab.page.bring_to_front()
            await tab.send(f"number {number}")
            await tab.wait_for_text(f"number {number}")
        for tab in tabs:
            for number in range(len(tabs)):
                await tab.wait_for_text(f"number {number}")


async def test_questions_sources_problems_and_versions_are_those_of_the_page(
    site: Site, browser: Browser
) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        page = visitor.page
        await visitor.open(site.show())
        await visitor.send("/waiter a drink")
        await page.get_by_role("button", name="tea").click()
        await visitor.wait_for_text("One tea, please.")
        await visitor.send("/scholar leave?")
        await page.get_by_role("button", name="Source 1").click()
        panel = page.get_by_role("complementary", name="Sources")
        await expect(panel).to_contain_text("Everyone has 30 days of leave a year.")
        await page.keyboard.press("Escape")
        await expect(panel).to_have_count(0)
        await expect(page.get_by_role("button", name="Source 1")).to_be_focused()
        await visitor.send("/clumsy go")
        await expect(page.get_by_role("button", name="Try again")).to_be_visible()
        await visitor.say("hello")
        await page.get_by_role("button", name="Write another reply").last.click()
        await expect(page.locator(".versions")).to_contain_text("2/2")


MARKDOWN = """\
See https://a.example/x_(y), (https://b.example/z). **https://c.example/q?a=1&b=2**!
[d](https://d.example) <https://e.example> javascript://f.example [g](javascript:alert(1))
&copy; &amp; &hellip; &unknown; &constructor;
<b onclick=alert(1)>no HTML</b> <script>alert(1)</script> ![an image](https://h.example/i.png)
<https://l.example/a b%20c%zz> [m](<https://m.example/ü "x%25>)
mailto:i@j.example https://日本.example/道。 https:// "https://k.example"
"""
LINKS = [
    "https://a.example/x_(y)", "https://b.example/z", "https://c.example/q?a=1&b=2",
    "https://d.example/", "https://e.example/", "https://h.example/i.png",
    "https://l.example/a", "https://m.example/%C3%BC%20%22x%25",
    "https://xn--wgv71a.example/%E9%81%93", "https://k.example/",
]  # fmt: skip


@pytest.mark.firefox
async def test_replies_are_markdown_and_never_markup_or_script(
    site: Site, live_server: LiveServer, browser: Browser
) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        page = visitor.page
        await visitor.open(site.show())
        await visitor.send("/scripted go")
        live_server.scripted.emit(MARKDOWN)
        await visitor.wait_until_done()
        reply = page.locator(".reply")
        links = await reply.locator("a").evaluate_all("(all) => all.map(({ href }) => href)")
        assert links == LINKS
        await expect(reply).to_contain_text("© & … &unknown; &constructor;")
        await expect(reply).to_contain_text("<b onclick=alert(1)>no HTML</b> <script>alert(1)")
        assert await reply.locator("script, b, img").count() == 0
        await expect(reply.locator("strong")).to_have_text("https://c.example/q?a=1&b=2")


async def test_the_chat_follows_a_conversation_that_grows(
    site: Site, live_server: LiveServer, browser: Browser
) -> None:
    distance = "(node) => node.scrollHeight - node.scrollTop - node.clientHeight"
    async with visiting(browser, site.widget_host) as visitor:
        await visitor.open(site.show())
        main = visitor.page.locator("#main")
        node = await main.element_handle()
        for number in range(3):
            await visitor.send("/scripted go")
            live_server.scripted.emit("\n\n".join(f"{number}, paragraph {n}" for n in range(9)))
            await visitor.wait_for_text(f"{number}, paragraph 8")
            await visitor.wait_until_done()
            await visitor.send("/waiter a drink")
            await visitor.page.get_by_role("button", name="coffee").wait_for()
            await visitor.page.wait_for_function(f"(node) => ({distance})(node) < 2", arg=node)
            await visitor.send("tea")
            await visitor.wait_for_text("One tea, please.")
        await main.evaluate("(node) => { node.scrollTop = 0; }")
        await expect(visitor.page.get_by_label("Go to the latest message")).to_be_visible()
        await visitor.page.evaluate("palaver.send('hello')")
        await visitor.wait_for_text("hello")
        assert await main.evaluate("(node) => node.scrollTop") == 0
        await visitor.page.get_by_label("Go to the latest message").click()
        assert await main.evaluate(distance) < 2


async def test_visitors_rate_replies(site: Site, browser: Browser) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        page = visitor.page
        await visitor.open(site.show())
        await visitor.say("hello")
        await page.get_by_role("button", name="Bad reply").click()
        await page.get_by_role("button", name="Not helpful").click()
        await page.get_by_label("Comment").fill("It only repeats me.")
        await page.get_by_role("button", name="Send").first.click()
        await expect(page.locator("#announcement")).to_have_text("Thank you for your feedback.")
        await page.reload()
        bad = page.get_by_role("button", name="Bad reply")
        await expect(bad).to_have_attribute("aria-pressed", "true")
        await bad.click()
        await expect(bad).to_have_attribute("aria-pressed", "false")


async def test_a_browser_whose_statement_is_lost_begins_anew(site: Site, browser: Browser) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        await visitor.open(site.show())
        await visitor.say("a secret")
        await visitor.page.evaluate("""() => {
          const key = Object.keys(localStorage).find((key) => key.startsWith("palaver.widget."));
          const kept = JSON.parse(localStorage.getItem(key));
          kept.visitor.statement = "forged";
          localStorage.setItem(key, JSON.stringify(kept));
        }""")
        await visitor.page.reload()
        await expect(visitor.page.locator(".greeting")).to_be_visible()
        await visitor.say("hello")
        await expect(visitor.page.locator(".message")).to_have_text(["hello"])


async def test_the_widget_works_where_the_browser_forbids_storage(
    site: Site, browser: Browser
) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        await visitor.page.add_init_script("""
          for (const name of ["localStorage", "sessionStorage"]) {
            Object.defineProperty(window, name, { get() { throw new DOMException("forbidden"); } });
          }
        """)
        await visitor.open(site.show())
        await visitor.say("hello", "again")
        await expect(visitor.page.locator(".turn")).to_have_count(2)


async def test_visitors_download_and_erase_their_data(site: Site, browser: Browser) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        page = visitor.page
        await visitor.open(site.show())
        await visitor.say("remember this")
        await page.get_by_role("button", name="Options").click()
        async with page.expect_download() as downloading:
            await page.get_by_role("button", name="Download my data").click()
        download = await downloading.value
        assert "remember this" in (await download.path()).read_text()
        await page.get_by_role("button", name="Options").click()
        await page.get_by_role("button", name="Erase my data").click()
        await expect(page.get_by_role("group", name="Erase my data")).to_contain_text("undone")
        await page.get_by_role("button", name="Erase my data").click()
        await expect(page.locator("#announcement")).to_have_text("Your data is erased.")
        await expect(page.locator(".turn")).to_have_count(0)
        exported = await page.evaluate(
            """async (host) => {
          const key = Object.keys(localStorage).find((key) => key.startsWith("palaver.widget."));
          const { visitor } = JSON.parse(localStorage.getItem(key));
          const site = key.slice("palaver.widget.".length);
          const headers = { "Content-Type": "application/json" };
          const body = JSON.stringify({ key: site, visitor: visitor.statement });
          const answer = await fetch(`${host}/v1/widget/token`, { method: "POST", headers, body });
          const { token } = await answer.json();
          const mine = { headers: { Authorization: `Bearer ${token}` } };
          return (await (await fetch(`${host}/v1/export`, mine)).json()).conversations;
        }""",
            site.widget_host,
        )
        assert exported == {}
