"""What the scripts of a page can do with the widget, and what they are told."""

import time

import jwt
import pytest
from playwright.async_api import Browser, expect
from tests.live.widget.site_server import KEY, Site, open_site, open_site_with_server
from tests.live.widget.visitor import visiting
from tests.server.web.live_server import LiveServer, open_live_server

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]

SECRET = "a secret of the shop, which is long enough"


def identity(person: str) -> str:
    """Sign who somebody is, as the backend of the site does."""
    claims = {"sub": person, "aud": KEY, "exp": int(time.time()) + 900}
    return jwt.encode(claims, SECRET, algorithm="HS256")


@pytest.mark.firefox
async def test_a_script_opens_sends_and_hears_of_it(site: Site, browser: Browser) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        page = visitor.page
        await visitor.visit(site.show())
        await visitor.wait_for_event("ready")
        await page.evaluate("palaver.send('from a script')")
        message = await visitor.wait_for_event("message")
        assert message["text"] == "from a script"
        reply = await visitor.wait_for_event("reply")
        assert (reply["text"].strip(), reply["outcome"]) == ("from a script", "done")
        assert await visitor.wait_for_event("unread") == {"count": 1}
        await page.evaluate("palaver.open(); palaver.open()")
        await expect(page.locator(".reply")).to_have_text("from a script")
        await page.evaluate("palaver.toggle()")
        await expect(visitor.field).to_be_hidden()
        await page.evaluate("palaver.toggle(); palaver.newConversation()")
        await expect(page.locator(".greeting")).to_be_visible()
        await page.evaluate("palaver.send('/clumsy go')")
        assert (await visitor.wait_for_event("error"))["code"] == "skill"
        names = [name for name, _ in await visitor.events()]
        assert names[0] == "ready"
        assert [name for name in names if name in ("open", "close")] == ["open", "close", "open"]


async def test_calls_from_before_the_script_are_made_when_it_has_loaded(
    site: Site, browser: Browser
) -> None:
    site.scripts["/early.js"] = '(window.palaver ||= []).push(["open"], ["send", "early bird"]);'
    async with visiting(browser, site.widget_host) as visitor:
        await visitor.visit(site.show(head='<script src="/early.js"></script>'))
        await visitor.wait_for_text("early bird")
        await visitor.page.evaluate('palaver.push(["send", "late bird"])')
        await visitor.wait_for_text("late bird")
        error = await visitor.page.evaluate(
            "() => { try { palaver.push(['fly']); } catch (error) { return error.message; } }"
        )
        assert error == 'palaver: there is no method "fly"'


LOAD = """() => {
  window.policy ||= trustedTypes.createPolicy("shop", { createScriptURL: (url) => url });
  const { src, dataset } = document.querySelector("script[data-site]");
  const script = document.createElement("script");
  Object.assign(script.dataset, dataset);
  script.src = policy.createScriptURL(src);
  document.head.append(script);
}"""
"""Loads the script once more, with the site's own policy for addresses of scripts."""


async def test_destroying_leaves_nothing_and_the_script_can_be_loaded_again(
    site: Site, browser: Browser
) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        page = visitor.page
        await visitor.open(site.show())
        await visitor.say("hello")
        async with page.expect_event("websocket") as connecting:
            await page.reload()
        connection = await connecting.value
        await visitor.wait_for_text("hello")
        await page.evaluate("palaver.destroy()")
        await expect(page.locator("palaver-widget")).to_have_count(0)
        assert await page.evaluate("typeof window.palaver") == "undefined"
        if not connection.is_closed():
            await connection.wait_for_event("close")
        await page.evaluate("(window.palaver ||= []).push(['open'])")
        await page.evaluate(LOAD)
        await visitor.wait_for_text("hello")
        await visitor.say("again")
        async with page.expect_console_message(lambda line: "loaded twice" in line.text):
            await page.evaluate(LOAD)
        await expect(page.locator("palaver-widget")).to_have_count(1)


