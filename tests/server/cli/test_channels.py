"""``palaver channels``: the state of channels, pairing, and the commands of channels."""

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import click
import pytest
from click.testing import CliRunner, Result
from tests.proofs.virtual_time import run_in_virtual_time
from tests.server.cli import channel_plugin
from tests.server.cli.consoles import KIT, KitConsole
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.channels import BrokenChannel
from palaver.cli import main
from palaver.cli.channels import CHECK_TIMEOUT, channels, check_channels
from palaver.cli.check import check
from palaver.config.settings import AuthKey, Secret
from palaver.errors import NotFound
from palaver.platforms import ApprovedPerson, Pairings


class ChannelConsole(KitConsole):
    plugins: ClassVar[dict[str, str]] = {**KitConsole.plugins, "gongs": channel_plugin.__name__}


def run(*arguments: str, settings: tuple[str, ...] = ()) -> Result:
    console = ChannelConsole(None, (*KIT, *settings))
    return CliRunner().invoke(channels, arguments, obj=console, catch_exceptions=False)


def test_the_commands_of_a_channel_are_below_channels_and_others_are_not() -> None:
    assert run("gong", "ring").output == "ding\n"
    assert run("tower").exit_code == 2
    listed = run("--help").output
    assert "gong  " in listed
    assert "tower" not in listed
    context = click.Context(main, obj=ChannelConsole(None, KIT))
    assert "tower" in main.list_commands(context)
    assert "gong" not in main.list_commands(context)
    assert main.get_command(context, "gong") is None


@pytest.mark.parametrize(
    ("name", "fault", "output"),
    [
        ("gong", "", "gong works.\n"),
        ("gong", "No rope.|The scope 'ring' lacks.", "No rope.\nThe scope 'ring' lacks.\n"),
        ("gong", "unavailable", "the gong tower is closed\n"),
        ("gong", "bug", "its check failed: ZeroDivisionError: division by zero\n"),
        ("gong", "exit", "its check tried to end the process: SystemExit: 3\n"),
        ("plain", "", "The settings of plain are valid.\n"),
    ],
)
def test_a_channel_is_tested(name: str, fault: str, output: str) -> None:
    result = run("test", name, settings=(f"channels.{name}.fault={fault}",))
    assert result.output == output
    assert result.exit_code == (0 if output.endswith(("works.\n", "valid.\n")) else 78)


def test_channels_that_do_not_answer_are_asked_side_by_side() -> None:
    async def ask() -> tuple[dict[str, Sequence[str]], float]:
        settings = channel_plugin.GongSettings(fault="hang")
        gongs = {name: channel_plugin.GongChannel(settings) for name in ("a", "b", "c")}
        return await check_channels(gongs), asyncio.get_running_loop().time()

    problems, seconds = run_in_virtual_time(ask())
    assert seconds == CHECK_TIMEOUT
    assert problems == dict.fromkeys("abc", ("its platform did not answer within 20 s",))


def test_the_check_of_a_configuration_asks_the_enabled_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def check_of(*settings: str) -> tuple[int, list[str]]:
        console = ChannelConsole(None, (*KIT, "channels.enabled=gong,plain", *settings))
        result = CliRunner().invoke(check, obj=console, catch_exceptions=False)
        return result.exit_code, [line for line in result.output.splitlines() if "channel " in line]

    assert check_of() == (
        0,
        ["✓ channel 'gong': it works", "✓ channel 'plain': its settings are valid"],
    )
    assert check_of("channels.gong.fault=No rope.|No stick.", "channels.plain.fault=build") == (
        78,
        [
            "✗ channel 'gong': No rope.",
            "✗ channel 'gong': No stick.",
            "✗ channel 'plain': channels.plain.fault: it is 'build'",
        ],
    )


async def ask(live_server: LiveServer, command: str, *arguments: str) -> Result:
    url = f"--url={live_server.address}"
    return await asyncio.to_thread(run, command, *arguments, url)


async def ask_main(live_server: LiveServer, command: str, *arguments: str) -> tuple[int, str]:
    """Return the exit code and what is printed, errors included."""
    words = ["channels", command, *arguments, f"--url={live_server.address}"]
    result = await asyncio.to_thread(CliRunner().invoke, main, words)
    return result.exit_code, result.output


async def test_the_channels_of_a_running_server_are_listed() -> None:
    channels = (
        channel_plugin.PlainChannel(channel_plugin.GongSettings()),
        BrokenChannel("no rope"),
    )
    async with open_live_server(channels=channels) as live_server:
        result = await ask(live_server, "list")
        assert result.output == "channel-0     works\nchannel-1     no rope\n"
        listed = json.loads((await ask(live_server, "list", "--json")).output)
        assert listed[1] == {"name": "channel-1", "problem": "no rope"}
    async with open_live_server() as live_server:
        assert (await ask(live_server, "list")).output == "No channel is enabled.\n"


