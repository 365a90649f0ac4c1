"""A streamed completion is read however a server writes it, and however it is cut."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plugins.engines.fault_injecting_server import (
    Handler,
    fault_injecting_servers,
    respond_error,
    send_stream,
    sse_event,
    text_chunk,
)
from tests.plugins.engines.serving import build_openai
from tests.plugins.engines.support import TextCollector, request

from palaver.engine import ChatMessage
from palaver.errors import EngineError, EngineUnavailable, InvalidInput, Overloaded, PromptTooLong
from palaver_plugins.engines.openai import OpenAIEngine
from palaver_plugins.engines.openai_stream import CompletionStream

STOP = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
DONE = b"data: [DONE]\n\n"


def chunk(delta: object, **more: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None} | more]}


def read(*parts: bytes) -> str:
    """Return the text that arrives from ``parts``."""
    collector = TextCollector()
    completion = CompletionStream(request("x"), collector, 0)
    for part in parts:
        for read_chunk in completion.parse(part):
            completion.add(read_chunk)
    completion.end()
    assert completion.is_complete
    assert completion.generation().text == collector.text
    assert all(collector.pieces)
    collector.text.encode()
    return collector.text


# Any stream


def halves(text: str) -> list[str]:
    """Return the UTF-16 units of ``text``, each as a text: halves of its emoji apart."""
    units = text.encode("utf-16-le")
    return [units[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, len(units), 2)]


def deltas(text: str) -> st.SearchStrategy[list[object]]:
    """Return deltas of every form that together are ``text``."""
    forms = st.sampled_from(["text", "parts", "parts of strings", "role too"])
    silent: st.SearchStrategy[object] = st.sampled_from(
        [None, {}, {"role": "assistant"}, {"content": None}, {"content": ""}, {"content": []}]
    )

    def delta(form: str, piece: str) -> object:
        if form == "parts":
            parts: list[object] = [{"type": "text", "text": piece}, {"type": "image_url"}]
            return {"content": parts}
        if form == "parts of strings":
            return {"content": [piece, ""]}
        return {"content": piece} | ({"role": "assistant"} if form == "role too" else {})

    def arrange(cuts: set[int], form: list[str], between: list[object]) -> list[object]:
        units = halves(text)
        places = sorted({0, len(units), *(cut for cut in cuts if cut < len(units))})
        pieces = ["".join(units[start:end]) for start, end in pairwise(places)]
        shown = [
            delta(kind, piece) for kind, piece in zip(form * len(pieces), pieces, strict=False)
        ]
        return [
            it
            for one, other in zip(shown, between * len(shown), strict=False)
            for it in (other, one)
        ]

    return st.builds(
        arrange,
        st.sets(st.integers(0, 30), max_size=6),
        st.lists(forms, min_size=1, max_size=4),
        st.lists(silent, min_size=1, max_size=3),
    )


@st.composite
def streams(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a text, and a valid stream of it."""
    text = draw(st.text(st.characters(codec="utf-8"), max_size=20) | st.just("Grüße 👩‍👩‍👧 𝄞"))
    chunks: list[object] = [*map(chunk, draw(deltas(text))), STOP]
    chunks += draw(st.sampled_from([(), (USAGE,), ({"usage": None},)]))
    stream = draw(st.sampled_from([b"", b"\xef\xbb\xbf", b": hello\n\n"]))
    for value in chunks:
        stream += draw(st.sampled_from([b"", b": ping\n\n", b"data:\n\n", b"event: x\nid: 1\n\n"]))
        lines = json.dumps(
            value,
            ensure_ascii=draw(st.booleans()) or "\\ud" in json.dumps(value),
            indent=draw(st.sampled_from([None, 1])),
        ).split("\n")
        space = draw(st.sampled_from([b"", b" "]))
        stream += b"".join(b"data:" + space + line.encode() + b"\n" for line in lines) + b"\n"
    stream += draw(st.sampled_from([b"", DONE, b"data:[DONE] \n\n"]))
    return text, stream.replace(b"\n", draw(st.sampled_from([b"\n", b"\r\n", b"\r"])))


@pytest.mark.slow
@given(streams(), st.lists(st.integers(0, 3000), max_size=8))
def test_any_stream_cut_anywhere_gives_the_same_text(
    drawn: tuple[str, bytes], cuts: list[int]
) -> None:
    text, stream = drawn
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert read(*(stream[start:end] for start, end in pairwise(places))) == text


@pytest.mark.slow
@given(streams())
def test_a_stream_may_come_byte_by_byte(drawn: tuple[str, bytes]) -> None:
    text, stream = drawn
    assert read(*(stream[place : place + 1] for place in range(len(stream)))) == text


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["\ud83d", "\ude00"], "😀"),
        (["a\ud83d", "", "\ude00b"], "a😀b"),
        (["\ud83d", "x"], "\ufffdx"),
        (["\ude00y"], "\ufffdy"),
        (["x\ud83d"], "x\ufffd"),
        (["\ud83d", "\ud83d", "\ude00"], "\ufffd😀"),
        (["\ud83d\ude00\ud83d", "\ude00"], "😀😀"),
    ],
)
def test_halves_of_a_character_are_joined(pieces: list[str], text: str) -> None:
    stream = [sse_event(chunk({"content": piece})) for piece in pieces]
    assert read(*stream, sse_event(STOP)) == text


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([b"a\xf0\x9f", b"\x98\x80b"], "a😀b"),
        ([b"\xf0", b"\x9f", b"\x98", b"\x80"], "😀"),
        ([b"\xe4\xbd", b"\xa0\xe5", b"\xa5\xbd"], "你好"),
        ([b"caf\xc3", b"", b"\xa9\xf0\x9f\x98\x80"], "café😀"),
        ([b"\xf0\x9f", b"x"], "\ufffd\ufffdx"),
        ([b"x\xf0\x9f"], "x\ufffd"),
        ([b"\xff", b"\x80"], "\ufffd\ufffd"),
        ([rb"\ud83d", rb"\udc80", b"\xc3", b"\xa9"], "💀é"),
        ([rb"\udc80", rb"\ud83d\udc80"], "\ufffd💀"),
    ],
)
def test_bytes_of_a_character_are_joined(pieces: list[bytes], text: str) -> None:
    stream = [b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % piece for piece in pieces]
    assert read(*stream, sse_event(STOP)) == text


