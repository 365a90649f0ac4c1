"""Pairings of a channel for commands: of the server that runs, or in the ledger when none does."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from palaver.cli.console import Console
from palaver.cli.local_server import ask_server, find_server
from palaver.errors import NotFound
from palaver.platforms.pairing import ApprovedPerson, PairingRequest, Pairings

T = TypeVar("T")


class PairingAccess(Protocol):
    """What commands do with `Pairings`."""

    async def requests(self) -> list[PairingRequest]: ...

    async def people(self) -> list[ApprovedPerson]: ...

    async def approve(self, code: str) -> ApprovedPerson: ...

    async def revoke(self, tenant: str, person: str) -> ApprovedPerson: ...


class ServerPairings:
    """The pairings of a channel, over the HTTP API of a server."""

    def __init__(self, address: str, channel: str, token: str | None) -> None:
        self._url = f"{address.rstrip('/')}/v1/channels/{quote(channel, safe='')}"
        self._token = token

    async def requests(self) -> list[PairingRequest]:
        answer = await self._ask("GET", "requests")
        return msgspec.convert(answer["requests"], list[PairingRequest])

    async def people(self) -> list[ApprovedPerson]:
        answer = await self._ask("GET", "people")
        return msgspec.convert(answer["people"], list[ApprovedPerson])

    async def approve(self, code: str) -> ApprovedPerson:
        answer = await self._ask("POST", "people", body={"code": code})
        return msgspec.convert(answer, ApprovedPerson)

    async def revoke(self, tenant: str, person: str) -> ApprovedPerson:
        path = f"people/{quote(person, safe='')}"
        answer = await self._ask("DELETE", path, parameters={"tenant": tenant})
        return msgspec.convert(answer, ApprovedPerson)

    async def _ask(
        self,
        method: str,
        path: str,
        body: object = None,
        parameters: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:  # Any: JSON values
        url = f"{self._url}/{path}"
        return await ask_server(method, url, token=self._token, body=body, parameters=parameters)


def run_with_pairings(
    console: Console,
    channel: str,
    url: str | None,
    token: str | None,
    use: Callable[[PairingAccess], Awaitable[T]],
) -> T:
    """Run ``use`` with the pairings of a channel and return its result."""
    address = url or find_server(console.settings.server)

    async def ask() -> T:
        assert address is not None
        return await use(ServerPairings(address, channel, token))

    if address is not None:
        return asyncio.run(ask())
    check_installed(console, channel)
    return console.run_with_ledger(lambda ledger: use(Pairings(ledger, channel)))


def check_installed(console: Console, channel: str) -> None:
    """Raise `NotFound` when no plugin contributes the channel."""
    installed = console.registry.channels
    if channel not in installed:
        names = ", ".join(sorted(installed)) or "none"
        raise NotFound(f"there is no channel {channel!r}; installed are: {names}")
