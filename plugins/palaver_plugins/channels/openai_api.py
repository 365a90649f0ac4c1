"""A channel for programs that use OpenAI's chat API: skills appear as models.

``POST /v1/chat/completions`` and ``GET /v1/models`` at the server's own address; enable it with
``channels.enabled = ["openai_api"]``. Clients use the server's own keys.

- ``model`` is a skill's name, or ``auto`` for the router's choice.
- The last user message is the turn's message. The messages before it are the client's copy of a
  conversation. Where this process has stored that conversation, the turn continues it, with the
  server's history. Otherwise (another replica answered, the client edited its copy) the earlier
  messages are put before the turn's message as plain text. System messages and sampling parameters
  are ignored: each skill has its own.
- The header ``X-Palaver-Thread`` names a conversation, with the server's history; then only the
  last message counts. ``user`` names the person if the key has the right
  ``impersonate``; a key of one person ignores it.
- ``Idempotency-Key``: a repeated request gets the reply of the first one.
- A client that disconnects stops its turn, as with OpenAI. (Elsewhere in this server the turn
  continues.)
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from typing import Any, Literal, NoReturn

import msgspec
from aiohttp import web

from palaver import (
    Backend,
    BuildContext,
    Channel,
    Conversation,
    ConversationService,
    InvalidInput,
    Message,
    NotFound,
    PalaverError,
    PendingReply,
    PluginSettings,
    Principal,
    Problem,
    ReplyResult,
    SkillError,
    check_name,
    encode,
    follow_reply,
    hookimpl,
    new_id,
    requires,
)

NAME = "openai_api"
AUTO = "auto"
MAX_KNOWN_CONVERSATIONS = 10_000
"""Conversations that are recognised by the client's copy; the oldest are forgotten first."""
DISCONNECT_CHECK_INTERVAL = 0.25
"""Seconds between two checks of a client's connection while nothing is sent."""
COMMENT_INTERVAL = 1.0
"""Seconds of silence in a stream after which a comment is sent: writing it fails when the client is
gone."""
COMMENT = b": waiting\n\n"
SSE_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}

Json = dict[str, Any]  # JSON values


class Part(msgspec.Struct, frozen=True):
    type: str
    text: str = ""


class RequestMessage(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | tuple[Part, ...] | None = None

    @property
    def text(self) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        for part in self.content:
            if part.type != "text":
                raise InvalidInput(f"content of type {part.type[:40]!r} is not text")
        return "".join(part.text for part in self.content)


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class ChatRequest(msgspec.Struct, frozen=True):
    """The supported part of OpenAI's request; other fields are ignored."""

    model: str
    messages: tuple[RequestMessage, ...]
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: int | None = 1


_decode = msgspec.json.Decoder(ChatRequest).decode


class Settings(PluginSettings):
    """No settings."""


def _json(body: Json, status: int = 200) -> web.Response:
    return web.Response(body=encode(body), status=status, content_type="application/json")


def _error(error: PalaverError) -> Json:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": error.public, "type": kind, "param": None, "code": error.code}}


def _error_response(error: PalaverError) -> web.StreamResponse:
    response = _json(_error(error), error.status)
    response.headers.update(error.retry_headers)
    return response


_requires_talk = requires("talk", error_response=_error_response)


class OpenAIChannel:
    """The routes. Turns are those of any other channel."""

    def __init__(self) -> None:
        self._service: ConversationService
        self._threads: OrderedDict[str, str] = OrderedDict()

    async def start(self, service: ConversationService) -> None:
        self._service = service

    async def close(self) -> None: ...

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.post("/v1/chat/completions", self._complete),
            web.get("/v1/models", self._models, allow_head=False),
            web.get("/v1/models/{model}", self._model, allow_head=False),
        )

    @_requires_talk
    async def _models(self, request: web.Request) -> web.StreamResponse:
        names = [AUTO, *sorted(self._service.skills())]
        return _json({"object": "list", "data": [_model_card(name) for name in names]})

    @_requires_talk
    async def _model(self, request: web.Request) -> web.StreamResponse:
        model = request.match_info["model"]
        self._check_model(model)
        return _json(_model_card(model))

    def _check_model(self, model: str) -> None:
        if model != AUTO and model not in self._service.skills():
            raise NotFound(f"the model {model[:60]!r} does not exist")

    @_requires_talk
    async def _complete(self, request: web.Request) -> web.StreamResponse:
        principal = self._service.authenticate(request)
        body = _read(await request.read())
        message = self._message(request, principal, body)
        async with follow_reply(self._service, message) as reply:
            completion = _Completion(request, body, reply)
            try:
                if body.stream:
                    return await completion.stream()
                return await completion.respond()
            except _Disconnected:
                if not reply.receipt.duplicate:
                    await self._service.stop(message.conversation, reply.receipt.turn)
                return web.Response(status=499)
            finally:
                if reply.is_finished:
                    self._store_thread(message, body, reply.text)

    def _message(self, request: web.Request, principal: Principal, body: ChatRequest) -> Message:
        self._check_model(body.model)
        person = _person(principal, body.user)
        thread, text = self._thread_and_text(request, principal.tenant, person, body)
        return Message(
            conversation=Conversation(principal.tenant, NAME, thread),
            id=request.headers.get("Idempotency-Key") or new_id(),
            person=person,
            text=text,
            skill=None if body.model == AUTO else body.model,
        )

    def _thread_and_text(
        self, request: web.Request, tenant: str, person: str, body: ChatRequest
    ) -> tuple[str, str]:
        text = body.messages[-1].text
        if named := request.headers.get("X-Palaver-Thread"):
            return named, text
        *earlier, _ = _dialogue(body.messages)
        known = self._threads.get(_copy_key(tenant, person, earlier)) if earlier else None
        if known is not None:
            return known, text
        if earlier and not text.startswith("/"):
            text = _as_text(earlier) + text
        key = request.headers.get("Idempotency-Key")
        # The same key must lead to the same conversation, which has the first request.
        return (_hash(tenant, person, key) if key else new_id()), text

    def _store_thread(self, message: Message, body: ChatRequest, reply: str) -> None:
        dialogue = [*_dialogue(body.messages), ("assistant", reply)]
        conversation = message.conversation
        key = _copy_key(conversation.tenant, message.person, dialogue)
        self._threads[key] = conversation.thread
        while len(self._threads) > MAX_KNOWN_CONVERSATIONS:
            self._threads.popitem(last=False)


