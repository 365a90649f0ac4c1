"""Terminal: the display and the input of ``palaver chat``."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp

from palaver.cli.console import echo
from palaver.cli.local_server import TOKEN_HINT
from palaver.errors import CallerError, PalaverError, ServerError, Unauthenticated
from palaver.messages import new_id

Frame = dict[str, Any]  # a JSON object of the protocol

PROMPT = "> "


class UnsettledTurns:
    """The unsettled turns of a conversation in their order, and the own messages in them."""

    def __init__(self) -> None:
        self._turns: list[str] = []
        self._started: set[str] = set()
        self._own: dict[str, str] = {}
        """Own messages without a reply → their turns, "" before the server has named one."""

    @property
    def is_waiting(self) -> bool:
        """True while an own message has no reply."""
        return bool(self._own)

    def add_own(self, message: str) -> None:
        """Add an own message that is being sent."""
        self._own[message] = ""

    def remove_own(self, message: str) -> None:
        self._own.pop(message, None)

    def reset(self, pending: list[Frame]) -> None:
        """Replace the turns by those of a snapshot."""
        self._turns = [turn["turn"] for turn in pending]
        self._started = {turn["turn"] for turn in pending if turn["running"]}
        turns = {message["id"]: turn["turn"] for turn in pending for message in turn["messages"]}
        self._own = {
            message: turns.get(message, "")
            for message, turn in self._own.items()
            if not turn or message in turns
        }

    def assign(self, message: str, turn: str, *, moved: bool) -> None:
        """Store the turn of a message. The turn of a moved message precedes those that wait."""
        if turn not in self._turns:
            waiting = (n for n, other in enumerate(self._turns) if other not in self._started)
            position = next(waiting, len(self._turns)) if moved else len(self._turns)
            self._turns.insert(position, turn)
        if message in self._own:
            self._own[message] = turn

    def start(self, turn: str) -> None:
        self._started.add(turn)

    def is_started(self, turn: str) -> bool:
        return turn in self._started

    def finish(self, turn: str, messages: Sequence[str]) -> None:
        """Remove a turn and the messages that it took; its other messages move to the next turn."""
        if turn in self._turns:
            self._turns.remove(turn)
        for message in messages:
            self.remove_own(message)

    def positions(self) -> list[int]:
        """Return the number of turns ahead of each waiting turn with an own message."""
        own = set(self._own.values())
        return [n for n, turn in enumerate(self._turns) if n and turn in own]


class Terminal:
    """Prints the frames of a server and sends the lines of standard input."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._unsettled_turns = UnsettledTurns()
        self._idle = asyncio.Event()
        self._is_open = False
        self._texts: dict[str, str] = {}
        self._routed: set[str] = set()
        self._is_interactive = sys.stdin.isatty()
        """False: each line of a file or pipe waits for the reply to the one before."""

    async def run(self, hello: Frame) -> None:
        """Talk until the input ends.

        Raises `ServerError` when the connection ends first, `CallerError` when the server refuses
        the conversation.
        """
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt, ended)
        work = self._receive(), self._send_input(hello), _wait_for(ended)
        tasks = {asyncio.create_task(task) for task in work}
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
        """Stop the running reply; without one, end."""
        if self._unsettled_turns.is_waiting:
            self._stopping = asyncio.create_task(self._send_frame({"type": "stop"}))
        else:
            ended.set()

    # Input

    async def _send_input(self, hello: Frame) -> None:
        await self._send_frame(hello)
        await self._idle.wait()
        async for line in _terminal_lines() if self._is_interactive else _piped_lines():
            if line.strip():
                await self._send(line)
            elif not self._unsettled_turns.is_waiting:
                _write(PROMPT)

    async def _send(self, text: str) -> None:
        frame = {"type": "send", "id": new_id(), "text": text}
        self._idle.clear()
        self._unsettled_turns.add_own(frame["id"])
        await self._send_frame(frame)
        if not self._is_interactive:
            await self._idle.wait()

    async def _send_frame(self, frame: Frame) -> None:
        with contextlib.suppress(ConnectionError):  # `_receive` reports the end of the connection
            await self._socket.send_json(frame)

    # Output

    async def _receive(self) -> None:
        async for message in self._socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                self._show(message.json())
        if self._is_open:
            _write("\n")
        raise ServerError(f"the server closed the connection (code {self._socket.close_code})")

    def _show(self, frame: Frame) -> None:
        show = getattr(self, f"_show_{frame['type']}", None)
        if show is not None:
            show(frame)

    def _show_welcome(self, frame: Frame) -> None:
        pending = frame["snapshot"]["pending"]
        self._unsettled_turns.reset(pending)
        self._texts |= {turn["turn"]: turn["reply"] for turn in pending}
        self._routed |= {turn["turn"] for turn in pending if turn["skill"]}
        self._is_open = True
        self._prompt_when_idle()

    _show_reset = _show_welcome

    def _show_ack(self, frame: Frame) -> None:
        if frame["joined"]:
            is_steering = self._unsettled_turns.is_started(frame["turn"])
            _note("added to the running turn" if is_steering else "merged with the message before")

    def _show_message(self, frame: Frame) -> None:
        self._unsettled_turns.assign(frame["id"], frame["turn"], moved=frame["moved"])
        if frame["ahead"]:
            self._show_positions()

    def _show_positions(self) -> None:
        for ahead in self._unsettled_turns.positions():
            _note(f"{ahead} ahead of you")

    def _show_queued(self, frame: Frame) -> None:
        _note(f"the model is busy, {frame['ahead']} ahead of you")

    def _show_started(self, frame: Frame) -> None:
        self._unsettled_turns.start(frame["turn"])
        if frame["attempt"] > 1:
            self._show_text_reset(frame)

    def _show_text(self, frame: Frame) -> None:
        shown = self._texts.get(frame["turn"], "")
        new = frame["text"][len(shown) - frame["position"] :]
        self._texts[frame["turn"]] = shown + new
        if frame["turn"] in self._routed:
            _write(new)

    def _show_text_reset(self, frame: Frame) -> None:
        shown = self._texts.get(frame["turn"], "")
        kept = self._texts[frame["turn"]] = shown[: frame["position"]]
        if kept != shown:
            _write(f"\n[the reply continues from here]\n{kept}")

    def _show_routed(self, frame: Frame) -> None:
        """Show the skill, then the text that was received before it."""
        if frame["turn"] not in self._routed:
            self._routed.add(frame["turn"])
            _write(f"[{frame['skill']}] ", dim=True)
            _write(self._texts.get(frame["turn"], ""))

    def _show_citation(self, frame: Frame) -> None:
        citation = frame["citation"]
        source = " · ".join(filter(None, (citation["title"], citation["section"])))
        _write(f"\n[{citation['number']}] {source}", dim=True)

    def _show_finished(self, frame: Frame) -> None:
        self._unsettled_turns.finish(frame["turn"], frame["messages"])
        if frame.get("problem"):
            _write(frame["problem"]["message"], fg="red")
        elif frame["outcome"] == "stopped":
            _write(" [stopped]", dim=True)
        _write("\n")
        self._show_positions()
        self._prompt_when_idle()

    def _show_error(self, frame: Frame) -> None:
        if not self._is_open:
            raise _refusal(frame)
        _write(frame["message"] + "\n", fg="red")
        self._unsettled_turns.remove_own(frame.get("id", ""))
        self._prompt_when_idle()

    def _prompt_when_idle(self) -> None:
        if not self._unsettled_turns.is_waiting and not self._idle.is_set():
            self._idle.set()
            _write(PROMPT)


def _refusal(frame: Frame) -> PalaverError:
    """Return the error for a conversation that the server does not open."""
    if frame["code"] == Unauthenticated.code:
        return Unauthenticated(f"the server requires a key: {TOKEN_HINT}")
    kind = ServerError if frame.get("retry_after") else CallerError
    return kind(frame["message"])


async def _wait_for(ended: asyncio.Event) -> None:
    await ended.wait()


async def _terminal_lines() -> AsyncIterator[str]:
    """Yield the lines of a terminal as they are typed."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes] = asyncio.Queue()
    number = sys.stdin.fileno()
    loop.add_reader(number, lambda: lines.put_nowait(os.read(number, 65_536)))
    while line := await lines.get():  # a terminal delivers whole lines, and b"" at the end
        yield line.decode(errors="replace").rstrip("\n")
    loop.remove_reader(number)


async def _piped_lines() -> AsyncIterator[str]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line.rstrip("\n")


def _note(text: str) -> None:
    _write(f"[{text}]\n", dim=True)


def _write(text: str, **style: Any) -> None:  # Any: click's own
    echo(text, keep_lines=True, nl=False, **style)