# Whole replies, through HTTP


@asynccontextmanager
async def served_by(handler: Handler) -> AsyncIterator[OpenAIEngine]:
    """Start the engine with a server, which is none to avoid at the end."""
    async with fault_injecting_servers(handler) as (server,):
        engine = build_openai(server.url)
        try:
            await engine.start()
            yield engine
            assert not any(upstream.is_cooling_down for upstream in engine._by_preference())
        finally:
            await engine.close()


def stream_of(values: Iterable[object], end: bytes = DONE) -> Handler:
    return send_stream(*map(sse_event, values), end=end)


HI = chunk({"content": "Hi"})
UNUSUAL: dict[str, Handler] = {
    "delta is null": stream_of([chunk(None), HI, STOP]),
    "role only": stream_of([chunk({"role": "assistant"}), HI, STOP]),
    "no choices": stream_of([{"choices": []}, {"choices": None}, {}, HI, STOP, USAGE]),
    "a choice is null": stream_of([{"choices": [None]}, HI, STOP]),
    "no end of the stream": stream_of([HI, STOP], end=b""),
    "no empty line at the end": stream_of([HI], end=b"data: [DONE]"),
    "no reason, but an end": stream_of([HI, USAGE]),
    "an empty reason": stream_of([chunk({"content": "Hi"}, finish_reason=""), STOP]),
    "an unknown reason": stream_of([HI, chunk({}, finish_reason="eos")]),
    "reasoning, tools and a refusal": stream_of(
        [chunk({"reasoning_content": "hm", "tool_calls": [{}], "refusal": None}), HI, STOP]
    ),
    "null where a number is": stream_of(
        [HI, STOP, {"usage": {"prompt_tokens": None, "completion_tokens": 1e400}}]
    ),
    "usage is a list": stream_of([HI, STOP, {"usage": [1]}]),
    "log-probabilities of other forms": stream_of(
        [chunk({"content": "Hi"}, logprobs={"content": [None, {"token": "Hi"}, 3]}), STOP]
    ),
    "no error": stream_of([HI | {"error": None}, STOP | {"error": {}}]),
    "keep-alive of every form": stream_of(
        [],
        end=b": ping\r\n\r\ndata:\r\n\r\ndata: null\r\n\r\nevent: ping\r\n\r\n"
        + text_chunk("Hi")
        + DONE,
    ),
    "bytes that are not UTF-8": stream_of(
        [HI], end=b'data: {"junk": "\xff\xfe"}\n\n' + sse_event(STOP) + DONE
    ),
    "a cut after the reason": stream_of([HI, STOP], end=b'data: {"usage": {"pro'),
    "a refusal": stream_of([chunk({"role": "assistant", "refusal": "Hi"}), STOP]),
    "not streamed": respond_error(
        200, {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    ),
}


@pytest.mark.parametrize("handler", UNUSUAL.values(), ids=UNUSUAL)
async def test_an_unusual_stream_fails_no_reply_and_benches_no_server(handler: Handler) -> None:
    collector = TextCollector()
    async with served_by(handler) as engine:
        for _ in range(2):
            generation = await engine.generate(request("x"), collector)
            assert (generation.text, generation.finish_reason) == ("Hi", "stop")
    assert collector.text == "HiHi"


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
async def test_a_reply_that_the_limit_has_cut_is_marked(reason: str) -> None:
    handler = stream_of([chunk({"content": "Hi"}, finish_reason=reason)])
    async with served_by(handler) as engine:
        assert (await engine.generate(request("x"), TextCollector())).finish_reason == "length"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"error": {"message": "ouch", "code": 500}}, EngineUnavailable),
        ({"error": {"message": "ouch", "code": "500"}}, EngineUnavailable),
        ({"error": {"message": "ouch", "code": None, "type": "server_error"}}, EngineUnavailable),
        ({"error": {"message": "slow", "type": "rate_limit_exceeded"}}, Overloaded),
        ({"error": {"message": "slow", "type": "overloaded_error"}}, Overloaded),
        ({"error": {"message": "no", "type": "invalid_request_error"}}, InvalidInput),
        ({"error": {"message": "no", "type": "BadRequestError", "code": 400}}, InvalidInput),
        (
            {"error": {"message": "long", "code": "context_length_exceeded"}},
            PromptTooLong,
        ),
        ({"object": "error", "message": "ouch", "code": 503}, Overloaded),
        ({"choices": [{"delta": {}, "finish_reason": "error"}]}, EngineUnavailable),
    ],
)
async def test_an_error_in_the_stream_fails_one_reply_and_benches_no_server(
    error: dict[str, Any], kind: type[EngineError]
) -> None:
    async with served_by(stream_of([HI, error])) as engine:
        with pytest.raises(kind) as caught:
            await engine.generate(request("x"), TextCollector())
    assert type(caught.value) is kind


async def test_the_tokens_of_a_server_that_counts_none_are_an_estimate() -> None:
    async with served_by(respond_error(200, {"choices": []})) as engine:
        few = await engine.count_tokens([ChatMessage("user", "Hi")])
        many = await engine.count_tokens([ChatMessage("user", "Hi " * 100)])
        assert 0 < few < 100 < many
