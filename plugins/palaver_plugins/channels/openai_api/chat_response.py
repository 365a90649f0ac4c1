"""Responses of OpenAI's Chat Completions: completions and chunks."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import msgspec
from aiohttp import web

from palaver import (
    LOGPROBS_TYPE,
    Attachment,
    Citation,
    ClientCall,
    EngineRefused,
    PalaverError,
    PendingReply,
    ReplyResult,
    SkillError,
    TokenLogprob,
    encode,
)
from palaver_plugins.channels.openai_api.chat_request import ChatRequest
from palaver_plugins.channels.openai_api.errors import (
    REQUEST_ID,
    SSE_HEADERS,
    InvalidSchema,
    Json,
    error_body,
    json_response,
    problem_error,
)
from palaver_plugins.channels.openai_api.schema import PARAM

DISCONNECT_CHECK_INTERVAL = 0.25
"""Seconds between two checks of a client's connection while nothing is sent."""
COMMENT_INTERVAL = 1.0
"""Seconds of silence in a stream after which a comment is sent: writing it fails when the client is
gone. Before the first one, a turn that fails is a response with the error's status."""
COMMENT = b": waiting\n\n"
ARGUMENTS_PER_CHUNK = 200
"""Characters of a call's arguments in one chunk."""

_decode_logprobs = msgspec.json.Decoder(list[TokenLogprob]).decode


class Disconnected(Exception):
    """The client has disconnected."""


class Choice:
    """One of the replies to a request."""

    def __init__(
        self,
        index: int,
        reply: PendingReply,
        model_of: Callable[[str], str],
        *,
        is_structured: bool,
    ) -> None:
        self.index = index
        self.reply = reply
        self._is_structured = is_structured
        self._model_of = model_of
        self._sent = 0
        self._has_begun = False
        self._has_ended = False

    @property
    def has_output(self) -> bool:
        return self.reply.is_finished or bool(self.reply.text)

    @property
    def model(self) -> str:
        """Return the model that answers."""
        return self._model_of(self.reply.skill)

    async def result(self) -> ReplyResult:
        """Return the finished reply. Raises the error of a turn that failed."""
        result = await self.reply.wait()
        if result.problem is not None:
            if self._is_structured and result.problem.code == EngineRefused.code:
                raise InvalidSchema(PARAM, "the language model cannot follow this schema")
            raise problem_error(result.problem)
        return result

    async def new_deltas(self) -> AsyncIterator[Json]:
        """Yield the choices of the chunks for what is new. Raises as `result`."""
        is_finished = self.reply.is_finished  # before the text is read: then it is complete
        if self.reply.was_reset:
            # This format has no way to withdraw text that was sent.
            raise SkillError("the reply was reset and begins again; repeat the request")
        if self._has_ended or not (is_finished or self.reply.skill):
            return
        if not self._has_begun:
            self._has_begun = True
            yield self._delta({"role": "assistant", "content": ""})
        if fresh := self.reply.text[self._sent :]:
            self._sent += len(fresh)
            yield self._delta({"content": fresh})
        if is_finished:
            self._has_ended = True
            result = await self.result()
            for delta in _call_deltas(result.client_calls):
                yield self._delta({"tool_calls": [delta]})
            yield _last_delta(self.index, result)

    def _delta(self, delta: Json) -> Json:
        return {"index": self.index, "delta": delta, "logprobs": None, "finish_reason": None}


def _call_deltas(calls: Sequence[ClientCall]) -> Iterable[Json]:
    """Yield the calls in pieces: the name first, then the arguments."""
    for index, call in enumerate(calls):
        yield {**_call(call, arguments=""), "index": index}
        for start in range(0, len(call.arguments), ARGUMENTS_PER_CHUNK):
            piece = call.arguments[start : start + ARGUMENTS_PER_CHUNK]
            yield {"index": index, "function": {"arguments": piece}}


def _call(call: ClientCall, *, arguments: str) -> Json:
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _last_delta(index: int, result: ReplyResult) -> Json:
    notes = annotations(result.text, result.citations)
    return {
        "index": index,
        "delta": {"annotations": notes} if notes else {},
        "logprobs": _logprobs(result),
        "finish_reason": result.finish_reason,
    }


