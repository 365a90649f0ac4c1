"""``palaver chat``: talk in the terminal, as a client of the websocket protocol."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator

import aiohttp
import click

from palaver.cli.console import Console
from palaver.cli.terminal import Frame, Terminal
from palaver.errors import ServerError
from palaver.messages import new_id


@click.command()
@click.option("--url", help="A running server's address; without it, one is started for you.")
@click.option("--thread", default=None, help="Go on in this conversation.")
@click.option("--person", default="terminal", show_default=True, help="Who speaks.")
@click.option("--token", default=None, envvar="PALAVER_TOKEN", help="A key of the server.")
@click.pass_obj
def chat(
    console: Console, url: str | None, thread: str | None, person: str, token: str | None
) -> None:
    """Talk with the skills in the terminal. Ctrl-C stops a reply, Ctrl-D ends."""
    hello = {"type": "hello", "thread": thread or new_id(), "person": person, "token": token}
    hello = {key: value for key, value in hello.items() if value is not None}
    server = _running(url) if url else _own_server(console)
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
        except aiohttp.ClientError as error:
            raise ServerError(f"no Palaver server answers at {address}: {error}") from error
        await Terminal(socket).run(hello)


@contextlib.asynccontextmanager
async def _running(url: str) -> AsyncIterator[str]:
    yield url


def _own_server(console: Console) -> contextlib.AbstractAsyncContextManager[str]:
    """A server of this process, on a port of its own; yields its address."""
    from palaver.app import build_server, listening  # brings the web framework
    from palaver.config.loading import load_settings

    logging.basicConfig(level=logging.ERROR)
    overrides = (*console.overrides, "server.port=0", "server.host=127.0.0.1")
    settings = load_settings(console.settings_path, os.environ, overrides)
    built = build_server(settings, console.registry)

    @contextlib.asynccontextmanager
    async def serving() -> AsyncIterator[str]:
        async with built as server, listening(server) as address:
            yield address

    return serving()
