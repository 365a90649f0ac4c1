"""A channel for programs that speak OpenAI's chat API: skills appear as models.

``POST /v1/chat/completions`` and ``GET /v1/models`` below the server's own address; enable it with
``channels.enabled = ["openai_api"]``. The keys are the server's own. What is particular:

- ``model`` is a skill's name, or ``auto``, with which the router chooses.
- The last user message is the turn's message. What the client sends before it is its own copy of
  a conversation that the server has, too: where the server finds it again, the turn goes on
  there, with the server's history. Where it does not (another replica answered, the client edited
  its copy), the earlier messages stand in front of the turn's message, as a transcript. System
  messages and sampling parameters are the skill's own business and are passed over.
- The header ``X-Palaver-Thread`` names a conversation, whose history the server then keeps; only
  the last message counts. ``user`` names the person, where the key leaves that open.
- ``Idempotency-Key``: a repeated request gets the reply of the first one.
- A client that disconnects stops its turn, as with OpenAI. (Elsewhere in this server it goes on.)
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Literal, NoReturn

import msgspec
from aiohttp import web

from palaver import (
    AUTHENTICATOR,
    Backend,
    BuildContext,
    Channel,
    Conversation,
    ConversationAccess,
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
    retry_headers,
)

NAME = "openai_api"
AUTO = "auto"
REMEMBERED = 10_000
"""Conversations whose clients' copies are recognised; the oldest are forgotten first."""
LOOK = 0.25
"""Seconds between looks whether a silent client is still there."""
SSE = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}

Json = dict[str, Any]  # JSON values


class Part(msgspec.Struct, frozen=True):
    type: str
    text: str = ""


class ChatLine(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | tuple[Part, ...] | None = None

    @property
    def text(self) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        for part in self.content:
            if part.type != "text":
                raise InvalidInput(
                    f"content of type {part.type[:40]!r} is not supported, only text"
                )
        return "".join(part.text for part in self.content)


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class ChatRequest(msgspec.Struct, frozen=True):
    """The part of OpenAI's request that means something here; the rest is passed over."""

    model: str
    messages: tuple[ChatLine, ...]
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: int | None = 1


_decode = msgspec.json.Decoder(ChatRequest).decode


class Settings(PluginSettings):
    """There is nothing to set."""


class OpenAIChannel:
    """The routes. Turns are those of any other channel."""

    def __init__(self) -> None:
        self._service: ConversationService
        self._threads: OrderedDict[str, str] = OrderedDict()

    async def start(self, service: ConversationService) -> None:
        self._service = service

    async def close(self) -> None:
        """Nothing to close: requests end with the web surface."""

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.post("/v1/chat/completions", _telling(self._complete)),
            web.get("/v1/models", _telling(self._models), allow_head=False),
            web.get("/v1/models/{model}", _telling(self._model), allow_head=False),
        )

    async def _models(self, request: web.Request) -> web.StreamResponse:
        request.app[AUTHENTICATOR].principal(request)
        names = [AUTO, *sorted(self._service.skills())]
        return _json({"object": "list", "data": [_model_card(name) for name in names]})

    async def _model(self, request: web.Request) -> web.StreamResponse:
        request.app[AUTHENTICATOR].principal(request)
        return _json(_model_card(self._known(request.match_info["model"])))

    def _known(self, model: str) -> str:
        if model != AUTO and model not in self._service.skills():
            raise NotFound(f"the model {model[:60]!r} does not exist")
        return model

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        principal = request.app[AUTHENTICATOR].principal(request)
        body = _read(await request.read())
        message = await self._message(request, principal, body)
        changed = asyncio.Event()
        async with follow_reply(self._service, message, changed.set) as reply:
            answering = _Answer(request, body, reply, changed)
            try:
                if body.stream:
                    return await answering.stream()
                return _json(answering.completion(await answering.finish()))
            except _Gone:
                if not reply.receipt.duplicate:
                    await self._service.stop(message.conversation, reply.receipt.turn)
                return web.Response(status=499)
            finally:
                if reply.ended:
                    self._remember(principal, body, reply.text, message.conversation.thread)

    async def _message(
        self, request: web.Request, principal: Principal, body: ChatRequest
    ) -> Message:
        self._known(body.model)
        person = _person(principal, body.user)
        thread, text = self._place(request, principal, body)
        conversation = Conversation(principal.tenant, NAME, thread)
        await ConversationAccess(self._service, conversation, person).enter()
        return Message(
            conversation=conversation,
            id=request.headers.get("Idempotency-Key") or new_id(),
            person=person,
            text=text,
            skill=None if body.model == AUTO else body.model,
        )

    def _place(
        self, request: web.Request, principal: Principal, body: ChatRequest
    ) -> tuple[str, str]:
        """The conversation's thread, and the text of the turn's message."""
        text = body.messages[-1].text
        if named := request.headers.get("X-Palaver-Thread"):
            return named, text
        *earlier, _ = _spoken(body.messages)
        known = self._threads.get(_copy(principal, body.user, earlier)) if earlier else None
        if known is not None:
            return known, text
        if earlier and not text.startswith("/"):
            text = _transcript(earlier) + text
        key = request.headers.get("Idempotency-Key")
        # The same key must lead to the same conversation, where the first request is found.
        return (_hash(principal.tenant, principal.name, key) if key else new_id()), text

    def _remember(self, principal: Principal, body: ChatRequest, reply: str, thread: str) -> None:
        spoken = [*_spoken(body.messages), ("assistant", reply)]
        self._threads[_copy(principal, body.user, spoken)] = thread
        while len(self._threads) > REMEMBERED:
            self._threads.popitem(last=False)


