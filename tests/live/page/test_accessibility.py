"""The page for everybody: names, contrast, keyboard, narrow screens; axe finds nothing."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect
from tests.live.page.chat_page import open_page
from tests.server.web.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


@pytest.mark.firefox
async def test_everything_works_with_the_keyboard_alone(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        press, type_ = chat.page.keyboard.press, chat.page.keyboard.type
        await expect(chat.page.locator("#skills button")).to_have_count(5)
        await type_("/")
        await expect(chat.page.get_by_role("option", selected=True)).to_contain_text("/clumsy")
        await press("ArrowDown")
        await expect(chat.page.get_by_role("option", selected=True)).to_contain_text("/parrot")
        await press("Escape")
        await expect(chat.page.get_by_role("listbox", name="Skills")).to_be_hidden()
        await press("Backspace")
        await type_("/wai")
        await press("Tab")
        await expect(chat.page.get_by_label("Your message")).to_have_value("/waiter ")
        await type_("a drink")
        await press("Shift+Enter")
        await type_("please")
        await press("Enter")
        await chat.wait_until_done()
        await expect(chat.page.locator(".message")).to_have_text("/waiter a drink\nplease")
        await chat.page.get_by_role("button", name="coffee").focus()
        await press("Enter")
        await chat.wait_for_text("One coffee, please.")
        await expect(chat.page.get_by_label("Your message")).to_be_focused()
        await type_("/scripted go")
        await press("Enter")
        await expect(chat.page.get_by_label("Stop the reply")).to_be_visible()
        await press("Escape")
        await chat.wait_for_text("Stopped")


@pytest.mark.firefox
async def test_shortcuts_work_everywhere_and_are_listed(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        press = chat.page.keyboard.press
        await chat.open()
        await chat.send("What is this?")
        await chat.wait_for_text("What is this?")
        first = chat.path
        await chat.page.keyboard.type("a/b?")
        await expect(chat.page.get_by_label("Your message")).to_have_value("a/b?")
        await chat.page.locator("#main").focus()
        await press("?")
        sheet = chat.page.get_by_role("dialog", name="Keyboard shortcuts")
        await expect(sheet).to_contain_text("Ctrl")
        await press("Escape")
        await expect(sheet).to_have_count(0)
        await chat.page.locator("#main").focus()
        await press("/")
        await expect(chat.page.get_by_label("Your message")).to_be_focused()
        await press("Control+Shift+S")
        await expect(chat.page.get_by_role("navigation")).to_have_count(0)
        await chat.page.reload()
        await chat.wait_for_text("What is this?")
        await expect(chat.page.get_by_role("navigation")).to_have_count(0)
        await press("Control+Shift+O")
        await expect(chat.page.locator("#empty-state")).to_be_visible()
        await expect(chat.page.get_by_label("Your message")).to_be_focused()
        assert chat.path != first


@pytest.mark.firefox
async def test_on_a_phone_the_list_covers_the_page_and_gives_the_focus_back(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(
        browser, live_server.address, viewport={"width": 360, "height": 640}
    ) as chat:
        press = chat.page.keyboard.press
        await chat.open()
        await chat.send("the first")
        await chat.wait_for_text("the first")
        show = chat.page.get_by_role("button", name="Show conversations")
        await show.click()
        create = chat.page.get_by_role("button", name="New conversation")
        await expect(create).to_be_focused()
        await press("Escape")
        await expect(chat.page.get_by_role("navigation")).to_have_count(0)
        await expect(show).to_be_focused()
        await press("Enter")
        await expect(create).to_be_focused()
        await press("Enter")
        await expect(chat.page.locator("#empty-state")).to_be_visible()
        await expect(chat.page.get_by_label("Your message")).to_be_focused()
        await show.click()
        await chat.page.get_by_role("link", name="the first").click()
        await chat.wait_for_text("the first")
        await expect(chat.page.get_by_role("navigation")).to_have_count(0)


async def test_colours_and_size_of_the_text_are_settings(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address, color_scheme="light") as chat:
        await chat.open()
        look = """() => {
          const { backgroundColor, fontSize } = getComputedStyle(document.documentElement);
          return [backgroundColor, fontSize];
        }"""
        light, normal = await chat.page.evaluate(look)
        await chat.page.get_by_role("button", name="Settings").click()
        await chat.page.get_by_text("Dark").click()
        await chat.page.get_by_text("Larger").click()
        dark, larger = await chat.page.evaluate(look)
        assert dark != light
        assert float(larger.removesuffix("px")) > float(normal.removesuffix("px"))
        await chat.page.reload()
        await chat.page.get_by_role("button", name="Settings").click()
        assert await chat.page.evaluate(look) == [dark, larger]
        await chat.page.get_by_text("Like the system").click()
        assert (await chat.page.evaluate(look))[0] == light


@pytest.mark.parametrize(
    ("language", "send", "outcome"),
    [
        ("en", "Send", "The reply is complete."),
        ("de", "Senden", "Die Antwort ist vollständig."),
        ("fr", "Envoyer", "La réponse est complète."),
        ("es", "Enviar", "La respuesta está completa."),
        ("zh", "发送", "回答已完成。"),
    ],
)
async def test_the_page_speaks_the_language_of_the_browser(
    live_server: LiveServer, browser: Browser, language: str, send: str, outcome: str
) -> None:
    async with open_page(browser, live_server.address, locale=f"{language}-XX") as chat:
        await chat.page.goto(live_server.address)
        await expect(chat.page.locator("#text")).to_be_focused()
        await expect(chat.page.locator("html")).to_have_attribute("lang", language)
        await chat.page.keyboard.type("hello")
        await chat.page.get_by_role("button", name=send, exact=True).click()
        await expect(chat.page.locator("#announcement")).to_have_text(outcome)
        assert await chat.page.evaluate(UNNAMED_CONTROLS) == []


async def test_the_language_is_a_setting(live_server: LiveServer, browser: Browser) -> None:
    async with open_page(browser, live_server.address, locale="pt-BR") as chat:
        await chat.open()  # no Portuguese: English
        await chat.send("hello")
        await chat.page.get_by_role("button", name="Settings").click()
        await chat.page.get_by_label("Language").select_option("fr")
        await expect(chat.page.get_by_role("navigation", name="Conversations")).to_contain_text(
            "Nouvelle conversation"
        )
        await chat.page.reload()
        await expect(chat.page.get_by_label("Votre message")).to_be_focused()
        await expect(chat.page.locator(".message")).to_have_text("hello")


@pytest.mark.firefox
async def test_texts_from_right_to_left_are_shown_so(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.open()
        await chat.page.get_by_label("Your message").fill("שלום עולם")
        direction = "node => getComputedStyle(node).direction"
        assert await chat.page.locator("#text").evaluate(direction) == "rtl"
        await chat.page.keyboard.press("Enter")
        await chat.wait_for_text("שלום עולם")
        for place in (".message", ".reply"):
            await expect(chat.page.locator(place)).to_have_text("שלום עולם")
            assert await chat.page.locator(place).evaluate(direction) == "rtl"
        await chat.page.evaluate("document.documentElement.dir = 'rtl'")
        sidebar = await chat.page.get_by_role("navigation").bounding_box()
        assert sidebar is not None
        assert sidebar["x"] > 640
        assert await chat.page.evaluate(OVERFLOW) == [0, 0]


RECORD_SPEECH = """
window.said = [];
const voice = { speak: (utterance) => said.push(utterance), cancel: () => said.push(null) };
Object.defineProperty(window, "speechSynthesis", { value: voice });
"""


async def test_a_reply_is_read_aloud_without_its_marks(
    live_server: LiveServer, browser: Browser
) -> None:
    async with open_page(browser, live_server.address) as chat:
        await chat.page.add_init_script(RECORD_SPEECH)  # there are no voices without a screen
        await chat.open()
        await chat.send("/scripted go")
        live_server.scripted.emit(
            "<think>hm</think># Title\n\nSome **bold**\n`code` [1] [link](https://a.example).\n\n"
            "```python\nprint(1)\n```\n\n- one\n- two"
        )
        await chat.page.get_by_role("button", name="Read aloud").click()
        said = await chat.page.evaluate("said.map((utterance) => utterance && utterance.text)")
        assert said == [None, "Title", "Some bold code link.", "one", "two"]
        await chat.page.get_by_role("button", name="Stop reading").click()
        assert await chat.page.evaluate("said.at(-1)") is None
        await chat.page.get_by_role("button", name="Read aloud").click()
        await chat.page.evaluate("said.at(-1).onend()")
        await expect(chat.page.get_by_role("button", name="Read aloud")).to_be_visible()


@pytest.mark.firefox
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (640, 400), (360, 640)])
async def test_nothing_is_wider_than_the_screen(
    live_server: LiveServer, browser: Browser, width: int, height: int
) -> None:
    async with open_page(
        browser, live_server.address, viewport={"width": width, "height": height}
    ) as chat:
        await chat.open()
        await chat.send("/scripted go")
        live_server.scripted.emit("w" * 500, "\n\n```\n" + "c" * 500 + "\n```\n\n|a|b|\n|-|-|\n|")
        live_server.scripted.emit("t" * 500 + "|x|")
        await chat.wait_until_done()
        assert await chat.page.evaluate(OVERFLOW) == [0, 0]


OVERFLOW = """
[document.documentElement, document.getElementById('main')]
  .map(node => node.scrollWidth - node.clientWidth)
