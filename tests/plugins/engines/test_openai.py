"""What only engine ``openai`` does: several servers, their faults, and what is asked of them."""

import asyncio
import logging
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from tests.chaos.proxy import Disconnect, FaultProxy
from tests.plugins.engines.fault_injecting_server import (
    STREAM_END,
    VLLM_CARD,
    FaultInjectingServer,
    Handler,
    drop_connection,
    fault_injecting_servers,
    hang,
    respond_error,
    send_bytes,
    send_redirect,
    send_stream,
    send_whole,
    sse_event,
    text_chunk,
)
from tests.plugins.engines.models import ENDLESS_PROMPT
from tests.plugins.engines.serving import VllmServer, build_openai, shared_server
from tests.plugins.engines.support import IDLE, TextCollector, request, wait_until

from palaver.config.settings import Secret
from palaver.engine import ChatMessage, Choice, EngineStats, JsonSchema
from palaver.errors import (
    ConfigurationError,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    InvalidInput,
    Overloaded,
    PalaverError,
    PromptTooLong,
    Unsupported,
    describe_error,
)
from palaver_plugins.engines.openai import OpenAIEngine, OpenAISettings

pytestmark = pytest.mark.slow

HELLO = send_stream(text_chunk("Hel"), text_chunk("lo"))
SCHEMA = JsonSchema({"type": "object"})


async def started(*servers: FaultInjectingServer, **settings: object) -> OpenAIEngine:
    engine = build_openai(*(server.url for server in servers), **settings)
    await engine.start()
    return engine


@asynccontextmanager
async def started_engine(*urls: str) -> AsyncIterator[OpenAIEngine]:
    engine = build_openai(*urls)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def outcome(handler: Handler, **options: object) -> PalaverError:
    """Return the error of a generation at ``handler``."""
    async with fault_injecting_servers(handler) as (server,):
        engine = await started(server)
        try:
            with pytest.raises(PalaverError) as caught:
                await engine.generate(request("x", **options), TextCollector())
            return caught.value
        finally:
            await engine.close()


# One server


async def test_pieces_and_usage_arrive() -> None:
    async with fault_injecting_servers(HELLO) as (server,):
        engine, collector = await started(server), TextCollector()
        generation = await engine.generate(request("x"), collector)
        await engine.close()
    assert (generation.text, collector.pieces, generation.finish_reason) == (
        "Hello",
        ["Hel", "lo"],
        "stop",
    )
    assert (generation.usage.prompt_tokens, generation.usage.completion_tokens) == (7, 3)


async def test_chunks_may_end_anywhere_and_comments_are_skipped() -> None:
    text = (
        b": ping\r\n\r\n"
        + text_chunk("Grü").replace(b"\n", b"\r\n")
        + text_chunk("ße")
        + STREAM_END
    )
    cut = [text[place : place + 3] for place in range(0, len(text), 3)]
    async with fault_injecting_servers(send_stream(*cut, end=b"")) as (server,):
        engine = await started(server)
        assert (await engine.generate(request("x"), TextCollector())).text == "Grüße"
        await engine.close()


async def test_a_generic_server_gets_only_the_parameters_that_differ_from_the_defaults() -> None:
    async with fault_injecting_servers(HELLO) as (server,):
        engine = await started(server)
        await engine.generate(request("x", structure=SCHEMA, seed=3, stop=("z",)), TextCollector())
        await engine.close()
    (body,) = server.bodies
    assert body.keys() == {
        *("messages", "model", "stream", "stream_options", "max_tokens", "temperature", "top_p"),
        *("seed", "stop", "response_format"),
    }
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA.schema


async def test_a_generic_server_gets_no_limit_that_its_context_could_not_hold() -> None:
    for max_tokens, sent in ((8192, None), (9000, None), (8191, 8191)):
        async with fault_injecting_servers(HELLO) as (server,):
            engine = await started(server)
            await engine.generate(request("x", max_tokens=max_tokens), TextCollector())
            await engine.close()
        assert server.bodies[-1].get("max_tokens") == sent