class _Disconnected(Exception):
    """The client has disconnected."""


class _Completion:
    """The response to one request, in OpenAI's format."""

    def __init__(self, request: web.Request, body: ChatRequest, reply: PendingReply) -> None:
        self._request = request
        self._body = body
        self._reply = reply
        self._created = int(time.time())

    async def respond(self) -> web.StreamResponse:
        """Return the whole reply. Raises `PalaverError` when the turn failed."""
        result = await self._wait_for_result()
        message = {"role": "assistant", "content": result.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return _json(
            {
                **self._head("chat.completion"),
                "model": result.skill or self._body.model,
                "choices": [choice],
                "usage": _usage(result),
            }
        )

    async def stream(self) -> web.StreamResponse:
        """Write the reply as it comes."""
        response = web.StreamResponse(headers=SSE_HEADERS)
        await response.prepare(self._request)
        try:
            try:
                async for chunk in self._chunks():
                    await response.write(COMMENT if chunk is None else _data(chunk))
                await response.write(b"data: [DONE]\n\n")
            except PalaverError as error:
                await response.write(_data(_error(error)))
            await response.write_eof()
        except ConnectionError:
            raise _Disconnected from None
        return response

    async def _chunks(self) -> AsyncIterator[Json | None]:
        """Yield the chunks of the stream, and None when there was none for a while."""
        yield self._chunk({"role": "assistant", "content": ""})
        sent = 0
        while True:
            is_finished = self._reply.is_finished
            if self._reply.was_reset:
                # This format has no way to withdraw text that was sent.
                raise SkillError("the reply was reset and begins again; repeat the request")
            if fresh := self._reply.text[sent:]:
                sent += len(fresh)
                yield self._chunk({"content": fresh})
            if is_finished:
                break
            if not await self._wait_for_change(COMMENT_INTERVAL):
                yield None
        result = await self._wait_for_result()
        yield self._chunk({}, finish_reason="stop")
        options = self._body.stream_options
        if options is not None and options.include_usage:
            yield {**self._chunk({}), "choices": [], "usage": _usage(result)}

    async def _wait_for_result(self) -> ReplyResult:
        while not self._reply.is_finished:
            await self._wait_for_change(DISCONNECT_CHECK_INTERVAL)
        result = await self._reply.wait()
        if result.problem is not None:
            _raise_problem(result.problem)
        return result

    async def _wait_for_change(self, seconds: float) -> bool:
        """Return whether the reply has changed within ``seconds``. Raises `_Disconnected`."""
        try:
            async with asyncio.timeout(seconds):
                await self._reply.changed.wait()
        except TimeoutError:
            transport = self._request.transport
            if transport is None or transport.is_closing():
                raise _Disconnected from None
        has_changed = self._reply.changed.is_set()
        self._reply.changed.clear()
        return has_changed

    def _chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> Json:
        return {
            "id": f"chatcmpl-{self._reply.receipt.turn}",
            "object": kind,
            "created": self._created,
            "model": self._body.model,
        }


def _read(body: bytes) -> ChatRequest:
    try:
        request: ChatRequest = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the request cannot be read: {error}") from error
    if not request.messages or request.messages[-1].role != "user":
        raise InvalidInput("the last message must be the user's")
    if request.n not in (None, 1):
        raise InvalidInput("n must be 1: a turn has one reply")
    return request


def _person(principal: Principal, user: str | None) -> str:
    if not user or (principal.person and "impersonate" not in principal.rights):
        return principal.resolve_person(None)
    try:
        check_name(user, "user")
    except InvalidInput:
        user = _hash(user)  # OpenAI accepts any text as a user
    return principal.resolve_person(user)


def _dialogue(messages: Iterable[RequestMessage]) -> list[tuple[str, str]]:
    return [(item.role, item.text) for item in messages if item.role in ("user", "assistant")]


def _copy_key(tenant: str, person: str, dialogue: Iterable[tuple[str, str]]) -> str:
    """Return the key of a client's copy of a conversation. A copy may lack spaces at the ends."""
    words = [part for role, text in dialogue for part in (role, text.strip())]
    return _hash(tenant, person, *words)


def _as_text(earlier: Iterable[tuple[str, str]]) -> str:
    lines = "\n".join(f"{role.capitalize()}: {text}" for role, text in earlier)
    return f"So far in this conversation:\n{lines}\n\nNow:\n"


def _hash(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]


def _usage(result: ReplyResult) -> Json:
    usage = result.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _model_card(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "palaver"}


def _data(chunk: Json) -> bytes:
    return b"data: %b\n\n" % encode(chunk)


def _raise_problem(problem: Problem) -> NoReturn:
    """Raise the error of a failed turn."""
    kinds = [PalaverError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    kind = next((kind for kind in kinds if kind.code == problem.code), PalaverError)
    raise kind(problem.message)


def _build(settings: Settings, build_context: BuildContext) -> Channel:
    return OpenAIChannel()


@hookimpl
def palaver_register_channels() -> Iterable[Backend[Channel]]:
    return [Backend(name=NAME, settings=Settings, build=_build)]
