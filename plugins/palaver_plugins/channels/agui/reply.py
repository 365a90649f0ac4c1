"""AguiReply: the reply to a run as the ledger tells it, with its calls of tools and its state."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import msgspec

from palaver import (
    Approval,
    Asked,
    Cited,
    ClientCall,
    Cursor,
    Event,
    Finished,
    HistoryEntry,
    PendingReply,
    Queued,
    Receipt,
    Routed,
    Snapshot,
    Started,
    ToolCalled,
    ToolState,
    encode,
)

Json = dict[str, Any]  # JSON values


@dataclasses.dataclass(frozen=True, slots=True)
class ToolCallView:
    """A call of a tool as the client sees it. ``arguments`` are JSON, as far as the model wrote it
    for a tool of the client."""

    id: str
    name: str
    arguments: str
    state: ToolState
    result: str

    @property
    def content(self) -> str:
        """Return what the client gets as the result, once the call has ended."""
        return self.result or ("" if self.state == "done" else f"({self.state})")


class AguiReply(PendingReply):
    """The reply to one message so far. Everything is a function of the events of the turn."""

    def __init__(self, message_id: str, receipt: Receipt) -> None:
        super().__init__(message_id, receipt)
        self.calls: dict[str, ToolCallView] = {}
        self.ahead = receipt.ahead
        self.reason = ""

    @property
    def state(self) -> Json:
        """Return the server's part of the state."""
        reply = self.reply
        return {
            "turn": reply.turn,
            "skill": reply.skill,
            "reason": self.reason,
            "ahead": self.ahead,
            "citations": [_plain(each) for each in reply.citations],
            "attachments": [_plain(each) for each in reply.attachments],
        }

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        turn = self.receipt.turn
        super().on_event(event, cursor)
        if turn != self.receipt.turn:  # another turn answers the message
            self._forget()
        if event.turn == self.receipt.turn:
            self._note(event)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        self._forget()
        for pending in snapshot.pending:
            if pending.turn == self.receipt.turn:
                for event in pending.events:
                    self._note(event)
        for entry in snapshot.history:
            if entry.turn == self.receipt.turn and entry.role == "assistant":
                self._note_settled(entry)
        super().on_snapshot(snapshot)
        self.was_reset = True

    def _note(self, event: Event) -> None:
        match event:
            case ToolCalled():
                id = event.call or f"{event.turn}-{event.name}"
                arguments = _as_json(event.arguments)
                self.calls[id] = ToolCallView(id, event.name, arguments, event.state, event.result)
            case Asked(approval=approval) if approval:
                self.calls[approval.id] = _waiting_call(approval)
            case Finished(client_calls=calls):
                self.calls.update(_client_calls(calls or ()))
            case Queued(ahead=ahead):
                self.ahead = ahead
            case Started() | Cited():
                self.ahead = 0
            case Routed(reason=reason):
                self.reason, self.ahead = reason, 0
            case _:
                pass

    def _note_settled(self, entry: HistoryEntry) -> None:
        self.ahead, self.reason = 0, entry.reason or ""
        self.calls.update(calls_of(entry))

    def _forget(self) -> None:
        self.calls.clear()
        self.reason, self.ahead = "", 0


def calls_of(entry: HistoryEntry) -> dict[str, ToolCallView]:
    """Return the calls of a reply in the history, by their ids."""
    calls: dict[str, ToolCallView] = {}
    for number, used in enumerate(entry.tools or ()):
        id = used.call or f"{entry.turn}-{used.name}-{number}"
        calls[id] = ToolCallView(id, used.name, _as_json(used.arguments), used.state, used.result)
    if entry.question and entry.question.approval:
        waiting = _waiting_call(entry.question.approval)
        calls[waiting.id] = waiting
    return calls | _client_calls(entry.client_calls or ())


def _client_calls(calls: Sequence[ClientCall]) -> dict[str, ToolCallView]:
    return {it.id: ToolCallView(it.id, it.name, it.arguments, "started", "") for it in calls}


def _waiting_call(approval: Approval) -> ToolCallView:
    """Return the call that a person is asked about. Once it is answered, another reply has it."""
    arguments = _as_json(approval.arguments)
    return ToolCallView(approval.id, approval.tool, arguments, "started", "")


def _as_json(arguments: Json) -> str:
    return encode(arguments).decode()


def _plain(value: object) -> Json:
    plain: Json = msgspec.to_builtins(value)
    return plain