async def test_a_generic_server_gets_penalties_and_any_object() -> None:
    async with fault_injecting_servers(HELLO) as (server,):
        engine = await started(server)
        any_object = JsonSchema({"type": "object"})
        await engine.generate(
            request("x", structure=any_object, presence_penalty=0.5, frequency_penalty=-1.0),
            TextCollector(),
        )
        await engine.close()
    (body,) = server.bodies
    assert body["response_format"]["json_schema"]["strict"] is False
    assert (body["presence_penalty"], body["frequency_penalty"]) == (0.5, -1.0)


async def test_vllm_gets_tenant_priority_and_structure() -> None:
    async with fault_injecting_servers(HELLO, card=VLLM_CARD) as (server,):
        engine = await started(server)
        await engine.generate(request("x", structure=Choice(("a",)), priority=2), TextCollector())
        await engine.close()
    (body,) = server.bodies
    assert body["structured_outputs"] == {"choice": ["a"]}
    assert (body["priority"], body["cache_salt"], body["top_k"]) == (2, "tests", 0)


async def test_a_generic_server_cannot_continue() -> None:
    async with fault_injecting_servers(HELLO) as (server,):
        engine = await started(server)
        with pytest.raises(Unsupported):
            await engine.generate(request("x", partial="He"), TextCollector())
        await engine.close()
    assert not server.bodies


async def test_settings_override_what_the_server_declares() -> None:
    async with fault_injecting_servers(HELLO) as (server,):
        engine = build_openai(server.url, capabilities=["generate"], context_window=77)
        engine_info = await engine.start()
        await engine.close()
    assert engine_info.capabilities == frozenset({"generate"})
    assert engine_info.context_window == 77


