"""JSON of very many values, which takes long to read."""

import time

import pytest
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.errors import TooLarge
from palaver.web.json_values import MAX_VALUES, check_json_values
from palaver_plugins.channels.openai_api import OpenAIChannel

MESSAGES = "/v1/conversations/t/messages"
MANY = {
    "lists": "[],",
    "objects": '{"a":1},',
    "numbers": "1,",
    "strings": '"\\"",',
    "nested": "[[[1]]],",
}
MAX_STALL = 0.05


def arguments(values: str) -> str:
    repeated = values * (900_000 // len(values))
    return f'{{"text":"x","skill":"scripted","arguments":{{"a":[{repeated}0]}}}}'


@pytest.mark.parametrize("kind", MANY)
async def test_a_request_of_too_many_values_is_refused(live_server: LiveServer, kind: str) -> None:
    status, answer = await live_server.post(MESSAGES, data=arguments(MANY[kind]).encode())
    assert (status, answer["error"]["code"]) == (413, "too_large")
    metrics = live_server.server.metrics.exposition().decode()
    assert 'palaver_limits_total{limit="json_values"} 1.0' in metrics
    assert 'limit="max_message_bytes"' not in metrics


async def test_every_route_that_reads_a_body_refuses_too_many_values() -> None:
    async with open_live_server(channels=(OpenAIChannel(),)) as live_server:
        for path in ("/v1/conversations/t/stop", "/v1/chat/completions"):
            body = f'{{"model":"auto","messages":[{MANY["objects"] * 50_000}{{}}]}}'
            status, answer = await live_server.post(path, data=body.encode())
            assert (status, "10000 values" in answer["error"]["message"]) == (413, True)


@pytest.mark.parametrize("kind", MANY)
async def test_a_frame_of_too_many_values_is_refused(live_server: LiveServer, kind: str) -> None:
    async with live_server.connect("t") as client:
        await client.socket.send_str(
            arguments(MANY[kind]).replace("{", '{"type":"send","id":"1",', 1)
        )
        assert (await client.wait_for("error"))["code"] == "too_large"
        await client.wait_for_reply(await client.send_message("small"))


@pytest.mark.parametrize("text", ["a, b; [c] {d} ", '\\", [] \\\\ , ', ",", "[{"])
async def test_punctuation_in_a_text_counts_for_nothing(live_server: LiveServer, text: str) -> None:
    body = f'{{"text":"{text * (300_000 // len(text))}"}}'.encode()
    assert (await live_server.post(MESSAGES, data=body))[0] == 202


@pytest.mark.parametrize(
    "unit", [b",", b"\\\\", b'"":"",', b"[", b'"', b'"\\', b'\\"', b'"a",', b'"\\"",', b"\\"]
)
def test_counting_is_never_busy(unit: bytes) -> None:
    data = b'"' + unit * (1_000_000 // len(unit))
    began = time.thread_time()
    try:
        check_json_values(data)
    except TooLarge:
        pass
    assert time.thread_time() - began < MAX_STALL


def test_as_many_values_as_allowed_are_read() -> None:
    data = b"[" + b"1," * (MAX_VALUES - 1) + b"1]"
    check_json_values(data)
    with pytest.raises(TooLarge):
        check_json_values(data.replace(b"]", b",1]"))
