"""``palaver channels``: the channels of a server, and who may write to their bots."""

import asyncio
from collections.abc import Mapping, Sequence

import click

from palaver.channels import Channel, CheckableChannel
from palaver.cli.console import (
    EXIT_MISCONFIGURED,
    ChannelGroup,
    Console,
    echo,
    echo_row,
    format_time,
    print_json,
)
from palaver.cli.local_server import ask_server, find_server, token_option, url_option
from palaver.cli.pairings import check_installed, run_with_pairings
from palaver.errors import PalaverError, contained, describe_raised

CHECK_TIMEOUT = 20.0
"""Seconds in which a channel has to check itself."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=ChannelGroup)
def channels() -> None:
    """List and test channels; approve who may write to bots.

    The commands ask the server that runs at the address of the settings, or at --url. When none
    runs, they open the ledger. Channels with commands of their own have them under their names.
    """


@channels.command("list")
@url_option
@token_option
@as_json
@click.pass_obj
def list_channels(console: Console, url: str | None, token: str | None, as_json: bool) -> None:
    """List the enabled channels, and what is wrong with each."""
    address = url or find_server(console.settings.server)
    if address is None:
        enabled = console.settings.channels.enabled
        states = [{"name": name, "problem": "no server runs"} for name in enabled]
    else:
        asking = ask_server("GET", f"{address.rstrip('/')}/v1/channels", token=token)
        states = asyncio.run(asking)["channels"]
    if as_json:
        print_json(states)
        return
    for state in states:
        echo_row(state["name"], state["problem"] or "works")
    if not states:
        echo("No channel is enabled.")


@channels.command()
@click.argument("name")
@click.pass_obj
def test(console: Console, name: str) -> None:
    """Ask the platform of a channel whether it can work.

    The channel NAME is not started.

    The exit code is 78 when it cannot.
    """
    channel = build_channel(console, name)
    problems = asyncio.run(check_channels({name: channel}))[name]
    for problem in problems:
        echo(problem)
    if problems:
        raise SystemExit(EXIT_MISCONFIGURED)
    has_check = isinstance(channel, CheckableChannel)
    echo(f"{name} works." if has_check else f"The settings of {name} are valid.")


def build_channel(console: Console, name: str) -> Channel:
    """Build an installed channel. Raises `NotFound`, and `ConfigurationError` when it cannot be
    built."""
    from palaver.app import BackendBuilder  # most commands need it not

    check_installed(console, name)
    return BackendBuilder(console.settings, console.registry).channel(name)


async def check_channels(channels: Mapping[str, Channel]) -> dict[str, Sequence[str]]:
    """Return what is wrong with each channel, by name. They are asked side by side."""
    problems = await asyncio.gather(*map(_check, channels.values()))
    return dict(zip(channels, problems, strict=True))


async def _check(channel: Channel) -> Sequence[str]:
    if not isinstance(channel, CheckableChannel):
        return ()
    try:
        with contained("its check"):
            async with asyncio.timeout(CHECK_TIMEOUT):
                return await channel.check()
    except TimeoutError:
        return (f"its platform did not answer within {CHECK_TIMEOUT:g} s",)
    except PalaverError as error:
        return (str(error),)
    except Exception as error:  # noqa: BLE001  the barrier of a channel
        return (f"its check failed: {describe_raised(error)}",)


# Pairing


@channels.command()
@click.argument("name")
@url_option
@token_option
@as_json
@click.pass_obj
def waiting(console: Console, name: str, url: str | None, token: str | None, as_json: bool) -> None:
    """List the people who wait for approval, with their codes."""
    requests = run_with_pairings(console, name, url, token, lambda access: access.requests())
    if as_json:
        print_json(requests)
        return
    for each in requests:
        echo(f"{each.code}  {format_time(each.at)}  {each.tenant}  {each.person}")
    if not requests:
        echo("Nobody waits.")


@channels.command()
@click.argument("name")
@click.argument("code")
@url_option
@token_option
@click.pass_obj
def approve(console: Console, name: str, code: str, url: str | None, token: str | None) -> None:
    """Let the person who has a code write to the bot.

    The bot of the channel NAME gives CODE to a stranger who writes to it. Take it from the person,
    not from others.
    """
    person = run_with_pairings(console, name, url, token, lambda access: access.approve(code))
    echo(f"Approved {person.person!r} of tenant {person.tenant!r}.")


@channels.command()
@click.argument("name")
@url_option
@token_option
@as_json
@click.pass_obj
def people(console: Console, name: str, url: str | None, token: str | None, as_json: bool) -> None:
    """List the people who are approved, the newest first."""
    approved = run_with_pairings(console, name, url, token, lambda access: access.people())
    if as_json:
        print_json(approved)
        return
    for each in approved:
        echo(f"{format_time(each.at)}  {each.tenant}  {each.person}")
    if not approved:
        echo("Nobody is approved.")


@channels.command()
@click.argument("name")
@click.argument("person")
@click.option("--tenant", default="default", show_default=True, help="The person's tenant.")
@url_option
@token_option
@click.pass_obj
def revoke(
    console: Console, name: str, person: str, tenant: str, url: str | None, token: str | None
) -> None:
    """Withdraw the approval of PERSON."""
    run_with_pairings(console, name, url, token, lambda access: access.revoke(tenant, person))
    echo(f"{person!r} of tenant {tenant!r} is no longer approved.")
