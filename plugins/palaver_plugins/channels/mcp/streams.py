"""Answers to calls as they come: a stream of events that a client can resume at any replica, and
one response, or a stream, in the era without sessions."""

import asyncio
import contextlib

import msgspec
from aiohttp import web
from mcp_types import INTERNAL_ERROR

from palaver import PalaverError, Seals, encode
from palaver_plugins.channels.mcp.calls import Call, CallFollower, Calls
from palaver_plugins.channels.mcp.clients import Client
from palaver_plugins.channels.mcp.outcomes import Outcomes
from palaver_plugins.channels.mcp.protocol import (
    CALL,
    PRIMED,
    PROGRESS,
    Json,
    Request,
    RequestId,
    RpcError,
    convert_error,
    error_body,
    error_response,
    json_response,
    make_result,
    notification_body,
    response_body,
)
from palaver_plugins.channels.mcp.questions import METHOD, make_form

WAIT_SECONDS = 1.0
"""Seconds between two looks at a call that tells nothing new: whether its client has gone, or the
person has declined its question elsewhere. After the first, an answer becomes a stream."""
DISCONNECT_CHECK_INTERVAL = 0.25
"""Seconds between two checks of a client's connection before there is a stream."""
RETRY_MILLISECONDS = 500
"""After which a client that has lost a stream shall come back."""
COMMENT = b": waiting\n\n"
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would buffer the events
    "X-Content-Type-Options": "nosniff",
}


class StreamToken(msgspec.Struct, frozen=True, array_like=True):
    """What is needed to go on with a stream: the call and the request that made it."""

    call: Call
    id: RequestId
    progress: RequestId | None
    session: str


class QuestionToken(msgspec.Struct, frozen=True, array_like=True):
    """A question that a client is asked: the number of the call's question."""

    call: Call
    number: int


def has_left(request: web.Request) -> bool:
    """Return whether the client has disconnected."""
    return request.transport is None or request.transport.is_closing()


def split_event_id(event_id: str) -> tuple[str, int]:
    """Return the sealed token and the offset of an event's id; -1: it is none."""
    token, _, offset = event_id.rpartition(".")
    if not (offset.isascii() and offset.isdigit() and len(offset) <= 15):
        return "", -1
    return token, int(offset)


class ResumableStream:
    """The answer to a call in a session, as events whose ids say where to go on."""

    def __init__(
        self,
        request: web.Request,
        client: Client,
        token: StreamToken,
        *,
        after: int,
        stream_seals: Seals,
        question_seals: Seals,
    ) -> None:
        self._request = request
        self._client = client
        self._token = token
        self._sealed = stream_seals.seal(token)
        self._question_seals = question_seals
        self._sent = after
        """The offset up to which the client has everything."""
        self._response = web.StreamResponse(headers=HEADERS)
        self.has_ended = False
        """Whether the last event, with the result, is written."""

    async def run(self, calls: Calls, outcomes: Outcomes) -> web.StreamResponse:
        """Write the events until the call has ended, or the client or the server leaves."""
        call = self._token.call
        async with calls.follow(call) as follower:
            await self._response.prepare(self._request)
            with contextlib.suppress(ConnectionError):  # the client has left; the turn goes on
                await self._begin()
                await self._write_all(follower, outcomes)
                await self._response.write_eof()
        return self._response

    async def _begin(self) -> None:
        """Give the client an id with which it can resume, before anything has happened."""
        if self._client.version >= PRIMED:
            place = max(self._sent, self._token.call.since, 0)
            head = f"id: {self._sealed}.{place}\nretry: {RETRY_MILLISECONDS}\ndata:\n\n"
            await self._response.write(head.encode())

    async def _write_all(self, follower: CallFollower, outcomes: Outcomes) -> None:
        while not has_left(self._request):
            await self._write_progress(follower)
            try:
                result = await outcomes.find(follower, self._client)
            except (PalaverError, RpcError) as error:
                await self._write(error_body(self._token.id, convert_error(error)), follower.offset)
                self.has_ended = True
                return
            if result is not None:
                result = make_result(CALL, self._client.version, result)
                await self._write(response_body(self._token.id, result), follower.offset)
                self.has_ended = True
                return
            await self._write_question(follower)
            if follower.is_shut_down:  # the client comes back, to another replica
                return
            if not await follower.wait(WAIT_SECONDS):
                await self._response.write(COMMENT)

    async def _write_progress(self, follower: CallFollower) -> None:
        if follower.progress is None:
            return
        offset, sentence = follower.progress
        if self._token.progress is not None and offset > self._sent and not follower.is_asking:
            await self._write(progress_body(self._token.progress, offset, sentence), offset)

    async def _write_question(self, follower: CallFollower) -> None:
        if not follower.is_asking or follower.offset <= self._sent:
            return
        reply = follower.reply
        assert reply.question is not None
        token = QuestionToken(self._token.call, follower.number)
        body = {
            "jsonrpc": "2.0",
            "id": self._question_seals.seal(token),
            "method": METHOD,
            "params": make_form(reply.question, self._client.version, reply.visible_text),
        }
        await self._write(body, follower.offset)

    async def _write(self, body: Json, offset: int) -> None:
        event_id = f"{self._sealed}.{offset}"
        await self._response.write(
            b"id: %b\nevent: message\ndata: %b\n\n" % (event_id.encode(), encode(body))
        )
        self._sent = max(self._sent, offset)


