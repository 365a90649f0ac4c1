"""How the widget looks, whatever the page around it does; and that everybody can use it."""

from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Browser, Locator, Page, expect
from tests.live.widget.site_server import Site
from tests.live.widget.visitor import Visitor, visiting
from tests.server.web.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]

AXE = Path(__file__).parents[3] / "server/palaver/web/frontend/node_modules/axe-core/axe.min.js"
FIND_VIOLATIONS = """
async () => (await axe.run()).violations.map(
  ({ id, nodes }) => [id, ...nodes.map(({ html, failureSummary }) => [html, failureSummary])]
)
"""
PHONE = {"width": 390, "height": 760}
STYLE = "(element, name) => getComputedStyle(element)[name]"
REPLY = """\
# Title

| a | b |
| - | -: |
| 1 | 2 |

```python
print("hello")
```

> [a link](https://a.example), &amp; `code`, and $x^2$
"""


async def style(locator: Locator, name: str) -> str:
    value: str = await locator.evaluate(STYLE, name)
    return value


async def box(locator: Locator) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of an element."""
    found = await locator.bounding_box()
    assert found is not None
    x, y, width, height = found["x"], found["y"], found["width"], found["height"]
    return x, y, x + width, y + height


@pytest.mark.firefox
async def test_a_hostile_page_changes_nothing(
    site: Site, live_server: LiveServer, browser: Browser
) -> None:
    async def boxes(head: str, body: str) -> list[tuple[float, float, float, float]]:
        async with visiting(browser, site.widget_host) as visitor:
            page = visitor.page
            await visitor.visit(site.show(head=head, body=body))
            await expect(visitor.launcher).to_be_visible()
            # An element that comes later, above everything.
            await page.evaluate("""() => {
              const cover = document.createElement("div");
              cover.id = "cover";
              document.body.append(cover);
            }""")
            await visitor.launcher.click()
            await visitor.say("hello there")
            await expect(page.locator(".reply")).to_have_text("hello there")
            parts = (page.locator("#launcher"), page.locator("#window"), page.locator(".reply"))
            await expect(page.locator(".message")).to_have_css("color", "rgb(29, 30, 32)")
            return [await box(part) for part in parts]

    hostile = await boxes('<link rel="stylesheet" href="/hostile.css">', "")
    assert hostile == await boxes("", "")


async def test_keys_that_a_visitor_types_reach_no_shortcut_of_the_page(
    site: Site, browser: Browser
) -> None:
    site.scripts["/shortcuts.js"] = """
      window.pressed = [];
      for (const name of ["keydown", "keypress", "keyup"]) {
        addEventListener(name, (event) => {
          if (event.target.closest?.("input, textarea")) return;
          window.pressed.push(event.key);
          event.preventDefault();
        });
      }
    """
    async with visiting(browser, site.widget_host) as visitor:
        await visitor.open(site.show(head='<script src="/shortcuts.js"></script>'))
        await visitor.page.keyboard.type("s/?")
        await expect(visitor.field).to_have_value("s/?")
        assert await visitor.page.evaluate("pressed") == []
        await visitor.page.keyboard.press("Escape")
        await visitor.page.keyboard.press("x")
        assert "x" in await visitor.page.evaluate("pressed")


@pytest.mark.firefox
async def test_everything_works_with_the_keyboard_alone(
    site: Site, live_server: LiveServer, browser: Browser
) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        page, press = visitor.page, visitor.page.keyboard.press
        await visitor.visit(
            site.show('data-prompts="Where is my order?|Send it back"', body="<a href=/>Home</a>")
        )
        await expect(visitor.launcher).to_be_visible()
        await press("Tab")
        await expect(page.get_by_role("link", name="Home")).to_be_focused()
        await press("Tab")
        await expect(visitor.launcher).to_be_focused()
        await press("Enter")
        await expect(visitor.field).to_be_focused()
        await expect(visitor.launcher).to_have_attribute("aria-expanded", "true")
        await press("Shift+Tab")
        await expect(page.get_by_role("button", name="Send it back")).to_be_focused()
        await press("Enter")
        await visitor.wait_for_text("Send it back")
        await visitor.wait_until_done()
        await expect(visitor.field).to_be_focused()
        await page.get_by_role("button", name="Options").focus()
        await press("Enter")
        await expect(page.get_by_role("button", name="New conversation")).to_be_focused()
        await press("Escape")
        await expect(page.get_by_role("button", name="New conversation")).to_have_count(0)
        await expect(page.get_by_role("button", name="Options")).to_be_focused()
        await press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await expect(visitor.launcher).to_be_focused()
        # From an element of the page, the focus returns to it.
        await page.get_by_role("link", name="Home").focus()
        await page.evaluate("palaver.open()")
        await expect(visitor.field).to_be_focused()
        await press("ArrowUp")
        await expect(page.get_by_label("Edit this message")).to_be_focused()
        await press("Escape")
        await expect(visitor.field).to_be_focused()
        await press("Escape")
        await expect(page.get_by_role("link", name="Home")).to_be_focused()


async def test_on_a_phone_the_chat_covers_the_screen_and_keeps_the_focus(
    site: Site, browser: Browser
) -> None:
    async with visiting(browser, site.widget_host, viewport=PHONE, has_touch=True) as visitor:
        page, press = visitor.page, visitor.page.keyboard.press
        await visitor.visit(site.show(body="<a href=/>Home</a>"))
        await visitor.launcher.tap()
        window = page.get_by_role("dialog", name="Chat")
        assert await box(window) == (0, 0, PHONE["width"], PHONE["height"])
        await visitor.say("hello")
        for _ in range(12):
            await press("Tab")
            inside = "document.querySelector('palaver-widget').shadowRoot.activeElement"
            focused = f"document.activeElement === document.body || {inside} !== null"
            assert await page.evaluate(focused)
            await expect(page.get_by_role("link", name="Home")).not_to_be_focused()
        await visitor.field.focus()
        await press("Escape")
        await expect(window).to_have_count(0)
        await expect(visitor.launcher).to_be_focused()
        # Turned, the window has its place in the corner.
        await visitor.launcher.tap()
        await page.set_viewport_size({"width": 1000, "height": 700})
        await expect(window).to_have_css("border-top-width", "1px")
        await expect(visitor.launcher).to_be_visible()
        await press("Escape")
        await expect(window).to_have_count(0)


@pytest.mark.firefox
async def test_options_and_variables_change_the_looks(site: Site, browser: Browser) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        page = visitor.page
        await visitor.open(
            site.show(
                'data-accent="#ffdd00" data-position="left" data-radius="4px" data-theme="light" '
                'data-title="Ask us" data-greeting="Moin!" data-sound="on"'
            )
        )
        await expect(page.get_by_role("dialog", name="Ask us")).to_contain_text("Moin!")
        left, _, _, bottom = await box(visitor.launcher)
        assert (left, bottom) == (20, 700)
        assert await style(page.locator("#window"), "borderTopLeftRadius") == "4px"
        # Yellow on white cannot be read: it is darker, with white or black on it.
        assert await style(visitor.launcher, "backgroundColor") != "rgb(255, 221, 0)"
        await page.evaluate("""() => {
          const widget = document.querySelector("palaver-widget");
          widget.setAttribute("accent", "darkblue");
          widget.style.setProperty("--palaver-font-size", "20px");
          widget.setAttribute("font", "page");
          widget.style.setProperty("--palaver-width", "30rem");
          widget.style.setProperty("--palaver-height", "500px");
          document.body.style.fontFamily = "monospace";
          document.documentElement.style.fontSize = "8px";
        }""")
        await expect(visitor.launcher).to_have_css("background-color", "rgb(0, 0, 139)")
        await expect(visitor.launcher).to_have_css("width", "70px")
        await expect(visitor.field).to_have_css("font-family", "monospace")
        left, top, right, bottom = await box(page.locator("#window"))
        assert (right - left, bottom - top) == (240, 500)  # 30rem of the page's own
        await page.get_by_role("button", name="Options").click()
        sound = page.get_by_role("button", name="Sound for new replies")
        await expect(sound).to_have_attribute("aria-pressed", "true")


async def test_a_style_sheet_of_the_page_can_set_the_variables(
    site: Site, browser: Browser
) -> None:
    site.styles["/shop.css"] = """
      palaver-widget {
        --palaver-accent: darkblue; --palaver-radius: 3px; --palaver-font: monospace;
        --palaver-offset: 50px;
      }
    """
    async with visiting(browser, site.widget_host, color_scheme="dark") as visitor:
        head = '<link rel="stylesheet" href="/shop.css">'
        await visitor.open(site.show('data-theme="light"', head=head))
        window = visitor.page.locator("#window")
        await expect(visitor.launcher).to_have_css("background-color", "rgb(0, 0, 139)")
        await expect(window).to_have_css("border-top-left-radius", "3px")
        await expect(window).to_have_css("background-color", "rgb(251, 250, 248)")
        await expect(visitor.field).to_have_css("font-family", "monospace")
        _, _, right, bottom = await box(visitor.launcher)
        assert (right, bottom) == (1280 - 50, 720 - 50)


@pytest.mark.parametrize("color", ["#ffdd00", "black", "white", "oklch(70% 0.3 330)", "gray", "x"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_accent_can_be_read(
    site: Site, browser: Browser, color: str, scheme: Literal["light", "dark"]
) -> None:
    async with visiting(browser, site.widget_host, color_scheme=scheme) as visitor:
        await visitor.page.add_init_script(path=AXE)
        await visitor.open(site.show(f'data-accent="{color}"'))
        await visitor.say("https://a.example", "/scholar leave?")
        assert await visitor.page.evaluate(FIND_VIOLATIONS) == []


async def test_a_sound_is_made_for_replies_that_nobody_sees_where_it_is_wanted(
    site: Site, browser: Browser
) -> None:
    for wanted, count in (("", 0), ('data-sound="on"', 1)):
        async with visiting(browser, site.widget_host) as visitor:
            await visitor.page.add_init_script("""
              window.sounds = 0;
              window.AudioContext = class extends AudioContext {
                createGain() { window.sounds += 1; return super.createGain(); }
              };
            """)
            await visitor.open(site.show(wanted))
            await visitor.say("seen")
            await visitor.page.evaluate("palaver.close(); palaver.send('not seen')")
            await expect(visitor.page.locator(".unread")).to_have_text("1")
            assert await visitor.page.evaluate("sounds") == count


@pytest.mark.parametrize(
    ("language", "title"),
    [("de", "Wie kann ich helfen?"), ("fr-CA", "vous aider"), ("es", "ayudar"), ("zh-CN", "您")],
)
async def test_the_widget_speaks_the_language_of_the_page(
    site: Site, browser: Browser, language: str, title: str
) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        address = site.show()
        site.pages["/"] = site.pages["/"].replace('lang="en"', f'lang="{language}"')
        await visitor.visit(address)
        await visitor.launcher.click()
        await expect(visitor.page.locator(".greeting")).to_contain_text(title)
        await expect(visitor.page.locator(".widget")).to_have_attribute("lang", language[:2])
        site.show('data-lang="en"')
        await visitor.page.reload()
        await expect(visitor.page.locator(".greeting")).to_contain_text("How can I help?")


async def test_on_a_page_from_right_to_left_the_widget_is_so_too(
    site: Site, browser: Browser
) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        address = site.show()
        site.pages["/"] = site.pages["/"].replace("<html", '<html dir="rtl"')
        await visitor.open(address)
        await visitor.say("مرحبا بالعالم")
        left, _, right, _ = await box(visitor.launcher)
        assert (left, right) == (20, 76)
        message = await box(visitor.page.locator(".message"))
        reply = await box(visitor.page.locator(".reply"))
        assert message[0] < reply[2] - message[2]  # one's own message is at the other side
        title = await box(visitor.page.locator(".head h2"))
        close = await box(visitor.page.locator(".head > .icon-button"))
        assert close[2] < title[2]


@pytest.mark.firefox
async def test_an_inline_chat_is_a_part_of_the_page(site: Site, browser: Browser) -> None:
    async with visiting(browser, site.widget_host) as visitor:
        page = visitor.page
        body = '<palaver-widget title="Ask us"></palaver-widget>'
        await visitor.visit(site.show('data-mode="inline"', body=body))
        await page.evaluate("""
          document.querySelector("palaver-widget").style.setProperty("--palaver-height", "400px")
        """)
        part = page.get_by_role("region", name="Ask us")
        await expect(part).to_have_css("height", "400px")
        await expect(visitor.launcher).to_have_count(0)
        assert visitor.requests == [f"{site.widget_host}/widget.js"]
        await visitor.say("hello")
        await page.keyboard.press("Escape")
        await expect(part).to_contain_text("hello")
        # A router takes the element away, and makes another one.
        await page.evaluate("document.querySelector('palaver-widget').remove()")
        await page.evaluate(
            "document.querySelector('main').append(document.createElement('palaver-widget'))"
        )
        await visitor.wait_for_text("hello")
        await visitor.say("again")
        await expect(page.locator(".message")).to_have_text(["hello", "again"])
        await page.evaluate("document.body.append(document.createElement('palaver-widget'))")
        await expect(page.get_by_label("Your message")).to_have_count(1)
        await page.reload()
        await expect(page.locator(".message")).to_have_text(["hello", "again"])
        assert await page.evaluate("document.activeElement === document.body")


async def test_at_200_percent_and_on_small_screens_nothing_is_cut_off(
    site: Site, browser: Browser
) -> None:
    for width, height in ((640, 360), (500, 300), (320, 256)):
        viewport = {"width": width, "height": height}
        async with visiting(browser, site.widget_host, viewport=viewport) as visitor:
            await visitor.visit(site.show())
            await visitor.launcher.click()
            for part in (visitor.page.get_by_role("dialog"), visitor.field):
                left, top, right, bottom = await box(part)
                assert min(left, top) >= 0
                assert right <= width
                assert bottom <= height
            await visitor.send("hello")
            await visitor.wait_for_text("hello")
            await visitor.page.keyboard.press("Escape")


async def find_violations(page: Page) -> object:
    return await page.evaluate(FIND_VIOLATIONS)


async def show_screens(visitor: Visitor, live_server: LiveServer) -> None:
    """Go through what the chat can show; axe finds nothing on any screen."""
    page = visitor.page
    assert await find_violations(page) == []
    await visitor.send("/scripted go")
    live_server.scripted.emit(REPLY)
    await page.get_by_role("cell", name="2").wait_for()
    await visitor.wait_until_done()
    assert await find_violations(page) == []
    await page.get_by_role("button", name="Bad reply").click()
    await expect(page.get_by_role("button", name="Not helpful")).to_be_visible()
    assert await find_violations(page) == []
    await page.keyboard.press("Escape")
    await visitor.send("/waiter a drink")
    await expect(page.get_by_role("button", name="coffee")).to_be_visible()
    await visitor.send("tea")
    await visitor.send("/clumsy go")
    await expect(page.get_by_role("button", name="Try again")).to_be_visible()
    assert await find_violations(page) == []
    await visitor.send("/scholar leave?")
    await page.get_by_role("button", name="Source 1").click()
    assert await find_violations(page) == []
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Options").click()
    assert await find_violations(page) == []
    await page.get_by_role("button", name="Erase my data").click()
    assert await find_violations(page) == []
    await page.keyboard.press("Escape")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
async def test_axe_finds_nothing_on_any_screen(
    site: Site,
    live_server: LiveServer,
    browser: Browser,
    scheme: Literal["light", "dark"],
    width: int,
) -> None:
    async with visiting(
        browser, site.widget_host, color_scheme=scheme, viewport={"width": width, "height": 800}
    ) as visitor:
        await visitor.page.add_init_script(path=AXE)
        await visitor.visit(site.show('data-prompts="Where is my order?"'))
        await expect(visitor.launcher).to_be_visible()
        assert await find_violations(visitor.page) == []
        await visitor.launcher.click()
        await show_screens(visitor, live_server)
        await visitor.page.keyboard.press("Escape")
        await visitor.page.evaluate("palaver.send('once more')")
        await expect(visitor.page.locator(".unread")).to_have_text("1")
        assert await find_violations(visitor.page) == []
        await visitor.visit(
            site.show(
                'data-mode="inline"', body="<palaver-widget></palaver-widget>", path="/inline"
            )
        )
        await visitor.field.focus()
        await visitor.wait_for_text("once more")
        assert await find_violations(visitor.page) == []
