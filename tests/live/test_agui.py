"""AG-UI with the official client: under Node, and in a page in Chromium.

The events of each stream are checked with the protocol's own schemas, as they are on the wire.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Page, expect
from tests.live.agui_client import Json, build_page, run_client
from tests.live.chromium import chromium
from tests.plugins.channels.agui.support import (
    Payer,
    open_agui_server,
    user,
    wait_until_stored,
)
from tests.ports import free_port
from tests.server.web.live_server import LiveServer
from tests.server.web.test_shutdown import shutting_down

from palaver.config.settings import AuthKey, Secret
from palaver.testing import MemoryLedger, ScriptedEngine
from palaver.testing.engine import tool_call
from palaver_skills.agent import Agent

pytestmark = pytest.mark.live

KEY = "the secret key of the page"


def contents(seen: Json) -> list[str]:
    return [message.get("content", "") for message in seen["messages"]]


async def test_a_conversation_with_tools_questions_and_failures() -> None:
    async with open_agui_server() as server:
        seen = await run_client(
            server.url("/agui"),
            {"messages": [user("hello there")]},
            {"messages": [user("/counter go", "m-2")]},
            {"messages": [user("/waiter go", "m-3")]},
            {"answer": "tea"},
            {"messages": [user("/clumsy x", "m-4")]},
            {"messages": [user("/scholar x", "m-5")]},
            state={"theme": "dark"},
        )
    assert contents(seen) == [
        "hello there",
        "hello there ",
        "/counter go",
        "Let me see: 42.",
        "42",
        "(failed)",
        "/waiter go",
        "Tea or coffee?",
        "One tea, please.",
        "/clumsy x",
        "I will now ",
        "/scholar x",
        "You have 30 days of leave [1].",
    ]
    assert seen["state"]["theme"] == "dark"
    assert seen["state"]["palaver"]["citations"][0]["title"] == "The Handbook"
    errors = [event["message"] for event in seen["events"] if event["type"] == "RUN_ERROR"]
    assert errors == ["The skill could not finish its answer."]


async def test_calls_of_tools_are_approved_denied_and_cancelled() -> None:
    payer = Payer()
    async with open_agui_server(payer=payer) as server:
        seen = await run_client(
            server.url("/agui"),
            {"messages": [user("/payer ada")]},
            {"answer": {"approved": True}},
            {"messages": [user("/payer bob", "m-2")]},
            {"answer": {"approved": False}},
            {"messages": [user("/payer eve", "m-3")]},
            {"cancel": True},
            {"messages": [user("/payer zoe", "m-4")]},
        )
    assert payer.paid == ["ada"]
    results = [it for it in seen["messages"] if it["role"] == "tool"]
    denied = "The call of the tool 'pay' was not approved."
    assert [it["content"] for it in results] == ["paid 100", denied, denied]
    (asked,) = seen["interrupts"]
    assert asked["metadata"]["arguments"] == {"to": "zoe", "cents": 100}
    calls = [call["id"] for it in seen["messages"] for call in it.get("toolCalls") or ()]
    assert calls == [*(it["toolCallId"] for it in results), asked["toolCallId"]]
    said = [it["content"] for it in seen["messages"] if it["role"] == "assistant"]
    assert [text for text in said if "May I" not in text] == [
        "ada: paid 100. ",
        "Not paid.",
        "Not paid.",
    ]


async def test_a_tool_of_the_page_is_called_and_its_result_continues() -> None:
    engine = ScriptedEngine(tool_call("weather", city="Rome"), "It is warm.")
    tools = [{"name": "weather", "description": "How warm it is.", "parameters": {}}]
    about = {"tools": tools, "forwardedProps": {"palaver": {"skill": "agent"}}}
    async with open_agui_server(engine=engine, skills=(Agent(),)) as server:
        seen = await run_client(
            server.url("/agui"),
            {"messages": [user("How warm?")], "runId": "r-1", **about},
            {"result": "15 degrees", "runId": "r-2", **about},
        )
    (call,) = (call for it in seen["messages"] for call in it.get("toolCalls") or ())
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert contents(seen)[-2:] == ["15 degrees", "It is warm."]
    outcomes = [it["outcome"] for it in seen["events"] if it["type"] == "RUN_FINISHED"]
    assert outcomes == [
        {"type": "success", "pendingToolCallIds": [call["id"]]},
        {"type": "success"},
    ]


async def test_open_interrupts_must_be_answered() -> None:
    async with open_agui_server() as server:
        seen = await run_client(
            server.url("/agui"),
            {"messages": [user("/waiter go")]},
            {"messages": [user("something else", "m-2")]},
        )
    assert [each["message"] for each in seen["interrupts"]] == ["Tea or coffee?"]
    assert "error" in seen["results"][1]  # the client itself refuses to run


async def test_a_refusal_is_an_error_with_a_status() -> None:
    async with open_agui_server() as server:
        seen = await run_client(server.url("/agui"), {"messages": [user([])]})
    assert "HTTP 400" in seen["results"][0]["error"]


async def test_a_run_that_was_cut_off_is_posted_again_and_continues() -> None:
    async with open_agui_server() as server:
        server.scripted.emit("one ", end=False)
        run = {"messages": [user("/scripted x")], "runId": "r", "abortAfter": '"one "'}
        cut = await run_client(server.url("/agui"), run)
        assert contents(cut) == ["/scripted x", "one "]
        again = run_client(server.url("/agui"), {"runId": "r"}, messages=cut["messages"])
        server.scripted.emit("two")
        seen = await again
    assert contents(seen) == ["/scripted x", "one two"]


async def test_another_replica_continues_the_run_of_a_stopping_one() -> None:
    ledger = MemoryLedger()
    async with open_agui_server(ledger=ledger, grace=120) as first:
        first.scripted.emit("one ", end=False)
        running = asyncio.create_task(
            run_client(first.url("/agui"), {"messages": [user("/scripted x")]})
        )
        await wait_until_stored(first, "one ")
        async with open_agui_server(ledger=ledger) as other, shutting_down(first):
            other.scripted.emit("one two")
            seen = await running
    assert contents(seen) == ["/scripted x", "one two"]
    assert seen["events"][-1]["type"] == "RUN_FINISHED"


# A page


@contextlib.asynccontextmanager
async def open_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> AsyncIterator[tuple[LiveServer, Page]]:
    """Open the page at an origin of its own."""
    monkeypatch.setenv("PAGE_KEY", KEY)
    await build_page(tmp_path)
    port = free_port()
    application = web.Application()
    application.router.add_static("/", tmp_path)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    about: dict[str, Any] = {
        "keys": {"page": AuthKey(secret=Secret("env:PAGE_KEY"), person="ada")},
        "origins": (f"http://127.0.0.1:{port}",),
        **more,
    }
    try:
        async with open_agui_server(**about) as server, chromium() as browser:
            page = await browser.new_page()
            problems: list[str] = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            await visit(page, port, server)
            yield server, page
            assert problems == []
    finally:
        await runner.cleanup()


async def visit(page: Page, port: int, server: LiveServer) -> None:
    address = f"http://127.0.0.1:{port}/index.html"
    await page.goto(f"{address}?server={server.address}&thread=t&key={KEY}")
    await expect(page.locator("#status")).to_have_text("idle")


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message").fill(text)
    await page.get_by_role("button", name="Send").click()


@pytest.mark.chromium
async def test_a_page_shows_text_tools_state_and_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_page(tmp_path, monkeypatch) as (server, page):
        replies = page.locator("article.assistant")
        await say(page, "/counter go")
        await expect(replies.last).to_have_text("Let me see: 42.")
        await expect(page.locator("article.card").first).to_have_text('double {"number":21}')
        await expect(page).to_have_title("dark counter")
        await say(page, "/waiter please")
        await expect(page.locator("#question p")).to_have_text("Tea or coffee?")
        await page.get_by_role("button", name="coffee").click()
        await expect(replies.last).to_have_text("One coffee, please.")
        await expect(page.locator("#question")).to_be_hidden()
        server.scripted.emit("one ", end=False)
        await say(page, "/scripted x")
        await expect(replies.last).to_have_text("one ")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("#status")).to_have_text("idle")
        await expect(replies.last).to_have_text("one ")
        await page.reload()
        await expect(page.locator("#status")).to_have_text("idle")
        await expect(replies).to_have_count(4)


@pytest.mark.chromium
async def test_a_page_shows_the_call_that_waits_and_approves_or_denies_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer = Payer()
    async with open_page(tmp_path, monkeypatch, payer=payer) as (_, page):
        replies, question = page.locator("article.assistant"), page.locator("#question")
        await say(page, "/payer ada")
        arguments = '{\n  "to": "ada",\n  "cents": 100\n}'
        await expect(question.locator("pre")).to_have_text(f"pay {arguments}")
        await expect(page.locator("article.card")).to_have_text('pay {"to":"ada","cents":100}')
        await expect(question.get_by_label("Answer")).to_be_hidden()
        await page.reload()
        await expect(page.locator("article.card")).to_have_text('pay {"to":"ada","cents":100}')
        await question.get_by_role("button", name="Approve").click()
        await expect(replies.last).to_have_text("ada: paid 100. ")
        await expect(page.locator("article.tool")).to_have_text("paid 100")
        await expect(page.locator("article.card")).to_have_count(1)
        await expect(question).to_be_hidden()
        await say(page, "/payer bob")
        await question.get_by_role("button", name="Deny").click()
        await expect(replies.last).to_have_text("Not paid.")
    assert payer.paid == ["ada"]
