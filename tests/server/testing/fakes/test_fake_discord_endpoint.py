"""Interactions that the fake Discord delivers by signed HTTP requests."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey
from tests.server.testing.fakes.discord_bot import until

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.discord import (
    DiscordChannel,
    DiscordLimits,
    DiscordUser,
    EndpointRefused,
    FakeDiscord,
)

Respond = Callable[[Any], Awaitable[web.Response]]

BUTTON = {"type": 2, "style": 1, "label": "Stop", "custom_id": "stop"}


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeDiscord]:
    async with FakeDiscord(clock=FakeClock(), limits=DiscordLimits.generous()) as fake:
        yield fake


@pytest.fixture
def ada(fake: FakeDiscord) -> DiscordUser:
    return fake.add_user("Ada")


@pytest.fixture
def general(fake: FakeDiscord) -> DiscordChannel:
    return fake.add_channel("general")


class Endpoint:
    """An endpoint that verifies signatures and answers what the test says."""

    def __init__(self, fake: FakeDiscord) -> None:
        self.key = VerifyKey(bytes.fromhex(fake.public_key))
        self.url = ""
        self.verifies = True
        self.payloads: list[Any] = []
        self.respond: Respond = self.defer

    async def defer(self, payload: Any) -> web.Response:
        return web.json_response({"type": 6})

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        signed = request.headers.get("X-Signature-Timestamp", "").encode() + body
        try:
            signature = bytes.fromhex(request.headers["X-Signature-Ed25519"])
            self.key.verify(signed, signature)
        except (KeyError, ValueError, BadSignatureError):
            if self.verifies:
                return web.Response(status=401)
        payload = json.loads(body)
        self.payloads.append(payload)
        return (
            web.json_response({"type": 1}) if payload["type"] == 1 else await self.respond(payload)
        )


@contextlib.asynccontextmanager
async def serving(fake: FakeDiscord) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(fake)
    app = web.Application()
    app.router.add_post("/interactions", endpoint.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/interactions"
    try:
        yield endpoint
    finally:
        await runner.cleanup()


async def post_button(fake: FakeDiscord, channel: DiscordChannel) -> None:
    body = {"content": "Look", "components": [{"type": 1, "components": [BUTTON]}]}
    async with aiohttp.ClientSession() as session:
        url, headers = f"{fake.api_url}/channels/{channel.id}/messages", bot_headers(fake)
        async with session.post(url, json=body, headers=headers) as response:
            assert response.status == 200


def bot_headers(fake: FakeDiscord) -> dict[str, str]:
    return {"Authorization": f"Bot {fake.token}"}


async def test_an_endpoint_is_accepted_when_it_verifies(fake: FakeDiscord) -> None:
    async with serving(fake) as endpoint:
        await fake.set_interactions_url(endpoint.url)
        assert [payload["type"] for payload in endpoint.payloads] == [1]


async def test_an_endpoint_that_takes_every_signature_is_refused(fake: FakeDiscord) -> None:
    async with serving(fake) as endpoint:
        endpoint.verifies = False
        with pytest.raises(EndpointRefused, match="answered a wrong signature with 200"):
            await fake.set_interactions_url(endpoint.url)


async def test_an_endpoint_that_knows_no_ping_is_refused(fake: FakeDiscord) -> None:
    async with serving(fake) as endpoint:
        with pytest.raises(EndpointRefused, match="answered a PING with 404"):
            await fake.set_interactions_url(endpoint.url + "/else")


async def test_the_answer_is_the_response(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async def respond(payload: Any) -> web.Response:
        text = f"{payload['data']['custom_id']} by {payload['member']['user']['global_name']}"
        return web.json_response({"type": 4, "data": {"content": text}})

    await post_button(fake, general)
    async with serving(fake) as endpoint:
        endpoint.respond = respond
        await fake.set_interactions_url(endpoint.url)
        interaction = await fake.press(fake.conversation(general)[0], ada, "Stop")
    assert interaction.status == "answered"
    assert fake.conversation(general)[-1].content == "stop by Ada"


async def test_the_answer_may_come_by_a_request_meanwhile(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async def respond(payload: Any) -> web.Response:
        url = f"{fake.api_url}/interactions/{payload['id']}/{payload['token']}/callback"
        body = {"type": 7, "data": {"content": "Stopped", "components": []}}
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
            assert answer.status == 204
        return web.Response(status=202)

    await post_button(fake, general)
    async with serving(fake) as endpoint:
        endpoint.respond = respond
        await fake.set_interactions_url(endpoint.url)
        interaction = await fake.press(fake.conversation(general)[0], ada, "Stop")
    assert interaction.status == "answered"
    assert fake.conversation(general)[0].content == "Stopped"


async def test_an_interaction_fails_after_three_seconds(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def respond(payload: Any) -> web.Response:
        asked.set()
        await go.wait()
        return web.json_response({"type": 6})

    await post_button(fake, general)
    async with serving(fake) as endpoint:
        endpoint.respond = respond
        await fake.set_interactions_url(endpoint.url)
        pressing = asyncio.create_task(fake.press(fake.conversation(general)[0], ada, "Stop"))
        await asked.wait()
        fake.clock.advance(3.1)
        interaction = await pressing
        go.set()
    assert interaction.status == "failed"


async def test_an_answer_that_discord_does_not_know_is_a_violation(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    answers: list[Any] = [{"type": 4, "data": {"text": "a"}}, {"type": 8}, {"type": 4}]

    async def respond(payload: Any) -> web.Response:
        return web.json_response(answers[len(endpoint.payloads) - 2])

    await post_button(fake, general)
    async with serving(fake) as endpoint:
        endpoint.respond = respond
        await fake.set_interactions_url(endpoint.url)
        for _ in answers:
            await fake.press(fake.conversation(general)[0], ada, "Stop")
    assert [violation.partition(" {")[0] for violation in fake.violations] == [
        "answer to an interaction: unknown fields data.text",
        "answer to an interaction: 50035: Invalid Form Body",
        "answer to an interaction: 50006: Cannot send an empty message ",
    ]
    fake.violations.clear()


async def test_with_an_endpoint_the_gateway_gets_no_interactions(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    await post_button(fake, general)
    async with serving(fake) as endpoint, aiohttp.ClientSession() as session:
        await fake.set_interactions_url(endpoint.url)
        async with session.ws_connect(f"{fake.gateway_url}?v=10") as websocket:
            identify = {"token": fake.token, "intents": 1}
            await websocket.send_json({"op": 2, "d": identify})
            await until(lambda: fake.gateway.connected)
            await fake.press(fake.conversation(general)[0], ada, "Stop")
            (sent,) = fake.gateway.sessions
            assert "INTERACTION_CREATE" not in [frame["t"] for frame in sent.frames]
        assert endpoint.payloads[-1]["type"] == 3
