"""A plugin with channels for the commands of channels."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import click

from palaver import Backend, PluginSettings, echo, hookimpl
from palaver.channels import Channel, ConversationService
from palaver.errors import ConfigurationError, EngineUnavailable


class GongSettings(PluginSettings):
    fault: str = ""
    """What is wrong with it."""


class PlainChannel:
    """A channel that has no check."""

    def __init__(self, settings: GongSettings, _: object = None) -> None:
        self.fault = settings.fault
        if self.fault == "build":
            raise ConfigurationError("channels.plain.fault: it is 'build'")

    async def start(self, service: ConversationService) -> None: ...

    async def close(self) -> None: ...

    def routes(self) -> tuple[()]:
        return ()


class GongChannel(PlainChannel):
    async def check(self) -> Sequence[str]:
        if self.fault == "hang":
            await asyncio.Event().wait()
        if self.fault == "unavailable":
            raise EngineUnavailable("the gong tower is closed")
        if self.fault == "bug":
            raise ZeroDivisionError("division by zero")
        if self.fault == "exit":
            raise SystemExit(3)
        return tuple(filter(None, self.fault.split("|")))


@click.group("gong")
def gong() -> None:
    """Ring the gong."""


@gong.command()
def ring() -> None:
    """Ring it once."""
    echo("ding")


@click.command("tower")
def tower() -> None:
    """Show the tower."""
    echo("high")


@hookimpl
def palaver_register_channels() -> Iterable[Backend[Channel]]:
    kinds: dict[str, Any] = {"gong": GongChannel, "plain": PlainChannel}
    return [Backend(name=name, settings=GongSettings, build=kinds[name]) for name in kinds]


@hookimpl
def palaver_register_commands() -> Iterable[click.Command]:
    return [gong, tower]