async def test_the_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "s3cret")
    async with fault_injecting_servers(HELLO) as (server,):
        engine = await started(server, api_key=Secret("env:THE_KEY"))
        await engine.generate(request("x"), TextCollector())
        await engine.close()
    assert server.keys == ["Bearer s3cret"]


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk\r\nX-Other: 1", "sk\x7f"])
async def test_a_key_that_no_header_can_carry_is_refused(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("ENGINE_KEY", key)
    async with fault_injecting_servers(HELLO) as (server,):
        engine = build_openai(server.url, api_key=Secret("env:ENGINE_KEY"))
        with pytest.raises(
            ConfigurationError, match="env:ENGINE_KEY holds several lines"
        ) as refused:
            await engine.start()
    assert "sk" not in str(refused.value)


async def test_tokens_are_counted_by_the_usage_of_a_generic_server() -> None:
    usage = {"usage": {"prompt_tokens": 5, "completion_tokens": 1}}
    async with fault_injecting_servers(respond_error(200, usage)) as (server,):
        engine = await started(server)
        assert await engine.count_tokens([ChatMessage("user", "x")]) == 5
        await engine.close()


async def test_vectors_have_unit_length_and_the_texts_order() -> None:
    async with fault_injecting_servers(HELLO) as (server,):
        engine = await started(server, embedding_model="e")
        vectors = await engine.embed(["four", "x"])
        await engine.close()
    assert vectors == [pytest.approx([0.6, 0.8]), pytest.approx([3 / 10**0.5, 1 / 10**0.5])]


async def test_a_short_text_that_is_refused_is_not_cut() -> None:
    async with fault_injecting_servers(HELLO) as (server,):
        engine = await started(server, embedding_model="no such model")
        with pytest.raises(InvalidInput):
            await engine.embed(["four"])
        await engine.close()


async def test_a_cancelled_generation_closes_its_connection() -> None:
    async with fault_injecting_servers(hang(text_chunk("Hel"))) as (server,):
        engine, collector = await started(server), TextCollector()
        task = asyncio.create_task(engine.generate(request("x"), collector))
        await asyncio.wait_for(collector.first.wait(), 5)
        assert await engine.stats() == EngineStats(running=1, waiting=0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.client_disconnected.wait(), 5)
        assert await engine.stats() == EngineStats(running=0, waiting=0)
        await engine.close()


# Faults


@pytest.mark.parametrize(
    ("handler", "expected", "match"),
    [
        (send_stream(b"data: {nonsense\n\n"), EngineUnavailable, "not a chat completion"),
        (send_stream(b"data: [1]\n\n"), EngineUnavailable, "not a chat completion"),
        (send_stream(b"data: " + b"x" * (17 << 20)), EngineUnavailable, "longer than"),
        (send_stream(text_chunk("Hel"), end=b""), EngineUnavailable, "before the reply's end"),
        (
            send_whole(b'{"choices": "' + b"x" * (65 << 20) + b'"}'),
            EngineUnavailable,
            "is longer than 67_108_864 bytes",
        ),
        (send_redirect(), EngineError, "HTTP 307: redirects are not followed"),
        (drop_connection(), EngineUnavailable, "127.0.0.1"),
        (drop_connection(text_chunk("Hel")), EngineUnavailable, "127.0.0.1"),
        (respond_error(500, {"error": {"message": "ouch"}}), EngineUnavailable, "ouch"),
        (respond_error(429, {"error": "quota"}, Retry_After="7"), Overloaded, "quota"),
        (respond_error(503, {}), Overloaded, "503"),
        (respond_error(401, {"error": {"message": "who?"}}), EngineError, "engine.openai.api_key"),
        (respond_error(403, {}), EngineError, "engine.openai.api_key"),
        (
            respond_error(404, {"error": {"message": "no model m"}}),
            EngineError,
            "engine.openai.model",
        ),
        (respond_error(400, {"error": {"message": "bad seed"}}), InvalidInput, "bad seed"),
        (respond_error(422, {"detail": "bad seed"}), InvalidInput, "bad seed"),
        (
            respond_error(400, {"error": {"message": "This model's maximum context length is 9"}}),
            PromptTooLong,
            "maximum context length",
        ),
        (
            respond_error(400, {"error": {"code": "context_length_exceeded"}}),
            PromptTooLong,
            "context",
        ),
        (
            respond_error(
                400, [{"error": {"message": "exceeds the maximum number of tokens allowed"}}]
            ),
            PromptTooLong,
            "exceeds",
        ),
        (
            respond_error(400, {"error": {"message": "prompt is too long: 9 tokens > 8 maximum"}}),
            PromptTooLong,
            "9 tokens",
        ),
        (
            respond_error(422, {"error": "`inputs` tokens + `max_new_tokens` must be <= 20"}),
            PromptTooLong,
            "inputs",
        ),
        (respond_error(413, {"error": {"message": "tokens per minute"}}), InvalidInput, "minute"),
        (respond_error(418, {}), EngineError, "418"),
        (send_stream(sse_event({"error": {"message": "bad", "code": 400}})), InvalidInput, "bad"),
        (
            send_stream(sse_event({"error": {"message": "ouch", "code": 500}})),
            EngineUnavailable,
            "ouch",
        ),
        (send_stream(sse_event({"error": "ouch"})), EngineUnavailable, "ouch"),
        (
            send_stream(text_chunk("", finish_reason="abort")),
            EngineUnavailable,
            "aborted the generation",
        ),
    ],
)
async def test_a_fault_is_named(handler: Handler, expected: type[PalaverError], match: str) -> None:
    error = await outcome(handler)
    assert type(error) is expected
    assert match in str(error)


async def test_the_password_of_a_url_is_used_but_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with fault_injecting_servers(respond_error(500, {})) as (server,):
        engine = build_openai(server.url.replace("//", "//user:hunter2@"))
        await engine.start()
        with pytest.raises(EngineUnavailable) as failed:
            await engine.generate(request("x"), TextCollector())
        await engine.close()
    assert server.keys[-1] is not None
    assert b64decode(server.keys[-1].removeprefix("Basic ")) == b"user:hunter2"
    with pytest.raises(EngineUnavailable) as missing:
        await build_openai("http://user:hunter2@127.0.0.1:1/v1").start()
    assert "hunter2" not in f"{failed.value} {missing.value} {caplog.text}"


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("9" * 400, 3600), ("soon", 1)])
async def test_retry_after_is_kept(header: str, seconds: float) -> None:
    error = await outcome(respond_error(429, {}, Retry_After=header))
    assert error.retry_after == seconds


WORD = "qxjzvikku"
DEEP = b'{"error":' * 5000


