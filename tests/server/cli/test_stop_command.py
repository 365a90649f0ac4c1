"""``palaver stop`` ends a turn of a running server."""

import asyncio

import pytest
from click.testing import CliRunner, Result
from tests.plugins.ledgers.redis_server import free_port
from tests.server.web.house import House, open_house

from palaver.cli import main
from palaver.config.settings import AuthKey, Secret


async def stop(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["stop", *arguments])


async def test_the_turn_that_runs_is_stopped_and_what_was_said_is_kept(house: House) -> None:
    async with house.client("my thread") as wire:
        turn = await wire.say("/teller x")
        house.teller.tell("So far", end=False)
        await wire.until_text(turn, "So far")
        url = f"--url={house.address}"
        result = await stop("my thread", url, "--person=ada")
        assert (result.exit_code, result.output) == (0, f"Stopping turn {turn}.\n")
        assert (await wire.until("finished", turn=turn))["outcome"] == "stopped"
        assert wire.texts[turn] == "So far"
        again = await stop("my thread", turn, url, "--person=ada")
        assert (again.exit_code, again.output) == (0, f"Turn {turn} has ended already.\n")
        idle = await stop("my thread", url, "--person=ada")
        assert (idle.exit_code, idle.output) == (0, "Nothing runs in 'my thread'.\n")


async def test_a_turn_that_cannot_be_stopped_is_one_line_with_an_exit_code(house: House) -> None:
    url = f"--url={house.address}"
    async with house.client("t") as wire:
        await wire.finish(await wire.say("hello"))
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
    monkeypatch.setenv("ADA", "ada-key")
    key = AuthKey(secret=Secret("env:ADA"), person="ada")
    port = free_port()
    async with open_house(keys={"ada": key}, port=port):
        asking = ("--set", f"server.port={port}", "stop", "t")
        refused = await asyncio.to_thread(CliRunner().invoke, main, asking)
        assert refused.exit_code == 2
        allowed = await asyncio.to_thread(
            CliRunner(env={"PALAVER_TOKEN": "ada-key"}).invoke, main, asking
        )
        assert allowed.output == "Nothing runs in 't'.\n"
