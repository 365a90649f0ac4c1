"""Responses of the OpenAI channel: models, reasons, errors, comments and annotations."""

import asyncio
import io
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from tests.plugins.channels.openai_support import (
    MODEL,
    NamedEngine,
    ask,
    assistant,
    message,
    open_openai_server,
    seen,
    user,
)
from tests.server.web.live_server import LiveServer, eventually, open_live_server

from palaver import (
    ChatMessage,
    EngineRefused,
    EngineTimeout,
    PalaverError,
    PromptTooLong,
    Sampling,
    Skill,
    ToolDefinition,
    Turn,
)
from palaver.config.settings import AdmissionSettings, AuthKey, DispatchSettings, Secret
from palaver.messages import Citation
from palaver.testing import ScriptedReply
from palaver_plugins.channels.openai_api import OpenAIChannel
from palaver_plugins.channels.openai_api.chat_response import COMMENT_INTERVAL, annotations

pytestmark = pytest.mark.slow

COMPLETIONS = "/v1/chat/completions"
LONG = "one two three four five six"


class Brief(Skill):
    """Let the model say three words."""

    name = "brief"

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text, sampling=Sampling(max_tokens=3))


async def test_a_cut_reply_says_so() -> None:
    engine = NamedEngine(lambda request: LONG)
    async with open_openai_server(engine=engine, skills=(Brief(),)) as (_, client):
        for model, fields, reason in (
            ("brief", {}, "length"),
            (MODEL, {"max_tokens": 2}, "length"),
            (MODEL, {"max_completion_tokens": 6}, "stop"),
            (MODEL, {"stop": ["three"]}, "stop"),
            ("parrot", {}, "stop"),
        ):
            answer = await ask(client, user("go"), model=model, **fields)
            assert answer.choices[0].finish_reason == reason
            stream = await ask(client, user("go"), model=model, stream=True, **fields)
            reasons = [chunk.choices[0].finish_reason async for chunk in stream]
            assert reasons[-1] == reason
            assert set(reasons[:-1]) == {None}


async def test_every_chunk_names_what_answers() -> None:
    async with open_openai_server(lambda request: "hi there") as (_, client):
        for asked, answering in (("auto", "parrot"), ("talker", "talker"), (MODEL, MODEL)):
            stream = await ask(client, user("hello you"), model=asked, stream=True)
            chunks = [chunk async for chunk in stream]
            assert {chunk.model for chunk in chunks} == {answering}
            assert chunks[0].choices[0].delta.role == "assistant"
            assert len({chunk.id for chunk in chunks}) == 1
            answer = await ask(client, user("hello you"), model=asked)
            assert answer.model == answering


async def test_usage_comes_in_a_chunk_of_its_own() -> None:
    async with open_openai_server(lambda request: LONG) as (live_server, client):
        stream = await ask(
            client, user("go"), model=MODEL, stream=True, stream_options={"include_usage": True}
        )
        *chunks, last = [chunk async for chunk in stream]
        assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
        assert last.choices == []
        assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 6)
        assert last.usage.total_tokens == 9
        body = {"model": MODEL, "messages": [user("go")], "stream": True}
        text = await read_stream(live_server, body)
        assert "usage" not in text


async def read_stream(live_server: LiveServer, body: Any) -> str:
    async with live_server.session.post(live_server.url(COMPLETIONS), json=body) as response:
        assert response.status == 200
        return await response.text()


# A prompt that is too long


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_too_long_is_refused_before_the_stream(stream: bool) -> None:
    engine = NamedEngine(lambda request: "hi", context_window=200)
    async with open_openai_server(engine=engine) as (live_server, client):
        for text in ("word " * 300, "word " * 20_000):
            for model in ("talker", MODEL):
                with pytest.raises(openai.BadRequestError) as refused:
                    await ask(client, user(text), model=model, stream=stream)
                assert refused.value.code == "context_length_exceeded"
                assert refused.value.param == "messages"
                assert refused.value.type == "invalid_request_error"
        assert engine.requests == []
        exposition = live_server.server.metrics.exposition()
        assert b'palaver_limits_total{limit="prompt"} 4.0' in exposition


