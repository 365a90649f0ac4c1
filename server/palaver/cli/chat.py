"""``palaver chat``: talk in the terminal, as a client of the websocket protocol."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import aiohttp
import click

from palaver.cli.console import Console
from palaver.cli.local_server import find_server, token_option
from palaver.cli.logs import configure_logging
from palaver.cli.terminal import Frame, Terminal
from palaver.errors import ServerError
from palaver.messages import new_id


@click.command()
@click.option("--url", help="Address of the server (default: see above).")
@click.option("--thread", default=None, help="Continue this conversation.")
@click.option("--person", default=None, help="Your id (default: the key's, else 'terminal').")
@token_option
@click.pass_obj
def chat(
    console: Console, url: str | None, thread: str | None, person: str | None, token: str | None
) -> None:
    """Talk with the skills in the terminal. Ctrl-C stops a reply, Ctrl-D ends.

    Uses the server that runs at the address of the settings. If none answers there, starts one for
    this chat.
    """
    person = person or (None if token else "terminal")
    hello = {"type": "hello", "thread": thread or new_id(), "person": person, "token": token}
    hello = {key: value for key, value in hello.items() if value is not None}
    address = url or find_server(console.settings.server)
    server = contextlib.nullcontext(address) if address else _start_server(console)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_chat(server, hello))


async def _chat(server: contextlib.AbstractAsyncContextManager[str], hello: Frame) -> None:
    async with contextlib.AsyncExitStack() as stack:
        address = (await stack.enter_async_context(server)).rstrip("/")
        session = await stack.enter_async_context(aiohttp.ClientSession())
        try:
            socket = await stack.enter_async_context(
                session.ws_connect(address + "/ws", max_msg_size=0)
            )
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ServerError(f"no Palaver server answers at {address}: {error}") from error
        await Terminal(socket).run(hello)


def _start_server(console: Console) -> contextlib.AbstractAsyncContextManager[str]:
    """Build a server of this process on a free port; entering yields its address."""
    from palaver.app import build_server
    from palaver.web.listener import listening  # imports the web framework, which is slow

    configure_logging(logging.ERROR)
    settings = console.override("server.port=0", "server.host=127.0.0.1").settings
    built = build_server(settings, console.registry)

    @contextlib.asynccontextmanager
    async def serving() -> AsyncIterator[str]:
        async with built as server, listening(server) as address:
            yield address

    return serving()
