"""``palaver stop`` ends a turn of a running server."""

import asyncio

import pytest
from click.testing import CliRunner, Result
from tests.ports import free_port
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.cli import main
from palaver.config.settings import AuthKey, Secret


async def stop(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["stop", *arguments])


async def test_the_turn_that_runs_is_stopped_and_what_was_said_is_kept(
    live_server: LiveServer,
) -> None:
    async with live_server.connect("my thread") as client:
        turn = await client.send_message("/scripted x")
        live_server.scripted.emit("So far", end=False)
        await client.wait_for_text(turn, "So far")
        url = f"--url={live_server.address}"
        result = await stop("my thread", url, "--person=ada")
        assert (result.exit_code, result.output) == (0, f"Stopping turn {turn}.\n")
        assert (await client.wait_for("finished", turn=turn))["outcome"] == "stopped"
        assert client.texts[turn] == "So far"
        again = await stop("my thread", turn, url, "--person=ada")
        assert (again.exit_code, again.output) == (0, f"Turn {turn} has ended already.\n")
        idle = await stop("my thread", url, "--person=ada")
        assert (idle.exit_code, idle.output) == (0, "Nothing runs in 'my thread'.\n")


async def test_a_turn_that_cannot_be_stopped_is_one_line_with_an_exit_code(
    live_server: LiveServer,
) -> None:
    url = f"--url={live_server.address}"
    async with live_server.connect("t") as client:
        await client.wait_for_reply(await client.send_message("hello"))
    for arguments, reason, code in (
        (("t", "nothing", url, "--person=ada"), "there is no turn 'nothing' in 't'", 2),
        (("t", url, "--person=eve"), "belongs to someone else", 2),
        (("t", f"--url=http://127.0.0.1:{free_port()}"), "no Palaver server answers", 69),
    ):
        result = await stop(*arguments)
        assert (result.exit_code, result.output.count("\n")) == (code, 1)
        assert reason in result.output


async def test_the_key_and_the_address_of_the_settings_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ADA", "the secret key of ada")
    key = AuthKey(secret=Secret("env:ADA"), person="ada")
    port = free_port()
    async with open_live_server(keys={"ada": key}, port=port):
        asking = ("--set", f"server.port={port}", "stop", "t")
        refused = await asyncio.to_thread(CliRunner().invoke, main, asking)
        assert refused.exit_code == 2
        allowed = await asyncio.to_thread(
            CliRunner(env={"PALAVER_TOKEN": "the secret key of ada"}).invoke, main, asking
        )
        assert allowed.output == "Nothing runs in 't'.\n"