"""


async def test_controls_have_names_and_text_has_contrast(
    live_server: LiveServer, browser: Browser
) -> None:
    """Check names and contrast (WCAG AA) in the light and the dark scheme."""
    for scheme in ("light", "dark"):
        async with open_page(browser, live_server.address, color_scheme=scheme) as chat:
            await chat.open()
            await chat.send("/scholar leave?")
            await chat.page.get_by_role("button", name="Source 1").wait_for()
            unnamed = await chat.page.evaluate(UNNAMED_CONTROLS)
            assert unnamed == []
            low_contrast = await chat.page.evaluate(LOW_CONTRAST)
            assert low_contrast == []


UNNAMED_CONTROLS = """
[...document.querySelectorAll('button, input:not([hidden]), textarea, a, summary')]
  .filter(node => !(node.ariaLabel || node.textContent.trim() || node.labels?.length))
  .map(node => node.outerHTML)
"""

LOW_CONTRAST = """
(() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const light = ([r, g, b]) => {
    const part = (v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const lowContrast = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
    if (!own || !node.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) lowContrast.push([node.outerHTML.slice(0, 80), ratio]);
  }
  return lowContrast;
})()
"""

AXE = Path(__file__).parents[3] / "server/palaver/web/frontend/node_modules/axe-core/axe.min.js"
FIND_VIOLATIONS = """
async () => (await axe.run()).violations.map(
  ({ id, nodes }) => [id, ...nodes.map(({ html, failureSummary }) => [html, failureSummary])]
)
"""
