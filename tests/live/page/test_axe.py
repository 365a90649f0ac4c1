"""axe finds nothing in any state of the page, light on a wide screen and dark on a phone.

A new state is a function here. What needs another server is tested with it: keys and erasure in
`test_account`, shares in `test_sharing`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import pytest
import pytest_asyncio
from playwright.async_api import Browser, FilePayload, expect
from tests.chaos.proxy import FaultProxy
from tests.live.page.chat_page import ChatPage, open_page
from tests.live.page.conftest import make_title
from tests.live.page.test_accessibility import AXE, FIND_VIOLATIONS
from tests.live.page.test_approvals import Payer
from tests.live.page.test_page import BookingSkill, book_table
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.testing import ScriptedEngine

pytestmark = [
    pytest.mark.live,
    pytest.mark.chromium,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not AXE.exists(), reason="the npm packages of the page are not installed"),
]

SCREENS: dict[str, dict[str, object]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 380, "height": 800}},
}
REPLY = """\
# Title

- [x] done

1. one

| a | b |
| - | -: |
| 1 | 2 |

```python
print("hello")  # a comment
```

> [a link](https://a.example) and $x^2$

$$a_1 + a_2 + a_3 + a_4 + a_5 + a_6 + a_7 + a_8 + a_9 + a_{10} + a_{11} + a_{12} + a_{13}$$
"""


class Visit(NamedTuple):
    """A page, the server behind it, and the proxy between them."""

    chat: ChatPage
    server: LiveServer
    proxy: FaultProxy

    async def press(self, name: str) -> None:
        await self.chat.page.get_by_role("button", name=name).first.click()

    async def open_list(self) -> None:
        """Show the list of conversations, which a phone hides."""
        show = self.chat.page.get_by_role("button", name="Show conversations")
        if await show.count():
            await show.click()

    async def open_menu(self) -> None:
        await self.chat.say("hello")
        await self.open_list()
        await self.chat.page.get_by_label("Options of").click()


async def welcome(visit: Visit) -> None:
    await expect(visit.chat.page.locator("#skills button").first).to_be_visible()


async def suggested_skills(visit: Visit) -> None:
    await visit.chat.page.keyboard.type("/")
    await expect(visit.chat.page.get_by_role("listbox")).to_be_visible()


async def menu_of_skills(visit: Visit) -> None:
    await visit.chat.page.locator("#picker").click()
    await visit.chat.page.get_by_role("menu").wait_for()


async def reply_in_markdown(visit: Visit) -> None:
    await visit.chat.send("/scripted go")
    visit.server.scripted.emit("<think>so</think>", REPLY)
    await visit.chat.page.locator("math").last.wait_for()
    await visit.chat.wait_until_done()


async def reply_from_right_to_left(visit: Visit) -> None:
    await visit.chat.say("שלום עולם, `code` ומספר 42")
    await visit.chat.page.evaluate("document.documentElement.dir = 'rtl'")


async def growing_reply(visit: Visit) -> None:
    await visit.chat.begin_reply(visit.server, "Half of it")
    await visit.chat.send("the next")
    await visit.chat.wait_for_text("Waiting: one message comes first")


async def stopped_reply(visit: Visit) -> None:
    await visit.chat.begin_reply(visit.server, "Half of it")
    await visit.press("Stop the reply")
    await visit.chat.page.get_by_role("button", name="Continue").wait_for()


async def failed_reply(visit: Visit) -> None:
    await visit.chat.send("/clumsy go")
    await visit.chat.page.get_by_role("button", name="Try again").wait_for()


async def question(visit: Visit) -> None:
    await visit.chat.send("/waiter a drink")
    await visit.chat.page.get_by_role("button", name="coffee").wait_for()


async def reason(visit: Visit) -> None:
    await visit.chat.say("hello")
    await visit.chat.page.locator(".why").get_by_text("why?").click()


async def tool(visit: Visit) -> None:
    await visit.chat.say("/booking 4")
    await visit.chat.page.locator(".tool summary").click()


async def approval(visit: Visit) -> None:
    await visit.chat.send("/payer Bob")
    await visit.chat.page.locator(".approval").wait_for()


async def denied_call(visit: Visit) -> None:
    await approval(visit)
    await visit.press("Deny")
    await visit.chat.page.locator(".tool summary").click()


async def files_and_sources(visit: Visit) -> None:
    await visit.chat.say("/scholar leave?")
    await visit.press("Source 1")
    await visit.chat.page.get_by_role("complementary").wait_for()


async def feedback(visit: Visit) -> None:
    await visit.chat.say("hello")
    await visit.press("Bad reply")
    await visit.chat.page.locator("form.feedback").wait_for()


async def files_to_send(visit: Visit) -> None:
    async with visit.chat.page.expect_file_chooser() as waiting:
        await visit.press("Add files")
    files = [  # one more than a message can have
        FilePayload(name=f"{number}.txt", mimeType="text/plain", buffer=b"notes")
        for number in range(11)
    ]
    await (await waiting.value).set_files(files)
    await visit.chat.page.locator("#uploads .refused").wait_for()


async def versions(visit: Visit) -> None:
    await visit.chat.say("hello")
    await visit.press("Write another reply")
    await expect(visit.chat.page.locator(".versions")).to_have_text("2/2")


async def edited_message(visit: Visit) -> None:
    await visit.chat.say("one", "two")
    await visit.chat.page.locator(".message").first.hover()
    await visit.press("Edit this message")
    await expect(visit.chat.page.get_by_role("textbox", name="Edit this message")).to_be_visible()


async def collapsed_message(visit: Visit) -> None:
    await visit.chat.say("word " * 500)
    await visit.chat.page.get_by_role("button", name="Show more").wait_for()


async def message_that_cannot_be_sent(visit: Visit) -> None:
    await visit.chat.send("x" * 1_100_000)
    await expect(visit.chat.page.locator("#unsent")).to_contain_text("too long to send")


async def lost_connection(visit: Visit) -> None:
    await visit.chat.say("hello")
    visit.proxy.refuses_connections = True
    visit.proxy.disconnect_all()
    visit.chat.forget_lost_connections()
    await visit.chat.send("in a tunnel")
    await expect(visit.chat.page.locator("#connection")).to_contain_text("connection is lost")


async def menu_of_a_conversation(visit: Visit) -> None:
    await visit.open_menu()


async def new_title(visit: Visit) -> None:
    await visit.open_menu()
    await visit.press("Rename")


async def deletion(visit: Visit) -> None:
    await visit.open_menu()
    await visit.press("Delete")
    await visit.chat.page.get_by_role("dialog").wait_for()


async def search(visit: Visit) -> None:
    await visit.chat.say("about pears", "and about plums")
    await visit.open_list()
    await visit.chat.page.get_by_role("searchbox").fill("plums")
    await visit.chat.page.locator(".conversations small").wait_for()


async def search_without_result(visit: Visit) -> None:
    await visit.open_list()
    await visit.chat.page.get_by_role("searchbox").fill("nothing like it")
    await expect(visit.chat.page.locator(".sidebar")).to_contain_text("Nothing was found.")


async def settings(visit: Visit) -> None:
    await visit.open_list()
    await visit.press("Settings")
    await visit.chat.page.get_by_role("dialog", name="Settings").wait_for()


async def shortcuts(visit: Visit) -> None:
    await visit.open_list()
    await visit.press("Keyboard shortcuts")
    await visit.chat.page.get_by_role("dialog", name="Keyboard shortcuts").wait_for()


STATES: tuple[Callable[[Visit], Awaitable[None]], ...] = (
    welcome, suggested_skills, menu_of_skills, reply_in_markdown, reply_from_right_to_left,
    growing_reply, stopped_reply, failed_reply, question, reason, tool, approval,
    denied_call, files_to_send,
    files_and_sources, feedback, versions, edited_message, collapsed_message,
    message_that_cannot_be_sent, lost_connection, menu_of_a_conversation, new_title, deletion,
    search, search_without_result, settings, shortcuts,
)  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module")
async def live_server() -> AsyncIterator[LiveServer]:
    payer = Payer()
    async with open_live_server(
        engine=ScriptedEngine(make_title),
        skills=(BookingSkill(), payer),
        tools=(book_table, payer.pay),
    ) as opened:
        yield opened


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_axe_finds_nothing(
    live_server: LiveServer,
    browser: Browser,
    state: Callable[[Visit], Awaitable[None]],
    screen: str,
) -> None:
    async with (
        FaultProxy(live_server.address) as proxy,
        open_page(browser, proxy.address, **SCREENS[screen]) as chat,
    ):
        await chat.page.add_init_script(path=AXE)
        await chat.open()
        await state(Visit(chat, live_server, proxy))
        assert await chat.page.evaluate(FIND_VIOLATIONS) == []
