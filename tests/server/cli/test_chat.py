"""``palaver chat`` finds its server, and an expected error is one line."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner
from tests.ports import free_port
from tests.server.cli.consoles import KIT, KitConsole, RealConsole, locked_ledger
from tests.server.web.live_server import TIMEOUT_SECONDS, LiveServer, eventually, open_live_server

from palaver.cli.chat import chat
from palaver.cli.terminal import UnsettledTurns
from palaver.config.settings import AuthKey, Secret
from palaver.errors import LedgerInUse
from palaver.messages import Conversation

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-c", "from palaver.cli import main; main()")
KEY = "the secret key of ada"


async def run_chat(
    *arguments: str, text: str = "hello\n", settings: tuple[str, ...] = (), token: str = ""
) -> tuple[int, str, str]:
    """Run the command with ``text`` as its piped input; return exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *(part for setting in settings for part in ("--set", setting)),
        "chat",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PALAVER_TOKEN": token},
    )
    async with asyncio.timeout(4 * TIMEOUT_SECONDS):
        output, errors = await process.communicate(text.encode())
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, AuthKey]:
    monkeypatch.setenv("ADA", KEY)
    return {"ada": AuthKey(secret=Secret("env:ADA"), person="ada")}


def port_of(live_server: LiveServer) -> str:
    return live_server.address.rpartition(":")[2]


async def test_a_server_that_runs_here_is_used(live_server: LiveServer) -> None:
    settings = (f"server.port={port_of(live_server)}", "engine.use=none")
    code, output, errors = await run_chat(settings=settings)
    assert (code, output, errors) == (0, "[parrot] hello \n", "")


def test_without_a_server_one_is_started(tmp_path: Path) -> None:
    settings = (*KIT, f"server.data={tmp_path / 'data'}")
    result = CliRunner().invoke(chat, obj=KitConsole(None, settings), input="hello\n")
    assert result.exit_code == 0, result.output
    assert "[parrot] hello" in result.stdout


def test_another_server_with_the_ledger_is_reported(tmp_path: Path) -> None:
    console = RealConsole(None, (*KIT, "ledger.use=sqlite", f"server.data={tmp_path}"))
    with locked_ledger(console):
        result = CliRunner().invoke(chat, obj=console, input="hello\n")
    assert isinstance(result.exception, LedgerInUse)


async def test_piped_output_has_no_ansi_codes(live_server: LiveServer) -> None:
    text = "/scholar leave\n/clumsy\n/nope\n"
    code, output, _ = await run_chat(f"--url={live_server.address}", text=text)
    assert code == 0
    assert "[1] The Handbook · Leave" in output
    assert "I will now The skill could not finish its answer." in output
    assert "There is no skill 'nope'" in output
    assert "\x1b" not in output


async def test_a_server_that_requires_a_key_is_one_line(keys: dict[str, AuthKey]) -> None:
    async with open_live_server(keys=keys) as live_server:
        url = f"--url={live_server.address}"
        for options, token in (((), ""), (("--token=wrong",), ""), ((), "wrong")):
            code, output, errors = await run_chat(url, *options, token=token)
            assert (code, output) == (2, "")
            assert errors == (
                "palaver: the server requires a key: "
                "give a key of the server with --token or in PALAVER_TOKEN\n"
            )


async def test_the_key_names_the_person(keys: dict[str, AuthKey]) -> None:
    async with open_live_server(keys=keys) as live_server:
        url = f"--url={live_server.address}"
        assert await run_chat(url, token=KEY) == (0, "[parrot] hello \n", "")
        code, _, errors = await run_chat(url, "--person=eve", token=KEY)
        assert (code, errors.count("\n")) == (2, 1)
        assert errors.startswith("palaver: the person 'eve' is not yours")


async def test_a_server_that_is_not_there_is_one_line() -> None:
    code, _, errors = await run_chat(f"--url=http://127.0.0.1:{free_port()}")
    assert (code, errors.count("\n")) == (69, 1)
    assert errors.startswith("palaver: no Palaver server answers at http://127.0.0.1:")


async def test_a_url_without_a_palaver_server_is_one_line() -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=404)

    async with scripted_server(refuse) as address:
        code, _, errors = await run_chat(f"--url={address}")
    assert (code, errors.count("\n")) == (69, 1)
    code, _, errors = await run_chat("--url=nonsense")
    assert (code, errors.count("\n")) == (69, 1)


