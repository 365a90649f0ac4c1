"""The OpenAI-compatible channel, used with OpenAI's own client."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from tests.server.web.live_server import TIMEOUT_SECONDS, LiveServer, eventually, open_live_server

from palaver.config.settings import AdmissionSettings, AuthKey, DispatchSettings, Secret
from palaver.messages import Conversation
from palaver_plugins.channels.openai_api import OpenAIChannel, palaver_register_channels

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture
async def live_server() -> AsyncIterator[LiveServer]:
    async with open_live_server(channels=(OpenAIChannel(),)) as opened:
        yield opened


@pytest_asyncio.fixture
async def client(live_server: LiveServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=live_server.url("/v1"), api_key="none", max_retries=0, timeout=TIMEOUT_SECONDS
    ) as made:
        yield made


def user(text: str) -> Any:  # Any: one of the many message types of the client
    return {"role": "user", "content": text}


def test_it_is_registered_by_name() -> None:
    (backend,) = palaver_register_channels()
    assert backend.name == "openai_api"


async def test_skills_are_models(client: AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert names == ["auto", "clumsy", "parrot", "scholar", "scripted", "waiter"]
    assert (await client.models.retrieve("parrot")).owned_by == "palaver"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody")


async def test_a_completion_in_one_piece(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="auto", messages=[user("hello there")])
    assert answer.choices[0].message.content == "hello there "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "parrot"
    assert answer.usage is not None


async def test_a_completion_as_a_stream(live_server: LiveServer, client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="scripted",
        messages=[{"role": "system", "content": "x"}, user("go")],
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces: list[str] = []
    live_server.scripted.emit("naïve ", end=False)
    async for chunk in stream:
        if not chunk.choices:
            assert chunk.usage is not None
            continue
        pieces.append(chunk.choices[0].delta.content or "")
        if pieces[-1] == "naïve ":
            live_server.scripted.emit("😀")
    assert "".join(pieces) == "naïve 😀"


async def test_content_in_parts(client: AsyncOpenAI) -> None:
    parts: Any = [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]
    answer = await client.chat.completions.create(
        model="parrot", messages=[{"role": "user", "content": parts}]
    )
    assert answer.choices[0].message.content == "in parts "
    parts[0] = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    with pytest.raises(openai.BadRequestError, match="sees no images"):
        await client.chat.completions.create(
            model="parrot", messages=[{"role": "user", "content": parts}]
        )


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"model": "nobody", "messages": [user("x")]}, openai.NotFoundError),
        ({"model": "auto", "messages": []}, openai.BadRequestError),
        ({"model": "auto", "messages": [user("x")], "n": 2}, openai.BadRequestError),
        ({"model": "clumsy", "messages": [user("x")]}, openai.InternalServerError),
    ],
)
async def test_errors_have_openais_format(client: AsyncOpenAI, request_: Any, error: type) -> None:
    with pytest.raises(error) as raised:
        await client.chat.completions.create(**request_)
    assert "ValueError" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"person": {"turns": 1}}, openai.RateLimitError),
        ({"queue_tokens": 600}, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_has_retry_after_before_the_first_byte(
    settings: dict[str, Any], error: type[openai.APIStatusError], stream: bool
) -> None:
    admission = AdmissionSettings.model_validate(settings)
    async with open_live_server(channels=(OpenAIChannel(),), admission=admission) as live_server:
        assert (await live_server.post("/v1/conversations/t/messages", {"text": "/scripted x"}))[
            0
        ] == 202
        async with AsyncOpenAI(
            base_url=live_server.url("/v1"), api_key="none", max_retries=0
        ) as client:
            with pytest.raises(error) as refusal:
                await client.chat.completions.create(
                    model="parrot", messages=[user("hi")], stream=stream
                )
        headers = refusal.value.response.headers
        assert int(headers["Retry-After"]) >= 1
        assert 0 < int(headers["retry-after-ms"]) <= 1000 * int(headers["Retry-After"])


async def test_a_failure_in_the_middle_of_a_stream_is_an_error(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="clumsy", messages=[user("x")], stream=True)
    pieces: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            pieces.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 (it ends in an error)

    with pytest.raises(openai.APIError, match="could not finish"):
        await read()
    assert "".join(pieces) == "I will now "


async def test_a_named_thread_is_one_conversation(client: AsyncOpenAI) -> None:
    headers = {"X-Palaver-Thread": "kitchen"}
    asked = await client.chat.completions.create(
        model="waiter", messages=[user("please")], extra_headers=headers
    )
    assert asked.choices[0].message.content == "Tea or coffee?"
    answer = await client.chat.completions.create(
        model="auto", messages=[user("tea")], extra_headers=headers
    )
    assert "One tea, please." in str(answer.choices[0].message.content)


async def test_the_same_key_gets_the_same_reply(client: AsyncOpenAI) -> None:
    async def ask(text: str) -> Any:
        return await client.chat.completions.create(
            model="parrot", messages=[user(text)], extra_headers={"Idempotency-Key": "k"}
        )

    assert (await ask("once")).id == (await ask("once")).id
    with pytest.raises(openai.ConflictError):
        await ask("twice")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_disconnects_stops_its_turn(
    live_server: LiveServer, client: AsyncOpenAI, stream: bool
) -> None:
    asking = asyncio.create_task(
        client.chat.completions.create(
            model="scripted",
            messages=[user("go")],
            stream=stream,
            extra_headers={"X-Palaver-Thread": "t"},
        )
    )
    running = live_server.server.metrics
    await eventually(lambda: b"palaver_turns_here 1.0" in running.exposition())
    if stream:
        answer: Any = await asking
        await answer.close()
    else:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await eventually(lambda: b'outcome="stopped",skill="scripted"' in running.exposition())


async def test_a_client_that_disconnects_during_a_write_stops_its_turn() -> None:
    """The reply is larger than the socket buffers, so the server waits for the client to read."""
    dispatch = DispatchSettings(max_reply_characters=20_000_000)
    async with open_live_server(channels=(OpenAIChannel(),), dispatch=dispatch) as live_server:
        await check_disconnection_during_a_write(live_server)


async def check_disconnection_during_a_write(live_server: LiveServer) -> None:
    body = {"model": "scripted", "messages": [user("go")], "stream": True}
    headers = {"X-Palaver-Thread": "t"}
    url = live_server.url("/v1/chat/completions")
    where = Conversation("default", "openai_api", "t")

    async def said() -> int:
        return len((await live_server.server.snapshot(where)).pending[0].reply)

    async with live_server.session.post(url, json=body, headers=headers) as answer:
        assert answer.status == 200
        live_server.scripted.emit(*["x" * 1_000_000] * 12, end=False)

        async def all_said() -> bool:
            return await said() == 12_000_000

        await eventually(all_said)
        answer.close()
        live_server.scripted.emit("and on", end=False)
        exposition = live_server.server.metrics.exposition
        await eventually(lambda: b'outcome="stopped",skill="scripted"' in exposition())


async def test_the_servers_keys_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_TEST_KEY", "the secret key of ada")
    keys = {"ada": AuthKey(secret=Secret("env:OPENAI_TEST_KEY"), person="ada")}
    async with open_live_server(keys=keys, channels=(OpenAIChannel(),)) as live_server:
        for key, fine in (("wrong", False), ("the secret key of ada", True)):
            async with AsyncOpenAI(
                base_url=live_server.url("/v1"), api_key=key, max_retries=0
            ) as client:
                if fine:
                    await client.chat.completions.create(model="auto", messages=[user("x")])
                else:
                    with pytest.raises(openai.AuthenticationError):
                        await client.chat.completions.create(model="auto", messages=[user("x")])
