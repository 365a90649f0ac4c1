"""RunEvents: the events of one run, made of what has changed in the reply since the last ones.

Between the reply and a slow client stands no queue: what is sent is the difference between the
reply and what the client has. Every event that is opened is closed before the run ends, and the run
ends with one event.
"""

import datetime
import functools
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from palaver import (
    Approval,
    ClientCall,
    HistoryEntry,
    PalaverError,
    Problem,
    ProgramRequest,
    Question,
    ReplyResult,
    SentMessage,
    Snapshot,
    Usage,
)
from palaver_plugins.channels.agui.reply import AguiReply, Json, ToolCallView, calls_of
from palaver_plugins.channels.agui.run_input import (
    APPROVAL_SCHEMA,
    OWN_KEY,
    RunInput,
    other_messages,
)

PROTOCOL_VERSION = "1.0"


class RunEvents:
    """What a client has of one run."""

    def __init__(self, run: RunInput) -> None:
        self.messages = run.messages
        """Messages before the reply, as the client has them."""
        self._run = run
        self._client_state: Json = run.state or {}
        self._message_id = ""
        self._sent_length = 0
        self._is_text_open = False
        self._sent_calls: dict[str, ToolCallView] = {}
        self._sent_state: Json = {}

    # The beginning and the end

    def started(self) -> Json:
        event = self._of_run("RUN_STARTED") | {"protocolVersion": PROTOCOL_VERSION}
        if self._run.parent_run_id is not None:
            event["parentRunId"] = self._run.parent_run_id
        return event

    def finished(self, result: ReplyResult) -> Iterator[Json]:
        """Yield the events that end a run with the result of its turn."""
        yield from self._close_text()
        if result.outcome == "failed":
            yield _run_error(result.problem or Problem("internal", PalaverError.public_message))
            return
        event = self._of_run("RUN_FINISHED") | {"outcome": _outcome(result)}
        if result.usage != Usage():
            event["usage"] = [_usage(result.usage)]
        yield event

    def restored(self, history: Sequence[HistoryEntry]) -> Iterator[Json]:
        """Yield all events of a run in which no turn runs: the client gets its messages."""
        yield self.started()
        yield _messages_snapshot(self.messages)
        yield self._of_run("RUN_FINISHED") | {"outcome": _open_question(history)}

    def failed(self, error: PalaverError) -> Iterator[Json]:
        yield from self._close_text()
        yield _run_error(Problem(error.code, error.public))

    def abandoned(self) -> Iterator[Json]:
        """Yield all events of a run that only abandons a question."""
        yield self.started()
        yield self._of_run("RUN_FINISHED") | {"outcome": {"type": "cancelled"}}

    def _of_run(self, kind: str) -> Json:
        return {"type": kind, "threadId": self._run.thread_id, "runId": self._run.run_id}

    # The reply

    def changes(self, reply: AguiReply) -> Iterator[Json]:
        """Yield events for what is new in the reply."""
        if self._message_id and self._message_id != reply.receipt.turn:
            yield from self._close_text()
            reply.was_reset = True
        self._message_id = reply.receipt.turn
        if reply.was_reset:
            yield from self._replace(reply)
        yield from self._state_changes(reply.state)
        for call in list(reply.calls.values()):
            yield from self._call_changes(call)
        yield from self._append_text(reply.text)

    def _replace(self, reply: AguiReply) -> Iterator[Json]:
        """Yield all messages, with the reply as it is now: some of what was sent is withdrawn."""
        reply.was_reset = False
        own = self._own_messages(reply)
        own_ids = {reply.receipt.turn, *reply.calls}
        yield _messages_snapshot([*other_messages(self.messages, own_ids), *own])
        self._sent_calls = dict(reply.calls)
        self._sent_length = len(reply.text)

    def _own_messages(self, reply: AguiReply) -> list[Json]:
        if not (reply.text or reply.calls):
            return []
        turn, calls = reply.receipt.turn, reply.calls.values()
        known = {call.id for call in calls if self._is_known(call)}
        return list(_reply_messages(turn, reply.text, calls, known))

    def _is_known(self, call: ToolCallView) -> bool:
        """Return whether the client has the call in another message, which has asked about it."""
        return self._client_calls.get(call.id, self._message_id) != self._message_id

    @functools.cached_property
    def _client_calls(self) -> dict[str, str]:
        """Return the ids of the client's messages, by those of their calls."""
        return {id: message["id"] for message in self.messages for id in _call_ids(message)}

    def _append_text(self, text: str) -> Iterator[Json]:
        if len(text) <= self._sent_length:
            return
        if not self._is_text_open:
            self._is_text_open = True
            yield self._of_text("TEXT_MESSAGE_START") | {"role": "assistant"}
        yield self._of_text("TEXT_MESSAGE_CONTENT") | {"delta": text[self._sent_length :]}
        self._sent_length = len(text)

    def _close_text(self) -> Iterator[Json]:
        if self._is_text_open:
            self._is_text_open = False
            yield self._of_text("TEXT_MESSAGE_END")

    def _of_text(self, kind: str) -> Json:
        return {"type": kind, "messageId": self._message_id}

    def _call_changes(self, call: ToolCallView) -> Iterator[Json]:
        sent = self._sent_calls.get(call.id)
        self._sent_calls[call.id] = call
        about = {"toolCallId": call.id}
        if sent is None and not self._is_known(call):
            yield {
                "type": "TOOL_CALL_START",
                **about,
                "toolCallName": call.name,
                "parentMessageId": self._message_id,
            }
            yield {"type": "TOOL_CALL_ARGS", **about, "delta": call.arguments}
            yield {"type": "TOOL_CALL_END", **about}
        if call.state != "started" and (sent is None or sent.state == "started"):
            message = {"messageId": _result_id(call), "content": call.content}
            yield {"type": "TOOL_CALL_RESULT", **about, **message}

    def _state_changes(self, state: Json) -> Iterator[Json]:
        """Yield the client's state with the server's part, then JSON Patches (RFC 6902) of it."""
        if not self._sent_state:
            self._sent_state = state
            yield {"type": "STATE_SNAPSHOT", "snapshot": {**self._client_state, OWN_KEY: state}}
            return
        operations: list[Json] = []
        for name, value in state.items():
            sent = self._sent_state.get(name)
            path = f"/{OWN_KEY}/{name}"
            if isinstance(value, list) and isinstance(sent, list) and value[: len(sent)] == sent:
                new = value[len(sent) :]
                operations += [{"op": "add", "path": f"{path}/-", "value": it} for it in new]
            elif value != sent:
                operations.append({"op": "replace", "path": path, "value": value})
        self._sent_state = state
        if operations:
            yield {"type": "STATE_DELTA", "delta": operations}


