"""The server that runs on this machine with the same settings."""

import asyncio

import aiohttp

from palaver.config.settings import ServerSettings

HEALTH_TIMEOUT = 2.0
"""Seconds that a running server has to answer."""
TOKEN_HINT = "give a key of the server with --token or in PALAVER_TOKEN"


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
