"""``palaver healthcheck``: tell a container or a script whether the local server is ready."""

import asyncio

import aiohttp
import click
import msgspec

from palaver.cli.console import Console, echo
from palaver.cli.local_server import local_address, token_option, url_option
from palaver.errors import CallerError

TIMEOUT = 4.0
"""Seconds that the server has to answer; a container's own timeout must be longer."""


class Readiness(msgspec.Struct):
    """The answer of ``/readyz``."""

    status: str
    problems: dict[str, str]


@click.command()
@url_option
@token_option
@click.pass_obj
def healthcheck(console: Console, url: str | None, token: str | None) -> None:
    """Tell whether the running server accepts messages.

    One line, and the exit code 0 if it does, else 1. With a key that has the right "operate", the
    line has the details.
    """
    server = console.settings.server
    if not url and server.port == 0:
        raise CallerError("server.port is 0, any free port: name the server with --url")
    address = (url or local_address(server)).rstrip("/")
    problem = asyncio.run(find_problem(address, token))
    echo(f"{address} is not ready: {problem}" if problem else f"{address} is ready")
    click.get_current_context().exit(1 if problem else 0)


async def find_problem(address: str, token: str | None, seconds: float = TIMEOUT) -> str:
    """Return why the server at ``address`` accepts no messages; empty when it does."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with (
            asyncio.timeout(seconds),
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{address}/readyz") as response,
        ):
            readiness = msgspec.json.decode(await response.read(), type=Readiness)
    except TimeoutError:
        return f"no answer in {seconds:g} seconds"
    except msgspec.DecodeError:
        return f"an unexpected answer with status {response.status}"
    except (aiohttp.ClientError, ValueError) as error:
        return str(error)
    if readiness.status == "ready":
        return ""
    return "; ".join(f"{component}: {text}" for component, text in readiness.problems.items())
