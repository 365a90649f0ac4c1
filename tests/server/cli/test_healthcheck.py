"""``palaver healthcheck`` tells by its exit code whether the server accepts messages."""

import asyncio

from click.testing import CliRunner, Result
from tests.ports import free_port
from tests.server.receivers import receiving
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.cli import main
from palaver.cli.healthcheck import find_problem


async def healthcheck(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, arguments)


async def test_a_server_at_the_address_of_the_settings_is_ready() -> None:
    port = free_port()
    async with open_live_server(port=port):
        result = await healthcheck("--set", f"server.port={port}", "healthcheck")
        assert (result.exit_code, result.output) == (0, f"http://127.0.0.1:{port} is ready\n")


async def test_a_server_that_shuts_down_is_not_ready(live_server: LiveServer) -> None:
    live_server.server.draining = True
    result = await healthcheck("healthcheck", "--url", live_server.address)
    expected = f"{live_server.address} is not ready: server: draining\n"
    assert (result.exit_code, result.output) == (1, expected)


async def test_nobody_answers() -> None:
    result = await healthcheck("--set", f"server.port={free_port()}", "healthcheck")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "Connect call failed" in result.output


async def test_another_program_answers() -> None:
    async with receiving() as receiver:
        problem = await find_problem(f"http://127.0.0.1:{receiver.port}", None)
    assert problem == "an unexpected answer with status 202"


async def test_nothing_is_answered_in_time() -> None:
    ended = asyncio.Event()

    async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(keep_silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        problem = await find_problem(f"http://127.0.0.1:{port}", None, seconds=0.1)
        async with asyncio.timeout(5):
            await ended.wait()
    assert problem == "no answer in 0.1 seconds"


async def test_the_port_must_be_known() -> None:
    result = await healthcheck("--set", "server.port=0", "healthcheck")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "server.port is 0" in result.output