class Completion:
    """The response to one request."""

    def __init__(
        self, request: web.Request, body: ChatRequest, choices: Sequence[Choice], created: int
    ) -> None:
        self._request = request
        self._body = body
        self._choices = choices
        self._created = created
        self._changed = asyncio.Event()
        for choice in choices:
            choice.reply.changed = self._changed

    @property
    def _turn(self) -> str:
        return self._choices[0].reply.receipt.turn

    async def respond(self) -> web.StreamResponse:
        """Return the whole reply. Raises the error of a turn that failed."""
        while not all(choice.reply.is_finished for choice in self._choices):
            await self._wait_for_change(DISCONNECT_CHECK_INTERVAL)
            for choice in self._choices:
                if choice.reply.is_finished:
                    await choice.result()
        results = [await choice.result() for choice in self._choices]
        return json_response(
            {
                **self._head("chat.completion", self._choices[0]),
                "choices": [_choice(index, result) for index, result in enumerate(results)],
                "usage": usage_of(results),
            },
            request_id=self._turn,
        )

    async def stream(self) -> web.StreamResponse:
        """Write the reply as it comes. Raises the error of a turn that failed before that."""
        await self._wait_for_output()
        response = web.StreamResponse(headers={**SSE_HEADERS, REQUEST_ID: self._turn})
        await response.prepare(self._request)
        try:
            try:
                async for chunk in self._chunks():
                    await response.write(COMMENT if chunk is None else _data(chunk))
                await response.write(b"data: [DONE]\n\n")
            except PalaverError as error:
                await response.write(_data(error_body(error)))
            await response.write_eof()
        except ConnectionError:
            raise Disconnected from None
        return response

    async def _wait_for_output(self) -> None:
        """Wait for the first output, but no longer than a client should wait for any byte."""
        loop = asyncio.get_running_loop()
        end = loop.time() + COMMENT_INTERVAL
        while not any(choice.has_output for choice in self._choices):
            if loop.time() >= end:
                return
            await self._wait_for_change(min(DISCONNECT_CHECK_INTERVAL, end - loop.time()))
        for choice in self._choices:
            if choice.reply.is_finished and not choice.reply.text:
                await choice.result()

    async def _chunks(self) -> AsyncIterator[Json | None]:
        """Yield the chunks of the stream, and None when there was none for a while."""
        while True:
            is_finished = all(choice.reply.is_finished for choice in self._choices)
            for choice in self._choices:
                async for delta in choice.new_deltas():
                    yield self._chunk(choice, [delta])
            if is_finished:
                break
            if not await self._wait_for_change(COMMENT_INTERVAL):
                yield None
        if self._body.includes_usage:
            results = [await choice.result() for choice in self._choices]
            yield {**self._chunk(self._choices[0], []), "usage": usage_of(results)}

    async def _wait_for_change(self, seconds: float) -> bool:
        """Return whether a reply has changed within ``seconds``. Raises `Disconnected`."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            transport = self._request.transport
            if transport is None or transport.is_closing():
                raise Disconnected from None
        has_changed = self._changed.is_set()
        self._changed.clear()
        return has_changed

    def _chunk(self, choice: Choice, deltas: Sequence[Json]) -> Json:
        head = self._head("chat.completion.chunk", choice)
        usage = {"usage": None} if self._body.includes_usage else {}
        return {**head, "choices": deltas, **usage}

    def _head(self, kind: str, choice: Choice) -> Json:
        return {
            "id": f"chatcmpl-{self._turn}",
            "object": kind,
            "created": self._created,
            "model": choice.model,
        }


def _choice(index: int, result: ReplyResult) -> Json:
    content = result.text if result.text or not result.client_calls else None
    message: Json = {"role": "assistant", "content": content, "refusal": None}
    if calls := result.client_calls:
        message["tool_calls"] = [_call(call, arguments=call.arguments) for call in calls]
    if notes := annotations(result.text, result.citations):
        message["annotations"] = notes
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(result),
        "finish_reason": result.finish_reason,
    }


def usage_of(results: Sequence[ReplyResult]) -> Json:
    """Return the usage of the choices together; their prompt is the same, and counts once."""
    usage = results[0].usage
    completion_tokens = sum(result.usage.completion_tokens for result in results)
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": usage.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def annotations(text: str, citations: Iterable[Citation]) -> list[Json]:
    """Return the citations as OpenAI's annotations: one for each mark ``[n]`` in the text, and one
    at its end for a source without a mark."""
    notes = []
    for citation in citations:
        mark = re.escape(f"[{citation.number}]")
        places = [match.span() for match in re.finditer(mark, text)] or [(len(text), len(text))]
        for start, end in places:
            source = {
                "start_index": start,
                "end_index": end,
                "title": citation.title,
                "url": _address(citation.document),
            }
            notes.append({"type": "url_citation", "url_citation": source})
    return sorted(notes, key=lambda note: note["url_citation"]["start_index"])


def _address(document: str) -> str:
    """Return the document's address if it has one, else its name without the server's folders."""
    if document.startswith(("http://", "https://")):
        return document
    return document.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _logprobs(result: ReplyResult) -> Json | None:
    content = token_logprobs(result.attachments)
    return {"content": content, "refusal": None} if content else None


def token_logprobs(attachments: Iterable[Attachment]) -> list[Json]:
    """Return the log-probabilities that are among the attachments of a reply, for each token."""
    tokens = [
        token
        for part in attachments
        if part.media_type == LOGPROBS_TYPE
        for token in _decode_logprobs(base64.b64decode(part.url.partition(",")[2]))
    ]
    return [
        {
            **_token(token.token, token.logprob),
            "top_logprobs": [_token(*alternative) for alternative in token.alternatives],
        }
        for token in tokens
    ]


def _token(text: str, logprob: float) -> Json:
    return {
        "token": text,
        "logprob": logprob,
        "bytes": list(text.encode(errors="replace")),
    }


def _data(chunk: Json) -> bytes:
    return b"data: %b\n\n" % encode(chunk)