async def test_the_launcher_stays_when_a_script_replaces_the_page(
    site: Site, live_server: LiveServer, browser: Browser
) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        page = visitor.page
        await visitor.open(site.show())
        await visitor.begin_reply(live_server, "Once upon")
        await page.evaluate("""() => {
          const body = document.createElement("body");
          body.append(document.createElement("input"));
          document.body.replaceWith(body);
          body.firstChild.focus();
        }""")
        await visitor.wait_for_text("Once upon")
        live_server.scripted.emit(" a time.")
        await visitor.wait_for_text("Once upon a time.")
        assert await page.evaluate("document.activeElement.tagName") == "INPUT"
        await visitor.launcher.click()
        await expect(visitor.field).to_be_hidden()
        await page.evaluate("palaver.destroy()")
        await expect(page.locator("palaver-widget")).to_have_count(0)


async def test_an_identified_person_has_the_conversation_in_every_browser(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SECRET", SECRET)
    async with open_site_with_server(identity_secret="env:SHOP_SECRET") as (site, _):
        async with visiting(browser, site.widget_host) as visitor:
            await visitor.open(site.show())
            await visitor.say("as nobody")
            for person in ("ada", "grace"):
                await visitor.page.evaluate("(jwt) => palaver.setIdentity(jwt)", identity(person))
                await expect(visitor.page.locator(".greeting")).to_be_visible()
                await visitor.say(f"as {person}")
                await expect(visitor.page.locator(".message")).to_have_text([f"as {person}"])
            await visitor.page.evaluate(
                "(jwt) => palaver.setIdentity(async () => jwt)", identity("ada")
            )
            await visitor.wait_for_text("as ada")
            await visitor.page.evaluate("palaver.setIdentity(null)")
            await visitor.wait_for_text("as nobody")
            await expect(visitor.page.locator(".message")).to_have_text(["as nobody"])


async def test_the_identity_may_change_fail_and_come_late(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SECRET", SECRET)
    async with open_site_with_server(identity_secret="env:SHOP_SECRET") as (site, live_server):
        async with visiting(browser, site.widget_host) as visitor:
            page = visitor.page
            await visitor.visit(site.show())
            await page.evaluate("palaver.setIdentity(() => Promise.reject('signing in'))")
            await visitor.launcher.click()
            assert (await visitor.wait_for_event("error"))["code"] == "identity"
            visitor.forget("the identity of the visitor is missing: signing in")
            await visitor.send("for ada")
            await page.evaluate(
                "(jwt) => { window.jwt = jwt; palaver.setIdentity(async () => window.jwt); }",
                identity("ada"),
            )
            await visitor.wait_for_text("for ada")
            await visitor.wait_until_done()
            # The same person once more changes nothing.
            sockets: list[object] = []
            page.on("websocket", lambda socket: sockets.append(socket))
            await page.evaluate("palaver.setIdentity(window.jwt)")
            await visitor.say("more")
            assert sockets == []
            # The backend knows somebody else, when the widget needs the next token.
            await page.evaluate(
                "(jwt) => { palaver.setIdentity(async () => jwt); }", identity("grace")
            )
            await expect(page.locator(".greeting")).to_be_visible()
            await visitor.begin_reply(live_server, "For grace")
            await page.evaluate("palaver.close()")
            await page.reload()
            await page.evaluate("(jwt) => palaver.setIdentity(jwt)", identity("grace"))
            live_server.scripted.emit(" alone.")
            await expect(page.locator(".unread")).to_have_text("1")


async def test_a_page_that_clears_its_storage_keeps_the_chat(
    site: Site, live_server: LiveServer, browser: Browser
) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        await visitor.open(site.show())
        await visitor.begin_reply(live_server, "Once upon")
        await visitor.page.evaluate("localStorage.clear(); sessionStorage.clear()")
        live_server.scripted.emit(" a time.")
        assert (await visitor.wait_for_event("reply"))["text"] == "Once upon a time."
        await visitor.say("again")
        await expect(visitor.page.locator(".turn")).to_have_count(2)


async def test_an_identity_that_is_not_accepted_is_told(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SECRET", SECRET)
    forged = jwt.encode({"sub": "ada", "aud": KEY, "exp": 2e9}, "x" * 32, algorithm="HS256")
    async with open_site_with_server(identity_secret="env:SHOP_SECRET") as (site, _):
        async with visiting(browser, site.widget_host) as visitor:
            await visitor.visit(site.show())
            await visitor.page.evaluate("(jwt) => palaver.setIdentity(jwt)", forged)
            await visitor.launcher.click()
            error = await visitor.wait_for_event("error")
            assert error["code"] == "refused"
            assert "the identity is not accepted" in error["message"]
            await expect(visitor.page.get_by_role("dialog")).to_contain_text(
                "The chat is not available on this page."
            )
            visitor.forget("the identity is not accepted")
            visitor.forget("401")
            assert "JWT" in await visitor.page.evaluate("""() => {
              try { palaver.setIdentity("x"); } catch (error) { return error.message; }
            }""")
            await visitor.page.evaluate("(jwt) => palaver.setIdentity(jwt)", identity("ada"))
            await visitor.say("hello")


async def test_a_page_of_a_wrong_origin_is_told_why_and_keeps_working(browser: Browser) -> None:
    async with open_site() as site, open_live_server() as live_server:
        site.widget_host = live_server.address
        async with visiting(browser, site.widget_host) as visitor:
            await visitor.open(site.show())
            assert (await visitor.wait_for_event("error"))["code"] == "unreachable"
            assert any(
                f"the origins of the site {KEY} in its settings lack {site.origin}" in text
                for text in visitor.errors
            )
            visitor.forget(r"^palaver: |CORS|net::ERR_FAILED|Failed to load resource")
            await visitor.send("is somebody there?")
            await expect(visitor.page.locator(".unsent")).to_have_text("is somebody there?")
            await expect(visitor.page.get_by_role("status").first).to_contain_text("connection")
            await visitor.page.keyboard.press("Escape")
            await expect(visitor.field).to_be_hidden()
            visitor.errors.clear()  # it tries again


async def test_a_wrong_key_is_told(site: Site, browser: Browser) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        address = site.show()
        site.pages["/"] = site.pages["/"].replace(KEY, "pk_of-somebody-else")
        await visitor.visit(address)
        await visitor.launcher.click()
        error = await visitor.wait_for_event("error")
        assert (error["code"], "no site has the key" in error["message"]) == ("refused", True)
        await expect(visitor.page.get_by_role("dialog")).to_contain_text("not available")
        await expect(visitor.field).to_have_count(0)
        visitor.forget("no site has the key")
        visitor.forget("403")


async def test_a_script_without_a_key_is_told(site: Site, browser: Browser) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        address = site.show()
        site.pages["/"] = site.pages["/"].replace("data-site", "data-shop")
        await visitor.visit(address)
        await expect(visitor.page.locator("palaver-widget")).to_have_count(0)
        visitor.forget("needs data-site")


async def test_a_token_is_renewed_over_the_connection(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("palaver.visitors", "palaver.web.widget_api"):
        monkeypatch.setattr(f"{module}.TOKEN_SECONDS", 2)
    async with open_site_with_server() as (site, _):
        async with visiting(browser, site.widget_host) as visitor:
            async with visitor.page.expect_event("websocket") as connecting:
                await visitor.open(site.show())
            connection = await connecting.value
            await visitor.say("hello")
            for _ in range(2):
                await connection.wait_for_event(
                    "framereceived", lambda frame: '"type":"refreshed"' in frame
                )
            await visitor.say("again")
            assert not connection.is_closed()


async def test_a_lost_server_is_found_again(
    site: Site, live_server: LiveServer, browser: Browser
) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        await visitor.open(site.show())
        await visitor.say("hello")
        await visitor.page.context.set_offline(True)
        await visitor.send("are you there?")
        await visitor.page.context.set_offline(False)
        await visitor.wait_for_text("are you there?")
        await visitor.wait_until_done()
        await expect(visitor.page.locator(".unsent")).to_have_count(0)
        visitor.errors.clear()