class _Gone(Exception):
    """The client has disconnected."""


class _Answer:
    """One request's answer, in OpenAI's words."""

    def __init__(
        self, request: web.Request, body: ChatRequest, reply: PendingReply, changed: asyncio.Event
    ) -> None:
        self._request = request
        self._body = body
        self._reply = reply
        self._changed = changed
        self._created = int(time.time())

    async def finish(self) -> ReplyResult:
        """Wait for the whole reply. Raises `PalaverError` when the turn failed."""
        while not self._reply.ended:
            await self._wait()
        finish = await self._reply.finish()
        if finish.problem is not None:
            _raise(finish.problem)
        return finish

    async def _wait(self) -> None:
        """Wait for news. Raises `_Gone`."""
        try:
            async with asyncio.timeout(LOOK):
                await self._changed.wait()
        except TimeoutError:
            transport = self._request.transport
            if transport is None or transport.is_closing():
                raise _Gone from None
        self._changed.clear()

    async def stream(self) -> web.StreamResponse:
        response = web.StreamResponse(headers=SSE)
        await response.prepare(self._request)
        try:
            try:
                async for chunk in _lines(self._chunks()):
                    await response.write(chunk)
            except PalaverError as error:
                await response.write(b"data: %b\n\n" % encode(_error(error)))
            await response.write_eof()
        except ConnectionError:
            raise _Gone from None
        return response

    async def _chunks(self) -> Any:  # an async generator of JSON values
        yield self._chunk({"role": "assistant", "content": ""})
        sent = 0
        while True:
            ended = self._reply.ended
            if self._reply.withdrawn:
                # This format cannot take back what was said; to go on would garble it.
                raise SkillError("the reply was withdrawn and begun anew; ask again")
            if fresh := self._reply.text[sent:]:
                sent += len(fresh)
                yield self._chunk({"content": fresh})
            if ended:
                break
            await self._wait()
        finish = await self.finish()
        yield self._chunk({}, finish_reason="stop")
        options = self._body.stream_options
        if options is not None and options.include_usage:
            yield {**self._chunk({}), "choices": [], "usage": _usage(finish)}

    def _chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def completion(self, finish: ReplyResult) -> Json:
        message = {"role": "assistant", "content": finish.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {
            **self._head("chat.completion"),
            "model": finish.skill or self._body.model,
            "choices": [choice],
            "usage": _usage(finish),
        }

    def _head(self, kind: str) -> Json:
        return {
            "id": f"chatcmpl-{self._reply.receipt.turn}",
            "object": kind,
            "created": self._created,
            "model": self._body.model,
        }


async def _lines(chunks: Any) -> Any:  # async generators
    async for chunk in chunks:
        yield b"data: %b\n\n" % encode(chunk)
    yield b"data: [DONE]\n\n"


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
    if principal.person or not user:
        return principal.speaks_for(None)
    try:
        return check_name(user, "user")
    except InvalidInput:
        return _hash(user)  # any text is a user for OpenAI


def _spoken(messages: Iterable[ChatLine]) -> Iterator[tuple[str, str]]:
    for line in messages:
        if line.role in ("user", "assistant"):
            yield line.role, line.text


def _copy(principal: Principal, user: str | None, spoken: Iterable[tuple[str, str]]) -> str:
    """What a client's copy of a conversation is recognised by. Ends of lines may get lost in it."""
    words = [part for role, text in spoken for part in (role, text.strip())]
    return _hash(principal.tenant, principal.name, user or "", *words)


def _transcript(earlier: Iterable[tuple[str, str]]) -> str:
    lines = "\n".join(f"{role.capitalize()}: {text}" for role, text in earlier)
    return f"So far in this conversation:\n{lines}\n\nNow:\n"


def _hash(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]


def _usage(finish: ReplyResult) -> Json:
    usage = finish.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _model_card(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "palaver"}


def _json(body: Json, status: int = 200) -> web.Response:
    return web.Response(body=encode(body), status=status, content_type="application/json")


def _error(error: PalaverError) -> Json:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": error.public, "type": kind, "param": None, "code": error.code}}


def _raise(problem: Problem) -> NoReturn:
    """Raise the error that a failed turn tells of."""
    kinds = [PalaverError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    kind = next((kind for kind in kinds if kind.code == problem.code), PalaverError)
    error = kind(problem.message)
    raise error


Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _telling(handle: Handle) -> Handle:
    """Answer errors in OpenAI's form."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handle(request)
        except PalaverError as error:
            response = _json(_error(error), error.status)
            if error.retry_after is not None:
                response.headers.update(retry_headers(error.retry_after))
            return response

    return answer


def _build(settings: Settings, build_context: BuildContext) -> Channel:
    return OpenAIChannel()


@hookimpl
def palaver_register_channels() -> Iterable[Backend[Channel]]:
    return [Backend(name=NAME, settings=Settings, build=_build)]
