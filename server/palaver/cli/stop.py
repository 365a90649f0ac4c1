"""``palaver stop``: stop a turn of a running server."""

import asyncio
from typing import Any
from urllib.parse import quote

import aiohttp
import click

from palaver.cli.console import Console, echo
from palaver.cli.local_server import TOKEN_HINT, local_address
from palaver.errors import CallerError, NotFound, ServerError, Unauthenticated

STATES = {
    "stopping": "Stopping turn {turn}.",
    "settled": "Turn {turn} has ended already.",
    "unknown": "Nothing runs in {thread!r}.",
}


@click.command()
@click.argument("thread")
@click.argument("turn", default="")
@click.option("--url", help="Address of the server (default: as the settings say).")
@click.option("--person", default=None, help="Your id, with a key that may name persons.")
@click.option("--token", default=None, envvar="PALAVER_TOKEN", help="A key of the server.")
@click.pass_obj
def stop(
    console: Console, thread: str, turn: str, url: str | None, person: str | None, token: str | None
) -> None:
    """Stop the turn that runs in the conversation THREAD, or TURN of it.

    The text so far is kept. Stopping a turn again has no effect.
    """
    address = (url or local_address(console.settings.server)).rstrip("/")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    address += f"/v1/conversations/{quote(thread, safe='')}/stop"
    answer = asyncio.run(_post(address, {"turn": turn or None}, person, headers))
    if turn and answer["state"] == "unknown":
        raise NotFound(f"there is no turn {turn!r} in {thread!r}")
    echo(STATES[answer["state"]].format(turn=answer["turn"], thread=thread))


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
    if response.status == Unauthenticated.status:
        raise Unauthenticated(f"the server requires a key: {TOKEN_HINT}")
    if response.status != 200:
        kind = ServerError if response.status >= 500 else CallerError
        raise kind(answer["error"]["message"])
    return answer
