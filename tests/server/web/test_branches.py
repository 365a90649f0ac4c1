"""Branches over the websocket and HTTP: edit, regenerate, choose."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest_asyncio
from tests.server.web.live_server import LiveServer, WebSocketClient, open_live_server

from palaver.config.settings import AdmissionSettings, PersonSettings

PATH = "/v1/conversations/t"


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[LiveServer]:
    async with open_live_server() as live_server, live_server.browser() as browser:
        yield browser


async def say(client: WebSocketClient, text: str, **fields: Any) -> str:
    turn = await client.send_message(text, **fields)
    await client.wait_for("finished", turn=turn)
    return turn


def messages(snapshot: dict[str, Any]) -> list[str]:
    return [entry["text"] for entry in snapshot["history"] if entry["role"] == "user"]


async def test_a_message_is_edited_and_all_pages_are_told(browser: LiveServer) -> None:
    async with (
        browser.connect("t", person=None) as client,
        browser.connect("t", person=None) as other,
    ):
        a = await say(client, "a")
        b = await say(client, "b")
        edited = await say(client, "B", after=a)
        for each in (client, other):
            reset = await each.wait_for("reset")
            assert messages(reset["snapshot"]) == ["a"]
            assert [turn["turn"] for turn in reset["snapshot"]["pending"]] in ([edited], [])
            assert reset["snapshot"]["alternatives"] == [[b, edited]]
        await other.wait_for("finished", turn=edited)
        await client.send({"type": "select", "turn": b})
        await client.wait_for("selected", turn=b)
        for each in (client, other):
            reset = await each.wait_for("reset")
            assert messages(reset["snapshot"]) == ["a", "b"]
        first = await say(client, "A", after=None)
        reset = await other.wait_for("reset")
        assert sorted(reset["snapshot"]["alternatives"]) == sorted([[b, edited], [a, first]])


async def test_a_reply_is_regenerated_over_http(browser: LiveServer) -> None:
    turns = []
    for body in ({"text": "a"}, {"text": "b"}):
        status, reply = await browser.post(f"{PATH}/messages?wait=true", body)
        assert (status, reply["outcome"]) == (200, "done")
        turns.append(reply["turn"])
    body = {"text": "b", "after": turns[0]}
    status, reply = await browser.post(f"{PATH}/messages?wait=true", body)
    assert (status, reply["text"]) == (200, "b ")
    status, selected = await browser.post(f"{PATH}/select", {"turn": turns[1]})
    assert status == 200
    assert [entry["turn"] for entry in selected["snapshot"]["history"][2:]] == [turns[1]] * 2
    assert selected["snapshot"]["alternatives"] == [[turns[1], reply["turn"]]]


async def test_mistakes_are_named(browser: LiveServer) -> None:
    _, reply = await browser.post(f"{PATH}/messages?wait=true", {"text": "a"})
    for path, body, status, code in (
        ("messages", {"text": "x", "after": "nothing"}, 404, "not_found"),
        ("messages", {"text": "x", "after": 7}, 400, "invalid_input"),
        ("select", {"turn": reply["turn"]}, 404, "not_found"),
        ("select", {}, 400, "invalid_input"),
    ):
        answered, error = await browser.post(f"{PATH}/{path}", body)
        assert (answered, error["error"]["code"]) == (status, code), error
    await browser.post(f"{PATH}/messages", {"text": "/scripted x"})
    answered, error = await browser.post(f"{PATH}/messages", {"text": "x", "after": reply["turn"]})
    assert (answered, error["error"]["code"]) == (409, "conflict")


async def test_a_text_is_replaced_without_another_reply(browser: LiveServer) -> None:
    async with browser.connect("t", person=None) as client:
        a = await say(client, "a")
        await say(client, "b")
        status, answer = await revise(browser, a, "A, better")
        assert status == 200
        reset = await client.wait_for("reset")
        for snapshot in (answer["snapshot"], reset["snapshot"]):
            assert messages(snapshot) == ["A, better", "b"]
            assert "alternatives" not in snapshot
        assert answer["cursor"] == reset["cursor"]
        await say(client, "c")
        _, conversation = await browser.get("/v1/conversations/t")
        assert messages(conversation["snapshot"]) == ["A, better", "b", "c"]


async def test_a_text_that_cannot_be_replaced_stays(browser: LiveServer) -> None:
    _, reply = await browser.post(f"{PATH}/messages?wait=true", {"text": "a"})
    turn = reply["turn"]
    for id, body, status, code in (
        ("nothing", {"text": "x"}, 404, "not_found"),
        (turn, {"text": " \n"}, 400, "invalid_input"),
        (turn, {"text": 7}, 400, "invalid_input"),
        (turn, {}, 400, "invalid_input"),
        (turn, {"text": "x" * 1_000_001}, 413, "too_large"),
    ):
        answered, error = await revise(browser, id, body)
        assert (answered, error["error"]["code"]) == (status, code)
    async with browser.browser() as stranger:
        assert (await revise(stranger, turn, "x"))[0] == 403
    await browser.post(f"{PATH}/messages", {"text": "/scripted x"})
    answered, error = await revise(browser, turn, "x")
    assert (answered, error["error"]["code"]) == (409, "conflict")
    _, conversation = await browser.get(PATH)
    assert messages(conversation["snapshot"]) == ["a"]


async def test_a_quota_limits_what_a_text_becomes() -> None:
    limited = AdmissionSettings(person=PersonSettings(stored_bytes=2_000))
    async with open_live_server(admission=limited) as live_server, live_server.browser() as browser:
        _, reply = await browser.post(f"{PATH}/messages?wait=true", {"text": "a"})
        answered, error = await revise(browser, reply["turn"], "x" * 2_000)
        assert (answered, error["error"]["code"]) == (429, "too_many")
        assert (await revise(browser, reply["turn"], "x" * 1_000))[0] == 200


async def revise(
    browser: LiveServer, turn: str, body: str | Mapping[str, object]
) -> tuple[int, Any]:  # Any: JSON values
    """Replace the text of a turn's message; ``body`` is the text, or another body."""
    content = {"text": body} if isinstance(body, str) else body
    url = browser.url(f"{PATH}/turns/{turn}")
    async with browser.session.patch(url, json=content) as response:
        return response.status, await response.json()