@pytest.mark.parametrize(
    "handler",
    [
        send_stream(b"data: " + DEEP + b"\n\n"),
        respond_error(400, {"error": WORD}),
        respond_error(302, {}, Location=f"http://[{WORD}/"),
        send_bytes(b"HTTP/1.1 500 X\r\n\r\n" + DEEP + WORD.encode()),
        send_bytes(f"HTTP/1.1 {WORD} {WORD}\r\n\r\n".encode()),
        send_bytes(f"{WORD}\r\n\r\n".encode()),
        send_bytes(f"HTTP/1.1 200 OK\r\n{WORD}\r\n\r\n".encode()),
        send_bytes(f"HTTP/1.1 200 OK\r\nContent-Length: {WORD}\r\n\r\n".encode()),
    ],
)
async def test_what_a_server_answers_is_an_error_that_quotes_nothing(handler: Handler) -> None:
    error = await outcome(handler)
    assert isinstance(error, EngineError | InvalidInput), repr(error)
    assert WORD not in describe_error(error)


async def test_a_server_that_hangs_ends_in_a_timeout() -> None:
    assert type(await outcome(hang(), timeout=0.2)) is EngineTimeout
    assert type(await outcome(hang(text_chunk("x")), timeout=0.2)) is EngineTimeout


async def test_a_server_that_sends_nothing_fails_after_the_read_timeout() -> None:
    async with fault_injecting_servers(hang(text_chunk("x"))) as (server,):
        engine = await started(server, read_timeout=0.2)
        with pytest.raises(EngineUnavailable, match="Timeout"):
            await engine.generate(request("x"), TextCollector())
        await engine.close()


async def test_a_failing_callback_is_no_failure_of_the_server() -> None:
    def fail(piece: str) -> None:
        raise ConnectionResetError("the callback's")

    async with fault_injecting_servers(HELLO, HELLO) as servers:
        engine = await started(*servers)
        with pytest.raises(ConnectionResetError, match="the callback's"):
            await engine.generate(request("x"), fail)
        await engine.close()
    assert sum(len(server.bodies) for server in servers) == 1


async def test_an_unknown_model_is_answered_with_those_there_are() -> None:
    async with fault_injecting_servers(HELLO) as (server,):
        engine = build_openai(server.url, model="nothing")
        with pytest.raises(ConfigurationError, match=r"'nothing'; it has: walker"):
            await engine.start()


@pytest.mark.parametrize(
    ("listed", "context_window"),
    [
        ({"object": "list", "data": [{"id": "walker"}]}, 8192),
        ([{"id": "walker", "owned_by": None, "max_model_len": None}], 8192),
        (
            {"data": [None, {"id": 3}, {"id": "walker", "owned_by": {}, "max_model_len": 300.0}]},
            300,
        ),
        ({"data": [{"id": "walker", "max_model_len": "many", "context_length": 400}]}, 400),
        ({"data": [{"id": "walker", "context_window": 500, "parent": 5}]}, 500),
        ({"data": [{"id": "walker", "context_length": -1, "context_window": 1e300}]}, 8192),
    ],
)
async def test_any_list_of_models_is_read(listed: object, context_window: int) -> None:
    async with fault_injecting_servers(HELLO) as (server,):
        server.listed = listed
        for settings in ({}, {"model": "walker"}):
            engine = build_openai(server.url, **settings)
            info = await engine.start()
            await engine.close()
            assert (info.model, info.context_window) == ("walker", context_window)


@pytest.mark.parametrize(
    ("listed", "status"), [(None, 404), ({"detail": "no"}, 405), ({"data": None}, 200), ([], 200)]
)
async def test_a_server_without_a_list_of_models_needs_the_model(
    listed: object, status: int
) -> None:
    async with fault_injecting_servers(HELLO) as (server,):
        server.listed, server.list_status = listed, status
        engine = build_openai(server.url, model="walker")
        assert (await engine.start()).model == "walker"
        assert (await engine.generate(request("x"), TextCollector())).text == "Hello"
        await engine.close()
        with pytest.raises(ConfigurationError, match=r"lists no model; set engine\.openai\.model"):
            await build_openai(server.url).start()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    engine = build_openai("unix:///nonexistent/palaver.sock")
    with pytest.raises(EngineUnavailable, match="nonexistent"):
        await engine.start()


@pytest.mark.parametrize(
    "url",
    ["ftp://x/v1", "unix://", "8000", "http://", "http://x:port/v1", "http://x:0", "http:/x/v1",
     "http://.", "http://a..b/v1", "http://h\\v1", "http://-/v1", "http://a-:80", "http://x%20y",
     "unix://x/y", "https://x/v1?version=1", "https://x/v1#a", "https://[::1/v1", "localhost:8000"],
)  # fmt: skip
def test_a_senseless_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"unix:///path\.sock"):
        OpenAISettings(urls=(url,))


