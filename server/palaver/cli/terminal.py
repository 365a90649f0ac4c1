"""Terminal: the display and the input of ``palaver chat``."""

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp

from palaver.cli.local_server import TOKEN_HINT
from palaver.cli.reply import Reply, write
from palaver.errors import CallerError, PalaverError, ServerError, Unauthenticated
from palaver.messages import new_id

Frame = dict[str, Any]  # a JSON object of the protocol

PROMPT = "> "
MAX_TOOL_TEXT = 200
"""Characters of a tool's arguments or result that are shown."""
_STATES = {
    "started": "begins",
    "done": "done",
    "failed": "failed",
    "denied": "not approved",
    "unknown": "it may or may not have run",
}
WHY = "/why"
"""Line that asks why a skill was chosen; it is not sent."""


class UnsettledTurns:
    """The unsettled turns of a conversation in their order, and the own messages in them."""

    def __init__(self) -> None:
        self._turns: list[str] = []
        self._started: set[str] = set()
        self._own: dict[str, str] = {}
        """Own messages without a reply → their turns, "" before the server has named one."""

    @property
    def is_waiting(self) -> bool:
        """Return whether an own message has no reply."""
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
        self._replies: dict[str, Reply] = {}
        self._asked: dict[str, str] = {}
        """Turns with a question → the id of the approval that it asks for, or nothing."""
        self._open_approval = ""
        """Id of the approval that the newest reply asks for; the next line answers it."""
        self._answers: set[str] = set()
        """Own messages that answer an approval."""
        self._newest_choice = ""
        """Why the skill of the newest reply was chosen."""
        self._is_interactive = sys.stdin.isatty()
        """False: each line of a file or pipe waits for the reply to the one before; no prompt."""

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
            if line.strip() == WHY:
                _note(self._newest_choice or "there is no reply yet")
                self._write_prompt()
            elif line.strip():
                await self._send(line)
            else:
                self._write_prompt()

    async def _send(self, text: str) -> None:
        frame = {"type": "send", "id": new_id(), "text": text}
        if self._open_approval and not text.startswith("/"):
            frame["answers"] = self._open_approval
            self._answers.add(frame["id"])
        self._open_approval = ""
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
            write("\n")
        raise ServerError(f"the server closed the connection (code {self._socket.close_code})")

    def _show(self, frame: Frame) -> None:
        show = getattr(self, f"_show_{frame['type']}", None)
        if show is not None:
            show(frame)

    def _show_welcome(self, frame: Frame) -> None:
        pending, history = frame["snapshot"]["pending"], frame["snapshot"]["history"]
        newest = history[-1] if history and not pending else {}
        self._open_approval = _approval_of(newest.get("question"))
        self._unsettled_turns.reset(pending)
        for turn in pending:
            reply = self._replies.get(turn["turn"], Reply())
            is_shown = reply.is_shown or bool(turn["skill"])
            self._replies[turn["turn"]] = Reply(turn["reply"], is_shown=is_shown)
        self._is_open = True
        self._prompt_when_idle()

    _show_reset = _show_welcome

    def _show_ack(self, frame: Frame) -> None:
        if frame["joined"]:
            is_steering = self._unsettled_turns.is_started(frame["turn"])
            _note("added to the running turn" if is_steering else "merged with the message before")

    def _show_message(self, frame: Frame) -> None:
        self._unsettled_turns.assign(frame["id"], frame["turn"], moved=frame["moved"])
        if frame["id"] in self._answers:
            self._answers.remove(frame["id"])
            self._reply(frame).expect_call()
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

    def _reply(self, frame: Frame) -> Reply:
        return self._replies.setdefault(frame["turn"], Reply())

    def _show_text(self, frame: Frame) -> None:
        reply = self._reply(frame)
        reply.add(frame["text"][len(reply.text) - frame["position"] :])

    def _show_text_reset(self, frame: Frame) -> None:
        reply = self._reply(frame)
        kept = reply.text[: frame["position"]]
        if kept != reply.text:
            reply.end()
            self._replies[frame["turn"]] = Reply(kept)
            if reply.is_shown:
                self._replies[frame["turn"]].show("\n[the reply continues from here]\n")

    def _show_routed(self, frame: Frame) -> None:
        """Show the skill, then the text that was received before it."""
        score = "" if frame.get("score") is None else f" ({frame['score']:.0%})"
        self._newest_choice = f"{frame['skill']}: {frame.get('reason', '')}{score}"
        if not self._reply(frame).is_shown:
            self._reply(frame).show(f"[{frame['skill']}] ")

    def _show_tool(self, frame: Frame) -> None:
        """Show the arguments of a call when it begins, and what has come of it."""
        reply, state = self._reply(frame), frame["state"]
        if state == "started":
            reply.begin_call(frame.get("call", ""), _describe_call(frame, frame["arguments"]))
        else:
            style = {"dim": True} if state == "done" else {"fg": "red"}
            reply.end_call(frame.get("call", ""), _describe_call(frame, frame["result"]), **style)

    def _show_question(self, frame: Frame) -> None:
        self._asked[frame["turn"]] = _approval_of(frame)

    def _show_citation(self, frame: Frame) -> None:
        citation = frame["citation"]
        source = " · ".join(filter(None, (citation["title"], citation["section"])))
        self._reply(frame).note(f"[{citation['number']}] {source}", dim=True)

    def _show_finished(self, frame: Frame) -> None:
        self._unsettled_turns.finish(frame["turn"], frame["messages"])
        reply = self._replies.pop(frame["turn"], Reply())
        reply.end()
        self._open_approval = self._asked.pop(frame["turn"], "")
        if frame.get("problem"):
            write(frame["problem"]["message"] + "\n", fg="red")
        elif frame["outcome"] == "stopped":
            write(" [stopped]\n", dim=True)
        elif not reply.ends_with_note:
            write("\n")
        self._show_positions()
        self._prompt_when_idle()

    def _show_error(self, frame: Frame) -> None:
        if not self._is_open:
            raise _refusal(frame)
        write(frame["message"] + "\n", fg="red")
        if frame.get("retry_after"):
            _note(f"try again in {math.ceil(frame['retry_after'])} s")
        self._unsettled_turns.remove_own(frame.get("id", ""))
        self._prompt_when_idle()

    def _prompt_when_idle(self) -> None:
        if not self._unsettled_turns.is_waiting and not self._idle.is_set():
            self._idle.set()
            self._write_prompt()

    def _write_prompt(self) -> None:
        if self._is_interactive and not self._unsettled_turns.is_waiting:
            write(PROMPT)


def _describe_call(frame: Frame, value: Any) -> str:  # Any: a JSON value
    """Return the tool, the state of its call, and its arguments or result in one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    if len(text) > MAX_TOOL_TEXT:
        text = text[: MAX_TOOL_TEXT - 1] + "…"
    note = f"{frame['name']}: {_STATES.get(frame['state'], frame['state'])}"
    return f"[{note}{' ' if text else ''}{text}]"


def _approval_of(question: Frame | None) -> str:
    """Return the id of the approval that a question asks for, or nothing."""
    return str(((question or {}).get("approval") or {}).get("id", ""))


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
    write(f"[{text}]\n", dim=True)