async def test_an_old_message_that_is_too_long_counts_for_the_engine_only() -> None:
    engine = NamedEngine(lambda request: "hi", context_window=200)
    sent = (user("word " * 300), assistant("ok"), user("go"))
    async with open_openai_server(engine=engine) as (_, client):
        assert (await ask(client, *sent, model="talker")).choices[0].message.content == "hi"
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(client, *sent, model=MODEL, stream=True)
        assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_only_the_upstream_server_refuses(stream: bool) -> None:
    engine = NamedEngine(ScriptedReply(text="", error=PromptTooLong("HTTP 400 of 10.0.0.7")))
    async with open_openai_server(engine=engine) as (_, client):
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(client, user("go"), model=MODEL, stream=stream)
        assert refused.value.code == "context_length_exceeded"
        assert "10.0.0.7" not in str(refused.value)


class SlowEngine(NamedEngine):
    """An engine that counts slowly or fails at first, and generates only after `resume`."""

    def __init__(self, *, count_error: PalaverError | None = None, **about: Any) -> None:
        super().__init__(lambda request: ScriptedReply(text="hi", pause_after=0), **about)
        self._count_errors = [count_error] if count_error else []

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        if self._count_errors:
            raise self._count_errors.pop()
        if len(messages[-1].content) > 100:
            await asyncio.sleep(1.5 * COMMENT_INTERVAL)
        return await super().count_tokens(messages, tools)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_is_counted_before_its_turn_waits(stream: bool) -> None:
    """The status is the error's even where counting is slow and no turn runs."""
    engine = SlowEngine(context_window=200)
    dispatch = DispatchSettings(max_running=1)
    async with open_openai_server(engine=engine, dispatch=dispatch) as (live_server, client):
        running = await ask(client, user("go"), model=MODEL, stream=True)
        for messages in (
            [user("word " * 300)],
            [user("word " * 300), assistant("ok"), user("go")],
            [message("system", "word " * 300), user("go")],
            [user([{"type": "text", "text": "word " * 150}] * 2)],
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                await ask(client, *messages, model=MODEL, stream=stream)
            assert refused.value.code == "context_length_exceeded"
            assert "maximum context length is" in refused.value.message
        metrics = live_server.server.metrics
        assert b'palaver_limits_total{limit="prompt"} 4.0' in metrics.exposition()
        engine.resume()
        assert "".join([c.choices[0].delta.content or "" async for c in running]) == "hi"
        await eventually(lambda: b"palaver_turns_here 0.0" in metrics.exposition())


async def test_a_refused_prompt_can_be_repeated_under_its_key() -> None:
    engine = NamedEngine(lambda request: "hi", context_window=200)
    headers = {"Idempotency-Key": "k"}
    async with open_openai_server(engine=engine) as (_, client):
        for _ in range(2):
            with pytest.raises(openai.BadRequestError) as refused:
                await ask(client, user("word " * 300), model=MODEL, extra_headers=headers)
            assert refused.value.code == "context_length_exceeded"
        answer = await ask(client, user("go"), model=MODEL, extra_headers=headers)
        assert answer.choices[0].message.content == "hi"


async def test_an_engine_that_cannot_count_generates() -> None:
    for error in (EngineRefused("no such route"), EngineTimeout("too slow")):
        engine = SlowEngine(context_window=90, count_error=error)
        engine.resume()
        async with open_openai_server(engine=engine) as (_, client):
            answer = await ask(client, user("word " * 20), model=MODEL)
            assert answer.choices[0].message.content == "hi"


# Texts that look like commands


async def test_a_text_that_begins_with_a_slash_is_a_text() -> None:
    async with open_openai_server() as (_, client):
        for text in ("/usr is full", "/usr", "/etc/hosts says", "/", "/nobody, help", "/tmp\nfull"):
            answer = await ask(client, user(text), model="auto")
            assert answer.model == "parrot"
            assert answer.choices[0].message.content.strip() == text
            assert (await seen(client, user(text)))["message"] == text
        headers = {"X-Palaver-Thread": "t"}
        answer = await ask(client, user("/usr is full"), model="auto", extra_headers=headers)
        assert answer.choices[0].message.content == "/usr is full "
        shown = await ask(client, user("/seen x"), model="auto")
        assert shown.model == "seen"


async def test_an_unknown_command_of_a_person_is_still_told() -> None:
    async with open_openai_server() as (live_server, _):
        path = "/v1/conversations/t/messages?wait=true"
        _, answer = await live_server.post(path, {"text": "/usr is full"})
        assert answer["problem"]["code"] == "not_found"


# Silence


async def test_a_silent_stream_has_comments_and_is_not_buffered() -> None:
    body = {"model": "scripted", "messages": [user("go")], "stream": True}
    async with open_openai_server() as (live_server, _):
        async with live_server.session.post(live_server.url(COMPLETIONS), json=body) as response:
            assert response.headers["X-Accel-Buffering"] == "no"
            assert response.content_type == "text/event-stream"
            async with asyncio.timeout(5):
                while not (await response.content.readline()).startswith(b":"):
                    pass
            live_server.scripted.emit("at last")
            assert b"at last" in await response.read()
        async with live_server.session.get(
            live_server.url("/v1/conversations/t/events?until=finished")
        ) as events:
            assert events.headers["X-Accel-Buffering"] == "no"


async def test_a_failure_after_silence_is_an_error_in_the_stream() -> None:
    class Slow(Skill):
        """Fail when told to."""

        name = "slow"
        told = asyncio.Event()

        async def answer(self, turn: Turn) -> None:
            await self.told.wait()
            raise PromptTooLong("far too long")

    body = {"model": "slow", "messages": [user("go")], "stream": True}
    async with (
        open_openai_server(skills=(Slow(),)) as (live_server, _),
        live_server.session.post(live_server.url(COMPLETIONS), json=body) as response,
    ):
        assert response.status == 200
        Slow.told.set()
        text = await response.text()
        assert '"code":"context_length_exceeded"' in text
        assert "[DONE]" not in text


async def test_a_client_of_the_engine_that_disconnects_frees_it() -> None:
    engine = NamedEngine(ScriptedReply(text=LONG, pause_after=2))
    async with open_openai_server(engine=engine) as (live_server, client):
        stream = await ask(client, user("go"), model=MODEL, stream=True)
        async for chunk in stream:
            if "two" in (chunk.choices[0].delta.content or ""):
                break
        await stream.close()

        async def is_idle() -> bool:
            return (await engine.stats()).running == 0

        await eventually(is_idle)
        exposition = live_server.server.metrics.exposition
        await eventually(lambda: b'outcome="stopped",skill="@engine"' in exposition())


# Sources


async def test_citations_are_annotations() -> None:
    async with open_openai_server() as (_, client):
        answer = await ask(client, user("leave?"), model="scholar")
        text = answer.choices[0].message.content
        (note,) = answer.choices[0].message.annotations
        assert note.type == "url_citation"
        source = note.url_citation
        assert (source.title, source.url) == ("The Handbook", "handbook.md")
        assert text[source.start_index : source.end_index] == "[1]"
        stream = await ask(client, user("leave?"), model="scholar", stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
        assert deltas[-1].annotations[0]["url_citation"]["title"] == "The Handbook"
        plain = await ask(client, user("hi"), model="parrot")
        assert plain.choices[0].message.annotations is None


def test_each_mark_is_an_annotation_and_no_folder_of_the_server_is_told() -> None:
    found = annotations(
        "b [2] a [1], [1] 😀",
        [
            Citation(number=1, document="/srv/docs/a.md", title="A", passage="x"),
            Citation(number=2, document="https://example.org/b?x=1", title="B", passage="x"),
            Citation(number=3, document="c:\\docs\\c.md", title="C", passage="x"),
        ],
    )
    sources = [note["url_citation"] for note in found]
    assert [(s["title"], s["url"], s["start_index"], s["end_index"]) for s in sources] == [
        ("B", "https://example.org/b?x=1", 2, 5),
        ("A", "a.md", 8, 11),
        ("A", "a.md", 13, 16),
        ("C", "c.md", 18, 18),
    ]


# Errors


async def test_errors_have_openais_types_and_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_KEY", "a secret key of ada")
    keys = {"ada": AuthKey(secret=Secret("env:OPENAI_KEY"), rights=("read",))}
    async with open_live_server(keys=keys, channels=(OpenAIChannel(),)) as live_server:
        body = {"model": "auto", "messages": [user("x")]}
        status, answer = await live_server.post(COMPLETIONS, body)
        assert (status, answer["error"]["code"]) == (401, "unauthenticated")
        headers = {"Authorization": "Bearer a secret key of ada"}
        status, answer = await live_server.post(COMPLETIONS, body, headers=headers)
        assert (status, answer["error"]["type"]) == (403, "invalid_request_error")


async def test_what_cannot_be_read_is_told_in_openais_form() -> None:
    async with open_openai_server() as (live_server, _):
        for data, status, param in (
            (b"{", 400, None),
            (b"\xff", 400, None),
            (b"[]", 400, None),
            (b'{"messages":[]}', 400, "model"),
            (b'{"model":"auto","messages":[]}', 400, "messages"),
            (b'{"model":"auto","messages":{}}', 400, "messages"),
            (b'{"model":null,"messages":[]}', 400, "model"),
            (b'{"model":"auto","messages":[{"role":"x"}]}', 400, "messages[0].role"),
            (b'{"model":"auto","messages":[{"content":"x"}]}', 400, "messages[0].role"),
            (b'{"model":"nobody","messages":[{"role":"user"}]}', 404, "model"),
            (b'{"model":"auto","messages":"' + b"x" * 1_100_000 + b'"}', 413, None),
        ):
            found, answer = await live_server.post(COMPLETIONS, data=io.BytesIO(data))
            error = answer["error"]
            assert (data[:60], found, error["param"]) == (data[:60], status, param)
            assert error["type"] == "invalid_request_error"
            assert set(error) == {"message", "type", "param", "code"}


async def test_a_refusal_has_openais_code() -> None:
    admission = AdmissionSettings.model_validate({"person": {"messages_per_minute": 1}})
    async with open_openai_server(admission=admission) as (_, client):
        await ask(client, user("x"), model="parrot")
        with pytest.raises(openai.RateLimitError) as refused:
            await ask(client, user("x"), model="parrot")
        assert refused.value.code == "rate_limit_exceeded"


async def test_a_message_without_any_text_is_answered() -> None:
    async with open_openai_server("hello", "hello") as (_, client):
        for sent in ((user(""),), (message("system", ""), user([]))):
            answer = await ask(client, *sent, model=MODEL)
            assert answer.choices[0].message.content == "hello"


async def test_the_api_is_described_where_it_is_enabled() -> None:
    async with open_openai_server() as (live_server, _):
        _, document = await live_server.get("/openapi.json")
        complete = document["paths"][COMPLETIONS]["post"]
        assert complete["x-right"] == "talk"
        schemas = document["components"]["schemas"]
        assert {"temperature", "response_format", "n"} <= set(schemas["ChatRequest"]["properties"])
        assert "param" in schemas["OpenAIErrorDetail"]["properties"]
        assert "/v1/models/{model}" in document["paths"]
