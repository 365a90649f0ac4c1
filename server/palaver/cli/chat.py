"""``palaver chat``: talk in the terminal, as a client of the websocket protocol."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import click

from palaver.cli.console import Console
from palaver.errors import CallerError, ServerError
from palaver.messages import new_id

Frame = dict[str, Any]  # a JSON object of the protocol


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
        await _Terminal(socket).run(hello)


@contextlib.asynccontextmanager
async def _running(url: str) -> AsyncIterator[str]:
    yield url


def _own_server(console: Console) -> contextlib.AbstractAsyncContextManager[str]:
    """A server of this process, on a port of its own; yields its address."""
    from palaver.app import build_server, listening  # brings the web framework
    from palaver.configuration import load_settings

    logging.basicConfig(level=logging.ERROR)
    overrides = (*console.overrides, "server.port=0", "server.host=127.0.0.1")
    settings = load_settings(console.config, os.environ, overrides)
    built = build_server(settings, console.registry)

    @contextlib.asynccontextmanager
    async def serving() -> AsyncIterator[str]:
        async with built as server, listening(server) as address:
            yield address

    return serving()


class _Terminal:
    """Prints what comes, sends what is typed."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._finished = asyncio.Event()
        self._texts: dict[str, str] = {}

    async def run(self, hello: Frame) -> None:
        await self._socket.send_json(hello)
        reading = asyncio.create_task(self._read())
        asking = asyncio.create_task(self._ask())
        done, pending = await asyncio.wait({reading, asking}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()

    async def _ask(self) -> None:
        while True:
            line = await asyncio.to_thread(_prompt)
            if line is None:
                return
            if line.strip():
                self._finished.clear()
                await self._socket.send_json({"type": "send", "id": new_id(), "text": line})
                await self._until_finished()

    async def _until_finished(self) -> None:
        """Wait for the reply; Ctrl-C stops it."""
        loop = asyncio.get_running_loop()
        interrupted = asyncio.Event()
        loop.add_signal_handler(signal.SIGINT, interrupted.set)
        stopping = asyncio.create_task(self._stop_after(interrupted))
        try:
            await self._finished.wait()
        finally:
            stopping.cancel()
            loop.remove_signal_handler(signal.SIGINT)

    async def _stop_after(self, interrupted: asyncio.Event) -> None:
        await interrupted.wait()
        await self._socket.send_json({"type": "stop"})

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                self._show(json.loads(message.data))
        reason = self._socket.close_code
        raise CallerError(f"the server closed the connection ({reason})")

    def _show(self, frame: Frame) -> None:
        show = getattr(self, f"_show_{frame['type']}", None)
        if show is not None:
            show(frame)

    def _show_text(self, frame: Frame) -> None:
        shown = self._texts.get(frame["turn"], "")
        fresh = frame["text"][len(shown) - frame["position"] :]
        self._texts[frame["turn"]] = shown + fresh
        _write(fresh)

    def _show_text_reset(self, frame: Frame) -> None:
        shown = self._texts.get(frame["turn"], "")[: frame["position"]]
        self._texts[frame["turn"]] = shown
        _write(f"\n[the reply was taken back to here]\n{shown}")

    def _show_routed(self, frame: Frame) -> None:
        _write(click.style(f"[{frame['skill']}] ", dim=True))

    def _show_citation(self, frame: Frame) -> None:
        citation = frame["citation"]
        place = " · ".join(filter(None, (citation["title"], citation["section"])))
        _write(click.style(f"\n[{citation['number']}] {place}", dim=True))

    def _show_finished(self, frame: Frame) -> None:
        if frame.get("problem"):
            _write(click.style(frame["problem"]["message"], fg="red"))
        elif frame["outcome"] == "stopped":
            _write(click.style(" [stopped]", dim=True))
        _write("\n")
        self._finished.set()

    def _show_error(self, frame: Frame) -> None:
        _write(click.style(frame["message"] + "\n", fg="red"))
        self._finished.set()


def _prompt() -> str | None:
    """One typed line, or None at the end of the input."""
    try:
        return input("> ")
    except EOFError:
        return None


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
