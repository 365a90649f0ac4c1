"""RunEvents: the events of one run, made of what has changed in the reply since the last ones.

Between the reply and a slow client stands no queue: what is sent is the difference between the
reply and what the client has. Every event that is opened is closed before the run ends, and the run
ends with one event.
"""

from collections.abc import Iterator, Sequence

from palaver import HistoryEntry, PalaverError, Problem, ReplyResult, Snapshot, Usage, encode
from palaver_plugins.channels.agui.reply import AguiReply, Json, ToolCallView
from palaver_plugins.channels.agui.run_input import OWN_KEY, RunInput, other_messages

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
        message: Json = {"id": reply.receipt.turn, "role": "assistant", "content": reply.text}
        if reply.calls:
            message["toolCalls"] = [_tool_call(call) for call in reply.calls.values()]
        ended = [call for call in reply.calls.values() if call.state != "started"]
        return [message, *map(_tool_message, ended)]

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
        if sent is None:
            yield {
                "type": "TOOL_CALL_START",
                **about,
                "toolCallName": call.name,
                "parentMessageId": self._message_id,
            }
            yield {"type": "TOOL_CALL_ARGS", **about, "delta": encode(call.arguments).decode()}
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
    messages = [_message(entry.turn, entry.role, entry.text) for entry in snapshot.history]
    waiting = [_message(it.turn, "user", it.message.text) for it in snapshot.pending]
    return [*messages, *waiting]


def _message(turn: str, role: str, text: str) -> Json:
    return {"id": f"{turn}.user" if role == "user" else turn, "role": role, "content": text}


def _run_error(problem: Problem) -> Json:
    return {"type": "RUN_ERROR", "message": problem.message, "code": problem.code}


def _interrupt(turn: str, question: str, options: Sequence[str]) -> Json:
    """Return the outcome with a question; its answer is a text."""
    schema: Json = {"type": "string", "minLength": 1}
    if options:
        schema["examples"] = list(options)
    asked = {"id": turn, "reason": "input_required", "message": question}
    return {"type": "interrupt", "interrupts": [asked | {"responseSchema": schema}]}


def _outcome(result: ReplyResult) -> Json:
    if result.outcome == "done":
        return {"type": "success"}
    if result.outcome == "asked":
        return _interrupt(result.turn, result.question or "", result.options)
    return {"type": "cancelled"}


def _open_question(history: Sequence[HistoryEntry]) -> Json:
    newest = history[-1] if history else None
    if newest is None or newest.outcome != "asked" or not newest.question:
        return {"type": "success"}
    return _interrupt(newest.turn, newest.question.text, newest.question.options)


def _usage(usage: Usage) -> Json:
    return {
        "inputTokens": usage.prompt_tokens,
        "outputTokens": usage.completion_tokens,
        "cachedInputTokens": usage.cached_tokens,
        "totalTokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _tool_call(call: ToolCallView) -> Json:
    function = {"name": call.name, "arguments": encode(call.arguments).decode()}
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