@pytest.mark.parametrize(
    "url",
    ["http://a_b-c.example.:80/v1", "http://[::1]:80/v1", "http://[fe80::1%25eth0]/v1",
     "https://bücher.example", "HTTP://10.0.0.1", "http://u:p%40@h/v1", "unix:///run/x.sock"],
)  # fmt: skip
def test_a_usual_url_is_taken(url: str) -> None:
    assert OpenAISettings(urls=(url,)).urls == (url,)


def test_urls_may_be_one_string() -> None:
    settings = OpenAISettings.model_validate({"urls": "http://a/v1, http://b/v1"})
    assert settings.urls == ("http://a/v1", "http://b/v1")


# Several servers


@pytest.mark.parametrize(
    "first",
    [
        drop_connection(),
        respond_error(500, {}),
        respond_error(503, {}),
        send_stream(b"data: {nonsense\n\n"),
    ],
)
async def test_another_server_answers_after_a_failure_before_the_first_piece(
    first: Handler,
) -> None:
    async with fault_injecting_servers(first, HELLO) as servers:
        engine = await started(*servers)
        for number in range(12):  # whichever comes first
            generation = await engine.generate(request(f"prompt {number}"), TextCollector())
            assert generation.text == "Hello"
        await engine.close()


async def test_a_failed_server_gets_no_requests_during_its_cooldown() -> None:
    async with fault_injecting_servers(drop_connection(), HELLO) as (broken, other):
        engine = await started(broken, other)
        for number in range(12):
            await engine.generate(request(f"prompt {number}"), TextCollector())
        await engine.close()
    assert len(broken.bodies) <= 3


async def test_requests_lost_in_one_failure_count_as_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with fault_injecting_servers(drop_connection(text_chunk("x"))) as (server,):
        engine = await started(server)
        tasks = (engine.generate(request("same"), TextCollector()) for _ in range(8))
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        await engine.close()
    assert {type(end) for end in ends} == {EngineUnavailable}
    assert caplog.text.count("cooldown") == 1


async def test_a_structure_starts_over_at_another_server() -> None:
    async with fault_injecting_servers(
        drop_connection(text_chunk("re")), send_stream(text_chunk("red")), card=VLLM_CARD
    ) as servers:
        engine, collectors = await started(*servers), []
        for number in range(20):
            collectors.append(TextCollector())
            asked = request(f"{number}", structure=Choice(("red", "green")))
            assert (await engine.generate(asked, collectors[-1])).text == "red"
        await engine.close()
    assert servers[0].bodies, "it got a request and dropped the connection"
    assert {tuple(collector.pieces) for collector in collectors} == {("red",)}


async def test_a_server_that_hangs_gets_no_second_request() -> None:
    async with fault_injecting_servers(hang(), HELLO) as (hung, other):
        engine = await started(hung, other)
        for number in range(12):
            try:
                await engine.generate(request(f"prompt {number}", timeout=0.2), TextCollector())
            except EngineTimeout:
                continue
        await engine.close()
    assert len(hung.bodies) <= 3
    assert len(other.bodies) >= 9


async def test_an_overloaded_server_is_not_called_broken() -> None:
    async with fault_injecting_servers(respond_error(503, {})) as (server,):
        engine = await started(server)
        for _ in range(2):
            with pytest.raises(Overloaded):
                await engine.generate(request("x"), TextCollector())
        await engine.close()
    assert len(server.bodies) == 2


