"""What reaches a client of an engine's errors: never an address, a key or a response."""

import pytest
from tests.plugins.engines.fault_injecting_server import (
    Handler,
    drop_connection,
    fault_injecting_servers,
    respond_error,
    send_bytes,
    send_stream,
    sse_event,
    text_chunk,
)
from tests.plugins.engines.serving import build_openai
from tests.server.skills_under_test import Parrot

from palaver import Skill, Turn, tool
from palaver.config.settings import (
    EngineSettings,
    LedgerSettings,
    RoutingSettings,
    Secret,
    Settings,
)
from palaver.errors import InvalidInput
from palaver.messages import ToolCalled, encode
from palaver.testing import ScriptedEngine, converse

KEY = "sk-12345-of-the-server"
BODY = f"Incorrect API key provided: {KEY}; see http://10.0.0.5/help, qxjzvikku"
HANDLERS: dict[str, Handler] = {
    **{str(status): respond_error(status, {"error": {"message": BODY}}) for status in (400, 401)},
    **{str(status): respond_error(status, {"detail": BODY}) for status in (403, 404, 413, 422)},
    **{str(status): respond_error(status, {"message": BODY}) for status in (418, 429, 500, 501)},
    "too long": respond_error(400, {"error": {"message": f"context length exceeded: {BODY}"}}),
    "in the stream": send_stream(text_chunk("Hi"), sse_event({"error": {"message": BODY}})),
    "bad request in the stream": send_stream(sse_event({"error": {"message": BODY, "code": 400}})),
    "no chat completion": send_stream(b"data: " + BODY.encode() + b"\n\n"),
    "no HTTP": send_bytes(BODY.encode()),
    "no connection": drop_connection(text_chunk("Hi")),
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
async def test_no_event_shows_the_server_or_what_it_said(
    handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    settings = Settings(
        routing=RoutingSettings(default="parrot"),
        ledger=LedgerSettings(use="memory"),
        engine=EngineSettings(restart_timeout=0.1, max_attempts=1, timeout=0.5),
    )
    async with fault_injecting_servers(handler) as (server,):
        engine = build_openai(server.url, api_key=Secret("env:THE_KEY"))
        async with converse(Parrot, engine=engine, settings=settings) as chat:
            reply = await chat.say("hello")
    assert reply.outcome == "failed"
    assert server.keys[-1] == f"Bearer {KEY}"
    shown = b"".join(map(encode, reply.events)).decode()
    host = server.url.removeprefix("http://").removesuffix("/v1")
    for secret in (host, "127.0.0.1", KEY, "qxjzvikku", "10.0.0.5"):
        assert secret not in shown


class Caller(Skill):
    """Call a tool."""

    name = "caller"
    examples = ("call it", "call the tool")

    async def answer(self, turn: Turn) -> None:
        await turn.call_tool("fail")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ConnectionError(BODY), ""),
        (InvalidInput("Only numbers can be added.", quoted=BODY), "Only numbers can be added."),
    ],
)
async def test_the_event_of_a_tool_shows_only_what_is_public(error: Exception, shown: str) -> None:
    @tool
    async def fail() -> str:
        """Fail."""
        raise error

    async with converse(Caller, tools=[fail], engine=ScriptedEngine()) as chat:
        reply = await chat.say("call it")
    called = [event for event in reply.events if isinstance(event, ToolCalled)]
    assert (called[-1].state, called[-1].result) == ("failed", shown)