def test_without_a_server_the_enabled_channels_are_listed() -> None:
    result = run("list", settings=("channels.enabled=gong,plain",))
    assert result.output == "gong          no server runs\nplain         no server runs\n"


async def test_a_person_is_approved_at_a_running_server() -> None:
    async with open_live_server(channels=(BrokenChannel("x"),)) as live_server:
        pairings = Pairings(live_server.server.records, "channel-0")
        code = await pairings.request("default", "gong.ada")
        waiting = await ask(live_server, "waiting", "channel-0")
        assert re.fullmatch(rf"{code}  [-\d]+ [:\d]+  default  gong\.ada\n", waiting.output)
        assert (await ask(live_server, "people", "channel-0")).output == "Nobody is approved.\n"
        approved = await ask(live_server, "approve", "channel-0", code.lower())
        assert approved.output == "Approved 'gong.ada' of tenant 'default'.\n"
        assert await pairings.find("default", "gong.ada")
        assert (await ask(live_server, "waiting", "channel-0")).output == "Nobody waits.\n"
        people = await ask(live_server, "people", "channel-0")
        assert re.fullmatch(r"[-\d]+ [:\d]+  default  gong\.ada\n", people.output)
        revoked = await ask(live_server, "revoke", "channel-0", "gong.ada")
        assert revoked.output == "'gong.ada' of tenant 'default' is no longer approved.\n"
        assert await pairings.people() == []


async def test_what_cannot_be_done_is_one_line() -> None:
    async with open_live_server(channels=(BrokenChannel("x"),)) as live_server:
        approved = ApprovedPerson(tenant="acme", person="gong.ada", at=1.0)
        await Pairings(live_server.server.records, "channel-0").allow(approved)
        for arguments, reason in (
            (("approve", "channel-0", "nothing"), "nobody waits for approval with the code"),
            (("revoke", "channel-0", "gong.ada"), "'gong.ada' of the tenant 'default' is not app"),
            (("waiting", "bell"), "there is no channel 'bell'; enabled are: channel-0"),
        ):
            code, output = await ask_main(live_server, *arguments)
            assert (code, output.count("\n")) == (2, 1), output
            assert reason in output
        code, output = await ask_main(
            live_server, "revoke", "channel-0", "gong.ada", "--tenant=acme"
        )
        assert code == 0, output


async def test_a_key_needs_the_right_operate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADA", "the secret key of ada")
    monkeypatch.setenv("OPS", "the secret key of the operators")
    keys = {
        "ada": AuthKey(secret=Secret("env:ADA")),
        "ops": AuthKey(secret=Secret("env:OPS"), rights=("operate",), tenant="operators"),
    }
    async with open_live_server(keys=keys, channels=(BrokenChannel("x"),)) as live_server:
        code, output = await ask_main(live_server, "list")
        assert (code, "the server requires a key" in output) == (2, True)
        code, output = await ask_main(live_server, "list", "--token=the secret key of ada")
        assert (code, "lacks the right 'operate'" in output) == (2, True)
        code, output = await ask_main(
            live_server, "list", "--token=the secret key of the operators"
        )
        assert (code, output) == (0, "channel-0     x\n")


class SQLiteConsole(ChannelConsole):
    plugins: ClassVar[dict[str, str]] = {
        **ChannelConsole.plugins,
        "sqlite": "palaver_plugins.ledgers.sqlite",
    }


def test_without_a_server_the_ledger_is_opened(tmp_path: Path) -> None:
    settings = (*KIT, f"server.data={tmp_path}", "ledger.use=sqlite")
    console = SQLiteConsole(None, settings)
    code = console.run_with_ledger(lambda ledger: Pairings(ledger, "gong").request("t", "gong.ada"))

    def offline(*arguments: str) -> str:
        console = SQLiteConsole(None, settings)
        return CliRunner().invoke(channels, arguments, obj=console, catch_exceptions=False).output

    assert code in offline("waiting", "gong", "--json")
    assert offline("approve", "gong", code) == "Approved 'gong.ada' of tenant 't'.\n"
    assert json.loads(offline("people", "gong", "--json"))[0]["person"] == "gong.ada"
    assert "no longer" in offline("revoke", "gong", "gong.ada", "--tenant=t")
    with pytest.raises(NotFound, match="there is no channel 'bong'; installed are: bell, gong"):
        offline("people", "bong")
