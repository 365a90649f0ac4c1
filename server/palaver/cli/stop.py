"""``palaver stop``: stop a turn of a running server."""

import asyncio
from urllib.parse import quote

import click

from palaver.cli.console import Console, echo
from palaver.cli.local_server import ask_server, local_address, token_option, url_option
from palaver.errors import NotFound

STATES = {
    "stopping": "Stopping turn {turn}.",
    "settled": "Turn {turn} has ended already.",
    "unknown": "Nothing runs in {thread!r}.",
}


@click.command()
@click.argument("thread")
@click.argument("turn", default="")
@url_option
@click.option("--person", default=None, help="Your id, with a key that may name persons.")
@token_option
@click.pass_obj
def stop(
    console: Console, thread: str, turn: str, url: str | None, person: str | None, token: str | None
) -> None:
    """Stop a turn of a running server.

    Without TURN, the one that runs in the conversation THREAD. The text so far is kept. Stopping
    a turn again has no effect.
    """
    address = (url or local_address(console.settings.server)).rstrip("/")
    address += f"/v1/conversations/{quote(thread, safe='')}/stop"
    parameters = {"person": person} if person else {}
    body = {"turn": turn or None}
    answer = asyncio.run(ask_server("POST", address, token=token, body=body, parameters=parameters))
    if turn and answer["state"] == "unknown":
        raise NotFound(f"there is no turn {turn!r} in {thread!r}")
    echo(STATES[answer["state"]].format(turn=answer["turn"], thread=thread))