def _messages_snapshot(messages: list[Json]) -> Json:
    return {"type": "MESSAGES_SNAPSHOT", "messages": messages}


def known_messages(snapshot: Snapshot) -> list[Json]:
    """Return the messages of a conversation, without replies that are not complete."""
    messages: list[Json] = []
    known: set[str] = set()
    for entry in snapshot.history:
        if entry.role == "user":
            messages += _sent_messages(entry.turn, entry.text, entry.input or ())
        else:
            calls = calls_of(entry)
            messages += _reply_messages(entry.turn, entry.text, calls.values(), known)
            known.update(calls)
    for waiting in snapshot.pending:
        program = waiting.message.program or ProgramRequest()
        messages += _sent_messages(waiting.turn, waiting.message.text, program.input)
    return messages


def _sent_messages(turn: str, text: str, results: Sequence[SentMessage]) -> Iterator[Json]:
    """Yield what began a turn: a message of the user, or results of the client's tools."""
    if not results:
        yield {"id": f"{turn}.user", "role": "user", "content": text}
    for sent in results:
        message = {"id": f"{sent.call}.result", "role": "tool", "content": sent.text}
        yield message | {"toolCallId": sent.call}


def _reply_messages(
    turn: str, text: str, calls: Iterable[ToolCallView], known: AbstractSet[str]
) -> Iterator[Json]:
    """Yield a reply with its calls and their results. Those of calls that are ``known`` from an
    earlier message come first: they follow that."""
    ended = [call for call in calls if call.state != "started"]
    yield from (_tool_message(call) for call in ended if call.id in known)
    message: Json = {"id": turn, "role": "assistant", "content": text}
    if own := [_tool_call(call) for call in calls if call.id not in known]:
        message["toolCalls"] = own
    yield message
    yield from (_tool_message(call) for call in ended if call.id not in known)


def _call_ids(message: Json) -> Iterator[str]:
    """Yield the ids of the calls in a message of the client, which may be anything."""
    calls = message.get("toolCalls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict) and isinstance(call.get("id"), str):
            yield call["id"]


def _run_error(problem: Problem) -> Json:
    return {"type": "RUN_ERROR", "message": problem.message, "code": problem.code}


def _interrupt(turn: str, question: Question) -> Json:
    """Return the outcome with a question. Its answer is a text, or the decision about a call."""
    if question.approval:
        about = _of_approval(question.approval)
    else:
        schema: Json = {"type": "string", "minLength": 1}
        if question.options:
            schema["examples"] = list(question.options)
        about = {"reason": "input_required", "responseSchema": schema}
    asked = {"id": turn, "message": question.text, **about}
    return {"type": "interrupt", "interrupts": [asked]}


def _of_approval(approval: Approval) -> Json:
    """Return the part of an interrupt that is about the call of a tool."""
    expires = datetime.datetime.fromtimestamp(approval.expires_at, datetime.UTC)
    return {
        "reason": "tool_call",
        "toolCallId": approval.id,
        "responseSchema": APPROVAL_SCHEMA,
        "expiresAt": expires.isoformat(timespec="milliseconds"),
        "metadata": {
            "tool": approval.tool,
            "description": approval.description,
            "arguments": approval.arguments,
            "shownArguments": approval.shown_arguments,
        },
    }


def _outcome(result: ReplyResult) -> Json:
    if result.client_calls:
        return _waiting(result.client_calls)
    if result.outcome == "done":
        return {"type": "success"}
    if result.outcome == "asked":
        text, options = result.question or "", result.options
        question = Question(text=text, options=options, approval=result.approval)
        return _interrupt(result.turn, question)
    return {"type": "cancelled"}


def _open_question(history: Sequence[HistoryEntry]) -> Json:
    newest = history[-1] if history else None
    if newest is not None and newest.client_calls:
        return _waiting(newest.client_calls)
    if newest is None or newest.outcome != "asked" or not newest.question:
        return {"type": "success"}
    return _interrupt(newest.turn, newest.question)


def _waiting(calls: Sequence[ClientCall]) -> Json:
    """Return the outcome with calls of the client's tools: the next run brings their results."""
    return {"type": "success", "pendingToolCallIds": [call.id for call in calls]}


def _usage(usage: Usage) -> Json:
    return {
        "inputTokens": usage.prompt_tokens,
        "outputTokens": usage.completion_tokens,
        "cachedInputTokens": usage.cached_tokens,
        "totalTokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _tool_call(call: ToolCallView) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _tool_message(call: ToolCallView) -> Json:
    return {
        "id": _result_id(call),
        "role": "tool",
        "toolCallId": call.id,
        "content": call.content,
    }


def _result_id(call: ToolCallView) -> str:
    return f"{call.id}.result"
