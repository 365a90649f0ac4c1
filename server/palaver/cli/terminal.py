"""Terminal: what ``palaver chat`` shows, and what it sends."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import click

from palaver.errors import CallerError
from palaver.messages import new_id

Frame = dict[str, Any]  # a JSON object of the protocol

PROMPT = "> "
SAME_STEP = 0.05
"""Seconds within which the frames that tell of one step of the ledger arrive."""


class Queue:
    """The open turns of a conversation, in the order in which they are answered."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._begun: set[str] = set()
        self._mine: dict[str, str] = {}

    @property
    def busy(self) -> bool:
        """Whether a message of one's own has no reply yet."""
        return bool(self._mine)

    def write(self, message: str) -> None:
        """A message of one's own is on its way."""
        self._mine[message] = ""

    def forget(self, message: str) -> None:
        self._mine.pop(message, None)

    def restart(self, pending: list[Frame]) -> None:
        self._open = [turn["turn"] for turn in pending]
        self._begun = {turn["turn"] for turn in pending if turn["running"]}

    def receive(self, message: str, turn: str, *, moved: bool) -> None:
        if turn not in self._open:
            waiting = (n for n, each in enumerate(self._open) if each not in self._begun)
            place = next(waiting, len(self._open)) if moved else len(self._open)
            self._open.insert(place, turn)
        if message in self._mine:
            self._mine[message] = turn

    def begin(self, turn: str) -> None:
        self._begun.add(turn)

    def begun(self, turn: str) -> bool:
        return turn in self._begun

    def finish(self, turn: str) -> None:
        if turn in self._open:
            self._open.remove(turn)

    def settle(self) -> None:
        """Let go of one's own messages whose turns have finished."""
        self._mine = {m: turn for m, turn in self._mine.items() if not turn or turn in self._open}

    def ahead(self) -> list[int]:
        """How many turns come before each of one's own that wait, oldest first."""
        mine = set(self._mine.values())
        return [n for n, turn in enumerate(self._open) if n and turn in mine]


class Terminal:
    """Prints what comes, sends what is typed."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._queue = Queue()
        self._idle = asyncio.Event()
        self._texts: dict[str, str] = {}
        self._routed: set[str] = set()
        self._reading_on = sys.stdin.isatty()
        """Whether one may write on while a reply comes; lines of a file wait for the replies."""

    async def run(self, hello: Frame) -> None:
        await self._socket.send_json(hello)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt, ended)
        tasks = {asyncio.create_task(task) for task in (self._read(), self._ask(), _until(ended))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    def _interrupt(self, ended: asyncio.Event) -> None:
        """Ctrl-C stops the reply; without one it ends the conversation."""
        if self._queue.busy:
            self._stopping = asyncio.create_task(self._socket.send_json({"type": "stop"}))
        else:
            ended.set()

    # What is typed

    async def _ask(self) -> None:
        _write(PROMPT)
        async for line in _typed() if self._reading_on else _piped():
            if line.strip():
                await self._send(line)
            elif not self._queue.busy:
                _write(PROMPT)

    async def _send(self, text: str) -> None:
        frame = {"type": "send", "id": new_id(), "text": text}
        self._idle.clear()
        self._queue.write(frame["id"])
        await self._socket.send_json(frame)
        if not self._reading_on:
            await self._idle.wait()

    # What comes

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                self._show(message.json())
        raise CallerError(f"the server closed the connection ({self._socket.close_code})")

    def _show(self, frame: Frame) -> None:
        show = getattr(self, f"_show_{frame['type']}", None)
        if show is not None:
            show(frame)

    def _show_welcome(self, frame: Frame) -> None:
        pending = frame["snapshot"]["pending"]
        self._queue.restart(pending)
        self._texts |= {turn["turn"]: turn["reply"] for turn in pending}
        self._routed |= {turn["turn"] for turn in pending if turn["skill"]}

    _show_reset = _show_welcome

    def _show_ack(self, frame: Frame) -> None:
        if frame["joined"]:
            running = self._queue.begun(frame["turn"])
            _note("handed to the running skill" if running else "answered with the one before")

    def _show_message(self, frame: Frame) -> None:
        self._queue.receive(frame["id"], frame["turn"], moved=frame["moved"])
        if frame["ahead"]:
            self._show_place()

    def _show_place(self) -> None:
        for ahead in self._queue.ahead():
            _note(f"{ahead} ahead of you")

    def _show_queued(self, frame: Frame) -> None:
        _note(f"the model is busy, {frame['ahead']} ahead of you")

    def _show_started(self, frame: Frame) -> None:
        self._queue.begin(frame["turn"])
        if frame["attempt"] > 1:
            self._cut(frame)

    def _show_text(self, frame: Frame) -> None:
        shown = self._texts.get(frame["turn"], "")
        fresh = frame["text"][len(shown) - frame["position"] :]
        self._texts[frame["turn"]] = shown + fresh
        if frame["turn"] in self._routed:
            _write(fresh)

    def _show_text_reset(self, frame: Frame) -> None:
        self._cut(frame)

    def _cut(self, frame: Frame) -> None:
        shown = self._texts.get(frame["turn"], "")
        kept = self._texts[frame["turn"]] = shown[: frame["position"]]
        if kept != shown:
            _write(f"\n[the reply was taken back to here]\n{kept}")

    def _show_routed(self, frame: Frame) -> None:
        """The first words may have come before the skill's name."""
        if frame["turn"] not in self._routed:
            self._routed.add(frame["turn"])
            _write(click.style(f"[{frame['skill']}] ", dim=True))
            _write(self._texts.get(frame["turn"], ""))

    def _show_citation(self, frame: Frame) -> None:
        citation = frame["citation"]
        place = " · ".join(filter(None, (citation["title"], citation["section"])))
        _write(click.style(f"\n[{citation['number']}] {place}", dim=True))

    def _show_finished(self, frame: Frame) -> None:
        self._queue.finish(frame["turn"])
        if frame.get("problem"):
            _write(click.style(frame["problem"]["message"], fg="red"))
        elif frame["outcome"] == "stopped":
            _write(click.style(" [stopped]", dim=True))
        _write("\n")
        self._show_place()
        # What the turn did not take is told in the same step of the ledger.
        asyncio.get_running_loop().call_later(SAME_STEP, self._settle)

    def _show_error(self, frame: Frame) -> None:
        _write(click.style(frame["message"] + "\n", fg="red"))
        self._queue.forget(frame.get("id", ""))
        self._settle()

    def _settle(self) -> None:
        self._queue.settle()
        if not self._queue.busy and not self._idle.is_set():
            self._idle.set()
            _write(PROMPT)


async def _until(ended: asyncio.Event) -> None:
    await ended.wait()


async def _typed() -> AsyncIterator[str]:
    """Lines of a terminal, as they are typed."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes] = asyncio.Queue()
    number = sys.stdin.fileno()
    loop.add_reader(number, lambda: lines.put_nowait(os.read(number, 65_536)))
    while line := await lines.get():  # a terminal gives whole lines, and nothing at the end
        yield line.decode(errors="replace").rstrip("\n")
    loop.remove_reader(number)


async def _piped() -> AsyncIterator[str]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line.rstrip("\n")


def _note(text: str) -> None:
    _write(click.style(f"[{text}]\n", dim=True))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
