"""Events and output of a response, made from the events of its turn as the ledger has them.

The ledger's events are the same on every server, and so are the events made of them, with their
``sequence_number``: a client may go on reading wherever it has stopped.
"""

from collections.abc import Callable, Iterator

from palaver import (
    Approval,
    Asked,
    Attached,
    Citation,
    Cited,
    ClientCall,
    Event,
    Finished,
    Problem,
    Received,
    Routed,
    Started,
    Text,
    TextReset,
    ToolCalled,
    encode,
)
from palaver_plugins.channels.openai_api.chat_response import (
    ARGUMENTS_PER_CHUNK,
    annotations,
    token_logprobs,
)
from palaver_plugins.channels.openai_api.errors import Json
from palaver_plugins.channels.openai_api.response_ids import ResponseId
from palaver_plugins.channels.openai_api.response_object import response_object, usage_object
from palaver_plugins.channels.openai_api.response_request import SERVER_LABEL

WITHDRAWN = "a part of the reply that was sent is withdrawn; read the response again"
_LISTED_CODES = {"prompt_too_long": "invalid_prompt", "too_many": "rate_limit_exceeded"}
"""Codes of OpenAI's API for a response that failed; all others are ``server_error``."""


class ResponseBuilder:
    """The response of one turn so far. `apply` returns what an event of the turn adds to the
    stream."""

    def __init__(self, id: ResponseId, note: str, model_of: Callable[[str], str]) -> None:
        self.id = id
        self._note = note
        self._model_of = model_of
        self.response = response_object(id, note, 0.0)
        self.problem: Problem | None = None
        self.is_finished = False
        self.is_withdrawn = False
        """Whether text that was in the stream has been withdrawn."""
        self._sequence = 0
        self._length = 0
        """Code points of the reply so far."""
        self._is_open = False
        """Whether the last item is a message that goes on."""
        self._start = 0
        """Where in the reply the open message begins."""
        self._calls: dict[str, int] = {}
        """Index of the item of each call of a tool of the server."""
        self._citations: list[Citation] = []
        self._logprobs: list[Json] = []
        """Of the tokens of the open message, as far as the program asked for them."""

    @property
    def _output(self) -> list[Json]:
        output: list[Json] = self.response["output"]
        return output

    def apply(self, event: Event) -> list[Json]:
        """Return the events of the stream for an event of the turn."""
        return [self._number(each) for each in self._make(event)]

    def _number(self, event: Json) -> Json:
        numbered = {**event, "sequence_number": self._sequence}
        self._sequence += 1
        return numbered

    def _make(self, event: Event) -> Iterator[Json]:
        match event:
            case Received() if not self._sequence:
                yield from self._begin(event)
            case Started() if self.response["status"] != "in_progress" or self._sequence == 1:
                self.response["status"] = "in_progress"
                yield self._whole("response.in_progress")
            case Routed():
                self.response["model"] = self._model_of(event.skill)
            case Text():
                yield from self._add_text(event.text)
            case TextReset():
                self._withdraw(event.position)
                yield {"type": "error", "code": "withdrawn", "message": WITHDRAWN, "param": None}
            case ToolCalled():
                yield from self._add_tool(event)
            case Attached() | Cited():
                self._keep(event)
            case Asked(approval=Approval() as approval):
                yield from self._ask(approval)
            case Finished():
                yield from self._finish(event)
            case _:
                pass

    def _keep(self, event: Attached | Cited) -> None:
        """Keep what the open message gets at its end."""
        if isinstance(event, Cited):
            self._citations.append(event.citation)
        else:
            self._logprobs += token_logprobs([event.attachment])

    def _whole(self, kind: str) -> Json:
        return {"type": kind, "response": {**self.response, "output": list(self._output)}}

    def _begin(self, event: Received) -> Iterator[Json]:
        self.response["created_at"] = int(event.at)
        yield self._whole("response.created")
        if self.response["status"] == "queued":
            yield self._whole("response.queued")

    # Text

    def _add_text(self, text: str) -> Iterator[Json]:
        if not self._is_open:
            self._is_open, self._start = True, self._length
            item = self._message([], "in_progress")
            self._output.append(item)
            yield self._item_event("added", item)
            yield {**self._part_event("response.content_part.added"), "part": _text_part("", [])}
        self._length += len(text)
        part = self._output[-1]["content"]
        self._output[-1]["content"] = [_text_part((part[0]["text"] if part else "") + text, [])]
        yield {**self._part_event("response.output_text.delta"), "delta": text, "logprobs": []}

    def _message(self, content: list[Json], status: str) -> Json:
        return {
            "id": self.id.item("msg", len(self._output)),
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _part_event(self, kind: str) -> Json:
        at = len(self._output) - 1
        item = self._output[at]["id"]
        return {"type": kind, "item_id": item, "output_index": at, "content_index": 0}

    def _item_event(self, what: str, item: Json) -> Json:
        index = next(at for at, each in enumerate(self._output) if each["id"] == item["id"])
        return {"type": f"response.output_item.{what}", "output_index": index, "item": dict(item)}

    def _close_text(self, status: str = "completed") -> Iterator[Json]:
        if not self._is_open:
            return
        self._is_open = False
        item = self._output[-1]
        text = item["content"][0]["text"]
        notes = [_flat(note) for note in annotations(text, self._citations)]
        self._citations.clear()
        logprobs, self._logprobs = self._logprobs, []
        part = {**_text_part(text, notes), "logprobs": logprobs}
        item |= {"content": [part], "status": status}
        for number, note in enumerate(notes):
            event = self._part_event("response.output_text.annotation.added")
            yield {**event, "annotation_index": number, "annotation": note}
        done = self._part_event("response.output_text.done")
        yield {**done, "text": text, "logprobs": logprobs}
        yield {**self._part_event("response.content_part.done"), "part": part}
        yield self._item_event("done", item)

    def _withdraw(self, position: int) -> None:
        """Remove the text from ``position`` on."""
        self.is_withdrawn = True
        left = position
        for item in self._output:
            if item["type"] == "message" and item["content"]:
                text = item["content"][0]["text"]
                item["content"] = [_text_part(text[:left], [])]
                left = max(0, left - len(text))
        self._length = position

    # Tools

    def _add_tool(self, event: ToolCalled) -> Iterator[Json]:
        if event.call not in self._calls:
            yield from self._close_text()
            yield from self._begin_tool(event)
        if event.state == "started":
            return
        at = self._calls[event.call]
        item = self._output[at]
        if item["status"] != "in_progress":
            return
        has_run = event.state == "done"
        item |= {
            "status": "completed" if has_run else "failed",
            "output": event.result if has_run else None,
            "error": None if has_run else _tool_error(event.result or event.state),
        }
        kind = "completed" if has_run else "failed"
        yield {"type": f"response.mcp_call.{kind}", "item_id": item["id"], "output_index": at}
        yield self._item_event("done", item)

    def _begin_tool(self, event: ToolCalled) -> Iterator[Json]:
        at = self._calls[event.call] = len(self._output)
        item: Json = {
            "id": self.id.item("mcp", at),
            "type": "mcp_call",
            "server_label": SERVER_LABEL,
            "name": event.name,
            "arguments": "",
            "status": "in_progress",
            "output": None,
            "error": None,
        }
        self._output.append(item)
        yield self._item_event("added", item)
        place = {"item_id": item["id"], "output_index": at}
        yield {"type": "response.mcp_call.in_progress", **place}
        item["arguments"] = encode(event.arguments).decode()
        delta = {"type": "response.mcp_call_arguments.delta", "delta": item["arguments"]}
        yield {**delta, **place}
        done = {"type": "response.mcp_call_arguments.done", "arguments": item["arguments"]}
        yield {**done, **place}

    def _ask(self, approval: Approval) -> Iterator[Json]:
        """Add the request for an approval, after the question as text."""
        yield from self._close_text()
        item: Json = {
            "id": self.id.item("mcpr", len(self._output)),
            "type": "mcp_approval_request",
            "server_label": SERVER_LABEL,
            "name": approval.tool,
            "arguments": encode(approval.arguments).decode(),
        }
        self._output.append(item)
        yield self._item_event("added", item)
        yield self._item_event("done", item)

    def _add_call(self, call: ClientCall) -> Iterator[Json]:
        at = len(self._output)
        item: Json = {
            "id": self.id.item("fc", at),
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": "",
            "status": "in_progress",
        }
        self._output.append(item)
        yield self._item_event("added", item)
        place = {"item_id": item["id"], "output_index": at}
        for start in range(0, len(call.arguments), ARGUMENTS_PER_CHUNK):
            piece = call.arguments[start : start + ARGUMENTS_PER_CHUNK]
            yield {"type": "response.function_call_arguments.delta", "delta": piece, **place}
        item |= {"arguments": call.arguments, "status": "completed"}
        done = {"name": call.name, "arguments": call.arguments, **place}
        yield {"type": "response.function_call_arguments.done", **done}
        yield self._item_event("done", item)

    # The end

    def _finish(self, event: Finished) -> Iterator[Json]:
        is_cut = event.outcome in ("stopped", "failed") or event.finish_reason == "length"
        yield from self._close_text("incomplete" if is_cut else "completed")
        for call in event.client_calls or ():
            yield from self._add_call(call)
        self.is_finished, self.problem = True, event.problem
        self.response |= {"status": _status(event), "usage": usage_object(event.usage)}
        if event.problem is not None:
            code = _LISTED_CODES.get(event.problem.code, "server_error")
            self.response["error"] = {"code": code, "message": event.problem.message}
            yield self._whole("response.failed")
        elif is_cut:
            if event.outcome != "stopped":
                self.response["incomplete_details"] = {"reason": "max_output_tokens"}
            yield self._whole("response.incomplete")
        else:
            yield self._whole("response.completed")


def _status(event: Finished) -> str:
    if event.outcome == "stopped":
        return "cancelled"
    if event.outcome == "failed":
        return "failed"
    return "incomplete" if event.finish_reason == "length" else "completed"


def _text_part(text: str, notes: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": notes, "logprobs": []}


def _tool_error(text: str) -> Json:
    return {
        "type": "mcp_tool_execution_error",
        "content": [{"type": "text", "text": text}],
    }


def _flat(note: Json) -> Json:
    """Return an annotation of Chat Completions as one of Responses."""
    return {"type": note["type"], **note["url_citation"]}
