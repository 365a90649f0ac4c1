"""``palaver stop``: end a turn of a running server."""

import asyncio
from typing import Any
from urllib.parse import quote

import aiohttp
import click

from palaver.cli.console import Console
from palaver.config.settings import ServerSettings
from palaver.errors import NotFound, PalaverError, ServerError

STATES = {
    "stopping": "Stopping turn {turn}.",
    "settled": "Turn {turn} has ended already.",
    "unknown": "Nothing runs in {thread!r}.",
}


@click.command()
@click.argument("thread")
@click.argument("turn", default="")
@click.option("--url", help="The server's address (default: as the settings say).")
@click.option("--person", default=None, help="Who speaks, where the key leaves it open.")
@click.option("--token", default=None, envvar="PALAVER_TOKEN", help="A key of the server.")
@click.pass_obj
def stop(
    console: Console, thread: str, turn: str, url: str | None, person: str | None, token: str | None
) -> None:
    """Stop the turn that runs in the conversation THREAD, or TURN of it.

    What was said so far is kept. Stopping again does no harm.
    """
    address = (url or _address(console.settings.server)).rstrip("/")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    place = f"{address}/v1/conversations/{quote(thread, safe='')}/stop"
    answer = asyncio.run(_post(place, {"turn": turn or None}, person, headers))
    if turn and answer["state"] == "unknown":
        raise NotFound(f"there is no turn {turn!r} in {thread!r}")
    click.echo(STATES[answer["state"]].format(turn=answer["turn"], thread=thread))


def _address(server: ServerSettings) -> str:
    """Where a server with these settings answers on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    return f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"


async def _post(
    url: str, body: object, person: str | None, headers: dict[str, str]
) -> dict[str, Any]:  # Any: JSON values
    parameters = {"person": person} if person else {}
    try:
        async with aiohttp.ClientSession(headers=headers) as session:
            async with session.post(url, json=body, params=parameters) as response:
                answer: dict[str, Any] = await response.json()
    except (aiohttp.ClientError, ValueError) as error:
        raise ServerError(f"no Palaver server answers at {url}: {error}") from error
    if response.status != 200:
        raise PalaverError(answer["error"]["message"])
    return answer