async def test_a_reply_continues_at_another_server() -> None:
    first, second = drop_connection(text_chunk("Hel")), send_stream(text_chunk("lo"))
    async with fault_injecting_servers(first, second, card=VLLM_CARD) as servers:
        engine, collector = build_openai(*(server.url for server in servers)), TextCollector()
        await engine.start()
        for number in range(20):
            generation = await engine.generate(request(f"{number}", max_tokens=9), collector)
            if servers[0].bodies:
                break
        await engine.close()
    assert generation.text == "Hello"
    body = servers[1].bodies[-1]
    assert body["messages"][-1] == {"role": "assistant", "content": "Hel"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["max_tokens"] == 8, "the partial reply is counted"
    assert generation.usage.completion_tokens == 4


async def test_a_reply_of_a_generic_server_cannot_continue() -> None:
    async with fault_injecting_servers(
        drop_connection(text_chunk("Hel")), drop_connection(text_chunk("Hel"))
    ) as servers:
        engine, collector = await started(*servers), TextCollector()
        with pytest.raises(EngineUnavailable):
            await engine.generate(request("x"), collector)
        await engine.close()
    assert collector.pieces == ["Hel"]


async def test_the_same_beginning_goes_to_the_same_server_unless_it_is_busy() -> None:
    async with fault_injecting_servers(hang(text_chunk("x")), hang(text_chunk("x"))) as servers:
        engine = await started(*servers)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(engine.generate(request("same"), TextCollector()))
                for _ in range(12)
            ]

            async def all_asked() -> bool:
                return sum(len(server.bodies) for server in servers) == 12

            await wait_until(all_asked)
            for task in tasks:
                task.cancel()
        await engine.close()
    few, many = sorted(len(server.bodies) for server in servers)
    assert few >= 4
    assert many > 4


async def test_a_missing_server_does_not_affect_the_others() -> None:
    async with fault_injecting_servers(HELLO) as (server,):
        engine = build_openai("unix:///nonexistent/palaver.sock", server.url)
        await engine.start()
        assert (await engine.generate(request("x"), TextCollector())).text == "Hello"
        await engine.close()


# vllm serve


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(model: Path) -> AsyncIterator[tuple[VllmServer, VllmServer]]:
    """Start a server on a TCP port, which a test may kill, and one on a unix socket."""
    stable, killable = shared_server(model), VllmServer(model, unix=False)
    try:
        await asyncio.gather(stable.wait_until_ready(), killable.wait_until_ready())
        yield killable, stable
    finally:
        killable.kill()


INTERRUPTED_BYTES = 10_000
"""Bytes of a response that arrive before its server is killed: a few of its 300 tokens."""


@pytest.mark.vllm
@pytest.mark.live
@pytest.mark.asyncio(loop_scope="module")
async def test_replies_survive_the_crash_of_a_server(pair: tuple[VllmServer, VllmServer]) -> None:
    killable, stable = pair
    prompts = [f"{ENDLESS_PROMPT}, part {number}" for number in range(8)]
    requests = [request(prompt, max_tokens=300) for prompt in prompts]
    async with started_engine(stable.url) as engine:
        whole = [(await engine.generate(it, TextCollector())).text for it in requests]
    collectors = [TextCollector() for _ in prompts]
    interrupted: list[bytes] = []

    def crash(disconnect: Disconnect, passed: bytes, rest: bytes) -> None:
        interrupted.append(passed)
        killable.kill()

    # The proxy passes the beginning of each response, however fast the server has written it.
    async with (
        FaultProxy(
            killable.url, plan=lambda: Disconnect(INTERRUPTED_BYTES), on_disconnect=crash
        ) as proxy,
        started_engine(proxy.address, stable.url) as engine,
    ):
        generations = await asyncio.gather(*map(engine.generate, requests, collectors))
        assert any(passed.count(b'"content"') > 5 for passed in interrupted)
        assert [collector.text for collector in collectors] == [it.text for it in generations]
        assert [it.text for it in generations] == whole
        assert {it.finish_reason for it in generations} == {"length"}
        assert all(296 <= it.usage.completion_tokens <= 304 for it in generations)

        async def is_idle() -> bool:
            return await engine.stats() == IDLE

        await wait_until(is_idle)


@pytest.mark.vllm
@pytest.mark.live
@pytest.mark.asyncio(loop_scope="module")
async def test_a_frozen_server_ends_in_a_timeout(
    pair: tuple[VllmServer, VllmServer],
) -> None:
    _, stable = pair
    engine = build_openai(stable.url)
    await engine.start()
    try:
        stable.set_frozen(frozen=True)
        with pytest.raises(EngineTimeout):
            await asyncio.wait_for(
                engine.generate(request(ENDLESS_PROMPT, timeout=0.3), TextCollector()), 5
            )
    finally:
        stable.set_frozen(frozen=False)
        await engine.close()