def progress_body(token: RequestId, offset: int, sentence: str) -> Json:
    """Return a notification of progress. The number is the event's place in the stream of the
    conversation: it grows, and is the same at every replica."""
    return notification_body(
        PROGRESS, {"progressToken": token, "progress": offset, "message": sentence}
    )


class SingleAnswer:
    """The answer to a call in the era without sessions: JSON when it comes at once, else a stream.
    A client that leaves cancels the call, unless it may come back with its idempotency key."""

    def __init__(self, request: web.Request, message: Request, client: Client) -> None:
        self._request = request
        self._message = message
        self._client = client
        self._response: web.StreamResponse | None = None
        self._sent = -1

    async def run(self, calls: Calls, outcomes: Outcomes, call: Call) -> web.StreamResponse:
        try:
            async with calls.follow(call) as follower:
                body = await self._wait(follower, outcomes)
        except ConnectionError:
            if not call.has_key:
                await calls.stop(call)
            return self._response or web.Response(status=499)
        return await self._end(body)

    async def _wait(self, follower: CallFollower, outcomes: Outcomes) -> Json | RpcError:
        """Wait for the end of the call. Raises `ConnectionError` when the client leaves."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WAIT_SECONDS
        while True:
            try:
                result = await outcomes.find(follower, self._client)
            except (PalaverError, RpcError) as error:
                return convert_error(error)
            if result is not None:
                return result
            if follower.is_shut_down:
                return RpcError(
                    INTERNAL_ERROR,
                    "the server restarts; repeat the call with its idempotency key",
                    status=503,
                )
            await self._write_progress(follower)
            if self._response is None and loop.time() >= deadline:
                await self._open()
            if not await follower.wait(
                WAIT_SECONDS if self._response is not None else DISCONNECT_CHECK_INTERVAL
            ):
                await self._check_connection()

    async def _check_connection(self) -> None:
        if has_left(self._request):
            raise ConnectionResetError("the client has left")
        if self._response is not None:
            await self._response.write(COMMENT)

    async def _open(self) -> web.StreamResponse:
        if self._response is None:
            self._response = web.StreamResponse(headers=HEADERS)
            await self._response.prepare(self._request)
        return self._response

    async def _write_progress(self, follower: CallFollower) -> None:
        token = self._message.progress_token
        if token is None or follower.progress is None:
            return
        offset, sentence = follower.progress
        if offset > self._sent:
            self._sent = offset
            response = await self._open()
            await response.write(_event(progress_body(token, offset, sentence)))

    async def _end(self, outcome: Json | RpcError) -> web.StreamResponse:
        if isinstance(outcome, RpcError):
            if self._response is None:
                return error_response(outcome, self._message.id, is_modern=True)
            body = error_body(self._message.id, outcome)
        else:
            result = make_result(CALL, self._client.version, outcome)
            body = response_body(self._message.id, result)
            if self._response is None:
                return json_response(body)
        with contextlib.suppress(ConnectionError):
            await self._response.write(_event(body))
            await self._response.write_eof()
        return self._response


def _event(body: Json) -> bytes:
    return b"event: message\ndata: %b\n\n" % encode(body)