async def test_a_server_that_stops_is_one_line(live_server: LiveServer) -> None:
    url = f"--url={live_server.address}"
    chatting = asyncio.create_task(run_chat(url, "--thread=t", text="/scripted go\n"))
    live_server.scripted.emit("Once", end=False)

    async def is_running() -> bool:
        snapshot = await live_server.server.snapshot(Conversation("default", "web", "t"))
        return any("Once" in turn.reply for turn in snapshot.pending)

    await eventually(is_running)
    await live_server.stop_listening()
    code, _, errors = await chatting
    assert (code, errors) == (69, "palaver: the server closed the connection (code 1012)\n")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def scripted_server(handler: Handler) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_get("/ws", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


WELCOME = {"type": "welcome", "snapshot": {"history": [], "pending": []}}


@pytest.mark.parametrize("is_welcome", [True, False])
async def test_a_server_that_dies_is_one_line(is_welcome: bool) -> None:
    async def die(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive_json()
        if is_welcome:
            await socket.send_json(WELCOME)
            await socket.receive_json()
        assert request.transport is not None
        request.transport.abort()
        return socket

    async with scripted_server(die) as address:
        code, _, errors = await run_chat(f"--url={address}")
    assert (code, errors) == (69, "palaver: the server closed the connection (code 1006)\n")


async def test_a_message_that_the_turn_did_not_take_waits_for_its_own_reply() -> None:
    """However late the server names the next turn: no timer decides."""
    received: list[str] = []

    async def answer_late(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive_json()
        await socket.send_json(WELCOME)

        async def send(kind: str, turn: str, **fields: object) -> None:
            await socket.send_json({"type": kind, "turn": turn, **fields})

        async def finish(turn: str, messages: list[str]) -> None:
            await send("finished", turn, outcome="done", length=0, messages=messages)

        one = (await socket.receive_json())["id"]
        await send("message", "t1", id="0", moved=False, ahead=0)
        await send("started", "t1", attempt=1)
        await send("message", "t1", id=one, moved=False, ahead=0)
        await finish("t1", ["0"])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                received.append((await socket.receive_json())["text"])
        await send("message", "t2", id=one, moved=True, ahead=0)
        await finish("t2", [one])
        received.append("reply")
        received.append((two := await socket.receive_json())["text"])
        await send("message", "t3", id=two["id"], moved=False, ahead=0)
        await finish("t3", [two["id"]])
        await socket.receive()
        return socket

    async with scripted_server(answer_late) as address:
        code, _, errors = await run_chat(f"--url={address}", text="one\ntwo\n")
    assert (code, errors) == (0, "")
    assert received == ["reply", "two"]


async def answer_scripted(
    *frames: dict[str, object], lines: str = "hello\n"
) -> tuple[int, str, str]:
    """Run the command with a server that sends ``frames`` of the turn of its first message."""

    async def answer(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive_json()
        await socket.send_json(WELCOME)
        id = (await socket.receive_json())["id"]
        for frame in frames:
            await socket.send_json({"turn": "t", "id": id, "messages": [id]} | frame)
        await socket.receive()
        return socket

    async with scripted_server(answer) as address:
        return await run_chat(f"--url={address}", text=lines)


ROUTED: dict[str, object] = {
    "type": "routed",
    "skill": "chat",
    "reason": "It is like its examples.",
    "score": 0.97,
}
DONE: dict[str, object] = {"type": "finished", "outcome": "done"}


async def test_a_score_is_shown_only_on_request() -> None:
    text = {"type": "text", "position": 0, "text": "Hi"}
    assert await answer_scripted(ROUTED, text, DONE) == (0, "[chat] Hi\n", "")
    expected = "[chat] Hi\n[chat: It is like its examples. (97%)]\n"
    assert await answer_scripted(ROUTED, text, DONE, lines="hello\n/why\n") == (0, expected, "")


async def test_a_file_or_pipe_gets_the_markdown_as_it_is() -> None:
    reply = "# T\n\n- **a**\n- [x] b\n\n```py\nx\n```\n\n<think>c</think>"
    text = {"type": "text", "position": 0, "text": reply}
    assert await answer_scripted(ROUTED, text, DONE) == (0, f"[chat] {reply}\n", "")


@pytest.mark.parametrize(("after", "hint"), [(None, ""), (2.4, "[try again in 3 s]\n")])
async def test_trying_again_is_suggested_where_it_can_help(after: float | None, hint: str) -> None:
    error: dict[str, object] = {"type": "error", "code": "x", "message": "No."}
    assert await answer_scripted(error | {"retry_after": after}) == (0, f"No.\n{hint}", "")


def test_a_snapshot_says_which_own_messages_have_replies() -> None:
    turns = UnsettledTurns()
    for message in ("answered", "moved", "unknown"):
        turns.add_own(message)
    turns.assign("answered", "t1", moved=False)
    turns.assign("moved", "t1", moved=False)
    turns.reset([{"turn": "t2", "running": True, "messages": [{"id": "moved"}]}])
    turns.finish("t2", ["moved"])
    assert turns.is_waiting
    turns.finish("t3", ["unknown"])
    assert not turns.is_waiting
