"""The server that runs on this machine with the same settings."""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import click

from palaver.config.settings import ServerSettings
from palaver.errors import CallerError, NotFound, ServerError, Unauthenticated

HEALTH_TIMEOUT = 2.0
"""Seconds that a running server has to answer."""
TOKEN_HINT = "give a key of the server with --token or in PALAVER_TOKEN"


url_option = click.option("--url", help="Address of the server (default: as the settings say).")
token_option = click.option(
    "--token", default=None, envvar="PALAVER_TOKEN", help="A key of the server."
)


def local_address(server: ServerSettings) -> str:
    """Return the URL of a server with these settings, without a slash at the end."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    return f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"


def find_server(server: ServerSettings) -> str | None:
    """Return the URL of the Palaver server that answers at the address of the settings."""
    if server.port == 0:
        return None
    address = local_address(server)
    return address if asyncio.run(_is_palaver(address)) else None


async def _is_palaver(address: str) -> bool:
    timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(f"{address}/healthz") as response:
                return bool(await response.json() == {"status": "alive"})
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return False


async def ask_server(
    method: str,
    url: str,
    *,
    token: str | None,
    body: object = None,
    parameters: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # Any: JSON values
    """Return a server's answer to a request of the HTTP API. Raises `ServerError`, and
    `CallerError` when it refuses the request."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with aiohttp.ClientSession(headers=headers) as session:
            async with session.request(method, url, json=body, params=parameters) as response:
                answer: dict[str, Any] = await response.json()
    except (aiohttp.ClientError, ValueError) as error:
        raise ServerError(f"no Palaver server answers at {url}: {error}") from error
    if response.status == 200:
        return answer
    if response.status == Unauthenticated.status:
        raise Unauthenticated(f"the server requires a key: {TOKEN_HINT}")
    kinds = {NotFound.status: NotFound}
    kind = ServerError if response.status >= 500 else kinds.get(response.status, CallerError)
    raise kind(answer["error"]["message"])
