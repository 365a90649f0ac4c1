"""Connect a real model: the card of the empty page, its dialog, and the restart with the model."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, expect
from tests.live.page.chat_page import ChatPage, open_page
from tests.live.page.test_accessibility import AXE, FIND_VIOLATIONS
from tests.live.serve_processes import ServeProcess
from tests.model_servers import ModelServer, model_server
from tests.server.models.copies import copy_starter
from tests.server.models.hub_server import FakeHub, Repository

pytest.importorskip("openvino_genai")
pytestmark = [
    pytest.mark.live,
    pytest.mark.openvino,
    pytest.mark.chromium,
    pytest.mark.asyncio(loop_scope="module"),
]

TITLE = "Connect a real model"
PATIENCE = 60_000.0
"""Milliseconds for a trial and a restart on a busy machine."""
SETTINGS = ("embedding.use=none", "routing.consult_engine=false")
OPERATOR = "the secret key of the operator"
SCREENS: dict[str, dict[str, object]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 380, "height": 800}},
}


@asynccontextmanager
async def serving(
    folder: Path, *ports: int, settings: tuple[str, ...] = (), **environment: str
) -> AsyncIterator[ServeProcess]:
    """Run a server with the starter model that looks for model servers at ``ports``."""
    process = ServeProcess(folder / "server", environment)
    try:
        await process.start(f"models.server_ports={list(ports) or [1]}", *SETTINGS, *settings)
        yield process
    finally:
        await process.kill()


@asynccontextmanager
async def page_of(
    browser: Browser, process: ServeProcess, screen: str = "light"
) -> AsyncIterator[ChatPage]:
    async with open_page(browser, process.address, **SCREENS[screen]) as chat:
        chat.forget_lost_connections()  # the server restarts
        if AXE.exists():
            await chat.page.add_init_script(path=AXE)
        await chat.open()
        yield chat


async def open_dialog(chat: ChatPage) -> Locator:
    card = chat.page.get_by_role("complementary", name=TITLE)
    await card.get_by_role("button", name="Connect").click()
    dialog = chat.page.get_by_role("dialog", name=TITLE)
    await expect(dialog).to_be_visible()
    return dialog


async def check_state(chat: ChatPage, state: str) -> None:
    """Check that axe finds nothing, and that nothing is wider than the screen."""
    if AXE.exists():
        assert await chat.page.evaluate(FIND_VIOLATIONS) == [], state
    width = await chat.page.evaluate(
        "Math.max(...[document.documentElement, ...document.querySelectorAll('dialog')]"
        ".map((box) => box.scrollWidth - box.clientWidth))"
    )
    assert width <= 0, state


async def expect_connected(chat: ChatPage, model: str) -> None:
    dialog = chat.page.get_by_role("dialog", name="Connected")
    await expect(dialog).to_contain_text(f"{model} answers from now on.", timeout=PATIENCE)
    await chat.page.keyboard.press("Enter")
    await expect(chat.field).to_be_focused()
    await expect(chat.page.get_by_role("complementary", name=TITLE)).to_have_count(0)


@pytest.mark.parametrize("screen", SCREENS)
async def test_a_model_that_runs_on_this_machine_is_connected(
    screen: str, browser: Browser, tmp_path: Path
) -> None:
    async with (
        model_server("walker", "talker", owner="library", reply="I am the talker.") as server,
        serving(tmp_path, server.port) as process,
        page_of(browser, process, screen) as chat,
    ):
        server.tags = {"models": [{"name": "talker", "size": 5_200_000_000}]}
        await check_state(chat, "card")
        dialog = await open_dialog(chat)
        await expect(dialog.get_by_role("radio", name="walker Ollama")).to_be_checked()
        await dialog.get_by_role("radio", name="talker Ollama · 5.2 GB").check()
        await check_state(chat, "found")
        server.answers.clear()
        await dialog.get_by_role("button", name="Connect").click()
        await expect(dialog.get_by_text("Trying talker…")).to_be_visible(timeout=PATIENCE)
        await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
        await check_state(chat, "trying")
        server.answers.set()
        await expect_connected(chat, "talker")
        await chat.say("Hello")
        await expect(chat.page.locator(".turn").last).to_contain_text("I am the talker.")
        assert 'model = "talker"' in (tmp_path / "server" / "palaver.toml").read_text()


async def test_another_tab_shows_the_new_model_too(browser: Browser, tmp_path: Path) -> None:
    async with (
        model_server("walker") as server,
        serving(tmp_path, server.port) as process,
        page_of(browser, process) as other,
        page_of(browser, process) as chat,
    ):
        await expect(other.page.locator("#model")).to_have_text("starter")
        dialog = await open_dialog(chat)
        await dialog.get_by_role("button", name="Connect").click()
        await expect_connected(chat, "walker")
        await expect(other.page.locator("#model")).to_have_text("walker", timeout=PATIENCE)


async def fill_address(dialog: Locator, server: ModelServer, key: str) -> None:
    await dialog.get_by_label("Address of a server").fill(f"127.0.0.1:{server.port}")
    await dialog.get_by_label("Key (where the server asks for one)").fill(key)


async def test_an_address_with_a_key_by_the_keyboard(browser: Browser, tmp_path: Path) -> None:
    async with (
        model_server("walker", "talker", key="sk-right") as server,
        serving(tmp_path, server.port) as process,
        page_of(browser, process) as chat,
    ):
        chat.tolerate("status of 400")
        await chat.page.keyboard.press("Shift+Tab")
        card = chat.page.get_by_role("complementary", name=TITLE)
        while not await card.get_by_role("button", name="Connect").evaluate(
            "(button) => button === document.activeElement"
        ):
            await chat.page.keyboard.press("Shift+Tab")
        await chat.page.keyboard.press("Enter")
        dialog = chat.page.get_by_role("dialog", name=TITLE)
        ask = dialog.get_by_role("button", name=f"(127.0.0.1:{server.port}) asks for a key")
        await ask.focus()
        await chat.page.keyboard.press("Enter")
        await expect(dialog.get_by_label("Address of a server")).to_have_value(server.url)
        await fill_address(dialog, server, "sk-wrong")
        await chat.page.keyboard.press("Enter")
        await expect(dialog.get_by_role("alert")).to_have_text(
            f"{server.url} refuses the key (HTTP 401)"
        )
        await check_state(chat, "refused")
        await fill_address(dialog, server, "sk-right")
        await chat.page.keyboard.press("Enter")
        await dialog.get_by_role("combobox", name="Models").select_option("talker")
        await dialog.get_by_role("button", name="Connect").press("Enter")
        await expect_connected(chat, "talker")


async def test_what_fails_is_told_in_place_and_keeps_what_was_written(
    browser: Browser, tmp_path: Path
) -> None:
    async with serving(tmp_path) as process, page_of(browser, process, "dark phone") as chat:
        dialog = await open_dialog(chat)
        await expect(dialog.get_by_text("No model server runs")).to_be_visible()
        await check_state(chat, "nothing")
        await dialog.get_by_role("radio", name="Folder or file").check()
        await dialog.get_by_label("Path").fill("/no/such/model")
        await chat.page.keyboard.press("Enter")
        await expect(dialog.get_by_role("alert")).to_contain_text(
            "there is nothing at '/no/such/model'", timeout=PATIENCE
        )
        await expect(dialog.get_by_label("Path")).to_have_value("/no/such/model")
        await check_state(chat, "failed")
        assert not (tmp_path / "server" / "palaver.toml").exists()


async def test_a_download_shows_its_progress_and_can_be_cancelled(
    browser: Browser, tmp_path: Path
) -> None:
    starter = await asyncio.to_thread(lambda: Repository.of(copy_starter(tmp_path / "small")))
    hub = FakeHub(acme__small=starter)
    hub.stall = "model.safetensors"
    async with (
        hub.serving() as endpoint,
        serving(tmp_path, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "hf")) as process,
        page_of(browser, process) as chat,
    ):
        dialog = await open_dialog(chat)
        await dialog.get_by_role("radio", name="Hugging Face").check()
        await dialog.get_by_label("Name at the Hugging Face hub").fill("acme/small")
        await chat.page.keyboard.press("Enter")
        await expect(dialog.get_by_text("Downloading small…")).to_be_visible(timeout=PATIENCE)
        bar = dialog.get_by_role("progressbar")
        await expect(bar).to_have_attribute("value", re.compile(r"[1-9]"), timeout=PATIENCE)
        await check_state(chat, "downloading")
        await chat.page.keyboard.press("Escape")  # the download goes on
        dialog = await open_dialog(chat)
        await expect(dialog.get_by_text("Downloading small…")).to_be_visible()
        await dialog.get_by_role("button", name="Cancel").click()
        await expect(bar).to_have_count(0)
        hub.stall = ""
        await dialog.get_by_role("radio", name="Hugging Face").check()
        await dialog.get_by_label("Name at the Hugging Face hub").fill("acme/small")
        await chat.page.keyboard.press("Enter")
        await expect(chat.page.get_by_role("dialog", name="Connected")).to_contain_text(
            "small answers from now on.", timeout=PATIENCE
        )


async def test_a_closed_card_stays_closed_and_the_settings_open_the_dialog(
    browser: Browser, tmp_path: Path
) -> None:
    async with serving(tmp_path) as process, page_of(browser, process) as chat:
        card = chat.page.get_by_role("complementary", name=TITLE)
        await card.get_by_role("button", name="Do not show this again").click()
        await expect(card).to_have_count(0)
        await expect(chat.field).to_be_focused()
        await chat.page.reload()
        await expect(chat.page.locator("#skills button").first).to_be_visible()
        await expect(card).to_have_count(0)
        await chat.page.get_by_role("button", name="Settings").click()
        await chat.page.get_by_role("dialog").get_by_role("button", name=TITLE).click()
        await expect(chat.page.get_by_role("dialog", name=TITLE)).to_be_visible()


async def test_only_who_may_operate_the_server_sees_the_card(
    browser: Browser, tmp_path: Path
) -> None:
    keys = (
        "auth.keys.ada.secret=env:KEY_ADA",
        "auth.keys.ops.secret=env:KEY_OPS",
        'auth.keys.ops.rights=["talk", "read", "operate"]',
    )
    secrets = {"KEY_ADA": "the secret key of ada", "KEY_OPS": OPERATOR}
    async with serving(tmp_path, settings=keys, **secrets) as process:
        for secret, count in ((secrets["KEY_ADA"], 0), (OPERATOR, 1)):
            async with open_page(browser, process.address) as chat:
                chat.tolerate("401")
                await chat.page.goto(chat.address)
                await chat.page.get_by_label("Key", exact=True).fill(secret)
                await chat.page.keyboard.press("Enter")
                await expect(chat.page.locator("#model")).to_have_text("starter")
                card = chat.page.get_by_role("complementary", name=TITLE)
                await expect(card).to_have_count(count)
                await chat.page.get_by_role("button", name="Settings").click()
                await expect(chat.page.get_by_role("button", name=TITLE)).to_have_count(count)
