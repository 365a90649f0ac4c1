"""The stream of a response: server-sent events."""

import asyncio

from aiohttp import web

from palaver import encode
from palaver_plugins.channels.openai_api.chat_response import (
    COMMENT,
    COMMENT_INTERVAL,
    DISCONNECT_CHECK_INTERVAL,
)
from palaver_plugins.channels.openai_api.errors import REQUEST_ID, SSE_HEADERS, Json
from palaver_plugins.channels.openai_api.response_reading import ResponseFollower

LOST = "the events of this response are no longer stored; read it without stream"


async def wait_for_end(request: web.Request, follower: ResponseFollower) -> bool:
    """Return True when the turn has ended, False when the client has gone. Raises `Overloaded` when
    the server stops first."""
    while not follower.has_ended:
        if not await _wait(request, follower, DISCONNECT_CHECK_INTERVAL):
            return False
    await follower.wait_for_end()
    return True


async def _wait(request: web.Request, follower: ResponseFollower, seconds: float) -> bool:
    """Wait for a change, for some seconds at most. Return False when the client has gone."""
    try:
        async with asyncio.timeout(seconds):
            await follower.changed.wait()
    except TimeoutError:
        return request.transport is not None and not request.transport.is_closing()
    follower.changed.clear()
    return True


class ResponseStream:
    """Writes the events of a response, those with a number above ``after``."""

    def __init__(
        self, request: web.Request, follower: ResponseFollower, *, after: int = -1
    ) -> None:
        self._request = request
        self._follower = follower
        self._after = after

    async def write(self) -> web.StreamResponse:
        turn = self._follower.builder.id.turn
        response = web.StreamResponse(headers={**SSE_HEADERS, REQUEST_ID: turn})
        await response.prepare(self._request)
        try:
            await self._write_events(response)
            await response.write_eof()
        except ConnectionError:
            pass  # a response that is stored goes on
        return response

    async def _write_events(self, response: web.StreamResponse) -> None:
        sent = 0
        while True:
            has_ended = self._follower.has_ended
            fresh = self._follower.events[sent:]
            sent += len(fresh)
            for event in fresh:
                if event["sequence_number"] > self._after:
                    await response.write(_frame(event))
                if event["type"] == "error":
                    return
            if has_ended:
                break
            if not await _wait(self._request, self._follower, COMMENT_INTERVAL):
                return
            if sent == len(self._follower.events) and not self._follower.has_ended:
                await response.write(COMMENT)
        if not self._follower.builder.is_finished:
            await response.write(_frame(self._problem(sent)))

    def _problem(self, number: int) -> Json:
        """Return the event that tells why the stream ends before its turn."""
        error = self._follower.error
        code, message = (error.code, error.public) if error is not None else ("lost", LOST)
        return {
            "type": "error",
            "code": code,
            "message": message,
            "param": None,
            "sequence_number": number,
        }


def _frame(event: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encode(event))
