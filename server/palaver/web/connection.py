"""Connection: one client's connection, with a deadline for each phase."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import LineTooLong
from aiohttp.payload import Payload
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from palaver.errors import (
    HeadTooLarge,
    InvalidInput,
    PalaverError,
    RequestTimeout,
    TooLarge,
    describe_error,
)
from palaver.web.connections import Connections
from palaver.web.responses import error_response

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 32_768
"""Bytes of a request line and headers, without those that come in one piece with the end of
them."""
LINGER_SECONDS = 2.0
"""Seconds for which the rest of a body is read and dropped after its response, so that the client
can read the response."""
PROBE_DELAY = 2.0
"""Seconds between a client's end of sending and the first probe …"""
PROBE_INTERVAL = 0.5
"""… and between two probes: writes that fail when the client has closed its connection, where one
that has only ended its sending still reads."""
PROGRESS_BYTES = 65_536
"""Bytes of a larger backlog that a client has to take within ``connections.write_timeout``, and of
a file that it has to send within ``connections.body_timeout``."""
FREE_BYTES = 65_536
"""Bytes of an incomplete body or frame that are not counted."""
PIECE_BYTES = 65_536
"""Bytes of a large body that are written at once."""
STALL_SECONDS = 3.0
"""Seconds that a stalled connection has to end by `Connection.on_stalled`."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Pieces(Payload):
    """A response's body that is written in pieces, as fast as the client reads it."""

    _value: bytes

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for start in range(0, len(self._value), PIECE_BYTES):
            await writer.write(self._value[start : start + PIECE_BYTES])


class BodyTimeout(RequestTimeout, TimeoutError):
    """A body that was not sent in time. aiohttp expects a `TimeoutError` from a body."""


class MalformedBody(InvalidInput, TimeoutError):
    """A body whose transfer coding is wrong. aiohttp expects a `TimeoutError` from a body."""


class Connection(web.RequestHandler):
    """One client's connection.

    ``address`` is the client's, empty when a trusted proxy has connected. A connection of the
    reserve gets answers to requests for health and metrics only.
    """

    def __init__(
        self, server: web.Server, connections: Connections, address: str, *, is_reserve: bool
    ) -> None:
        self._timeouts = connections.settings
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=self._timeouts.keep_alive_timeout,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,  # a small compressed body may be a large one
            access_log=cast(logging.Logger, None),
        )
        self.address = address
        self.tenant = ""
        """The tenant that it is being served for."""
        self.is_reserve = is_reserve
        self.request: web.BaseRequest | None = None
        """The request that is being answered."""
        self.is_websocket = False
        self.on_stalled: Callable[[], None] = self.abort
        """Called when the client has not taken what was written in time."""
        self.on_probe: Callable[[], None] | None = None
        """Writes something to a client of a streamed response."""
        self.on_lost: Callable[[], None] | None = None
        """Called when the connection ends during a request."""
        self.writable = asyncio.Event()
        """Set while the client has taken everything that was written."""
        self.writable.set()
        self.counted_bytes = 0
        """The held bytes that `Connections` has counted."""
        self.held_since = 0.0
        """When the client had last taken everything, or the first byte was held."""
        self.waiting_bytes = 0
        """Bytes that wait to be written."""
        self._received_bytes = 0
        self._body: StreamReader = EMPTY_PAYLOAD
        """The body of the last request; the rest of one that was not read is dropped."""
        self._is_streamed = False
        """True when the handler reads the body as it comes."""
        self._connections = connections
        self._is_aborted = False
        self._is_refused = False
        self._has_ended_sending = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._open_transport: asyncio.Transport | None = None
        """The transport until it is closed: aiohttp forgets it when it begins to close it."""

    def abort(self) -> None:
        """Close the connection at once, without what was not sent."""
        self._is_aborted = True
        if self._open_transport is not None:
            self._open_transport.abort()

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._open_transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=0)  # writing pauses while anything is unsent
        if self._is_aborted:
            transport.abort()
        self._head_timer = self._loop.call_later(self._timeouts.head_timeout, self._end_head)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._open_transport = None
        self._connections.remove(self)
        if self.on_lost is not None:
            self.on_lost()
        for timer in (self._head_timer, self._body_timer, self._write_timer, self._probe_timer):
            if timer is not None:
                timer.cancel()
        self.writable.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_websocket:  # first: each message of each turn comes here
            self._received_bytes += len(data)
            super().data_received(data)
            if self._received_bytes > FREE_BYTES:
                self.count_buffered()
            return
        if self._is_refused:
            return
        if self.request is None and self._body.is_eof():
            if self._head_bytes > MAX_HEAD_BYTES:
                self._connections.metrics.limit_reached("head_size")
                self._refuse(HeadTooLarge())
                return
            if self._head_timer is None:
                self._head_timer = self._loop.call_later(
                    self._timeouts.head_timeout, self._end_head
                )
            self._head_bytes += len(data)
        super().data_received(data)
        if self._body_timer is not None:
            self._check_body()

    def _check_body(self) -> None:
        """End the deadline of a body that is complete, and refuse one that is malformed."""
        body = self._body
        self._received_bytes = 0 if self._is_streamed else body.total_bytes
        if self._received_bytes > FREE_BYTES:
            self.count_buffered()
        if body.is_eof():
            self._end_body_phase()
        elif self._messages:  # the body is not complete, so this is the parser's error
            body.set_exception(MalformedBody("the body is malformed"))

    def stream_body(self) -> None:
        """Let the body of the request take as long as it makes progress: its handler reads it as it
        comes, so that no more than a small part of it is held."""
        self._is_streamed = True
        self.end_message()
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._start_stream_deadline(self._body)

    def _start_stream_deadline(self, body: StreamReader) -> None:
        self._body_timer = self._loop.call_later(
            self._timeouts.body_timeout, self._check_stream, body, body.total_bytes
        )

    def _check_stream(self, body: StreamReader, received_before: int) -> None:
        """End a streamed body of which too little has come, unless its handler is the slow one."""
        is_late = body.total_bytes - received_before < PROGRESS_BYTES
        if is_late and not self._reading_paused:
            self._end_body(body)
        elif not body.is_eof():
            self._start_stream_deadline(body)

    def _end_body_phase(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        self.end_message()

    def end_message(self) -> None:
        """Count no more what was received: the body or the frame is complete."""
        is_counted = self._received_bytes > FREE_BYTES
        self._received_bytes = 0
        if is_counted:
            self.count_buffered()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's protocols may return it
        """Keep the connection of a client that has sent its request and waits for the response."""
        request = self.request
        if request is None or self.is_websocket or not request.content.is_eof():
            return False
        self._has_ended_sending = True
        if self._probe_timer is None:
            self._probe_timer = self._loop.call_later(PROBE_DELAY, self._probe)
        return True

    def _probe(self) -> None:
        """Write something that a client which still reads ignores."""
        self._probe_timer = self._loop.call_later(PROBE_INTERVAL, self._probe)
        if self.request is None or self.transport is None:
            return
        if self.on_probe is not None:
            self.on_probe()
        elif not self.request.writer.output_size and self.request.version >= (1, 1):
            self.transport.write(_CONTINUE)

    # Requests

    def begin_request(self, request: web.BaseRequest) -> None:
        """Answer a request whose head is complete."""
        self.request = request
        self._body = request.content
        self._is_streamed = False
        self._head_bytes = 0
        self._cancel_head_timer()
        self._connections.set_served(self)
        if not self._body.is_eof():
            self._body_timer = self._loop.call_later(
                self._timeouts.body_timeout, self._end_body, self._body
            )

    def count_tenant(self, tenant: str) -> None:
        """Count the connection for the caller's tenant. Raises `TooMany`."""
        self._connections.count_tenant(self, tenant)

    def count_refusal(self, error: PalaverError) -> None:
        """Count an error that says which limit was reached."""
        if isinstance(error, TooLarge):
            self._connections.metrics.limit_reached(error.limit)

    def upgrade(self) -> None:
        """Carry a websocket, which is pending until its hello is here."""
        self.is_websocket = True
        self._connections.set_pending(self)

    def accept_hello(self) -> None:
        """Count the websocket as one that is being served."""
        self._connections.set_served(self)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if self.is_reserve:
            resp.force_close()
        if isinstance(resp, web.Response) and isinstance(resp.body, bytes):
            if len(resp.body) > PIECE_BYTES:
                resp.body = Pieces(resp.body)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._finish_request()

    def _finish_request(self) -> None:
        self._end_body_phase()
        self.request = self.on_probe = self.on_lost = None
        self._connections.set_pending(self)
        if self._has_ended_sending and not self._messages:
            self.close()

    def _end_head(self) -> None:
        """Close a connection whose request was not complete in time."""
        self._head_timer = None
        if self.request is None:
            self._connections.metrics.limit_reached("head_timeout")
            self._refuse(RequestTimeout())

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_body(self, body: StreamReader) -> None:
        if not body.is_eof():
            self._connections.metrics.limit_reached("body_timeout")
            body.set_exception(BodyTimeout())

    def _refuse(self, error: PalaverError) -> None:
        """Answer something that is not a whole request, and close the connection."""
        if self._open_transport is None or not self._head_bytes:
            self.force_close()
            return
        self._is_refused = True
        self._cancel_head_timer()
        self.close()
        self._open_transport.write(raw_response(error))
        # Closing it now would reset the connection of a client that still sends, and the client
        # would not read the response.
        self._open_transport.write_eof()
        self._head_timer = self._loop.call_later(LINGER_SECONDS, self.abort)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to what the parser refuses, or to an error of ours."""
        if request.writer.output_size:
            raise ConnectionError("a part of the response is sent already")
        if exc is not None and status >= 500:
            log.error("a request failed: %s", describe_error(exc))
        error = _parser_error(status, exc)
        if status < 500:
            self._connections.metrics.limit_reached(limit_of(error))
        response = error_response(error)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:  # Any: as in aiohttp
        """Log an error of aiohttp, unless the connection has ended: it has read on."""
        if self._open_transport is not None:
            super().log_exception(*args, **kw)

    # Writing

    def pause_writing(self) -> None:
        super().pause_writing()
        self.writable.clear()
        self._start_write_deadline()
        self.count_buffered()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.writable.set()
        if self._write_timer is not None:
            self._write_timer.cancel()
        self.held_since = time.monotonic()
        self.count_buffered()

    def count_buffered(self) -> None:
        """Count what is held for this connection."""
        held = self._unsent_bytes() + self.waiting_bytes
        if self._received_bytes > FREE_BYTES:
            held += self._received_bytes
        self._connections.count_buffered(self, held)

    def _start_write_deadline(self) -> None:
        self._unsent = self._unsent_bytes()
        self._write_timer = self._loop.call_later(
            self._timeouts.write_timeout, self._check_progress
        )

    def _check_progress(self) -> None:
        """End a connection whose client has taken too little since the deadline was set."""
        if self._unsent - self._unsent_bytes() >= PROGRESS_BYTES:
            self._start_write_deadline()
            return
        log.debug("a client takes nothing and is disconnected")
        self._connections.metrics.slow_reader()
        self._connections.metrics.limit_reached("write_timeout")
        self._write_timer = self._loop.call_later(STALL_SECONDS, self.abort)
        self.on_stalled()

    def _unsent_bytes(self) -> int:
        return 0 if self._open_transport is None else self._open_transport.get_write_buffer_size()


def connection_of(request: web.BaseRequest) -> Connection:
    """Return the connection of a request."""
    connection = request.protocol
    assert isinstance(connection, Connection)
    return connection


def limit_of(error: PalaverError) -> str:
    """Return the name in the metric of limits for an error in a request's form."""
    return error.limit if isinstance(error, HeadTooLarge) else "malformed"


def raw_response(error: PalaverError) -> bytes:
    """Return the bytes of an error's response, for where there is no request to respond to."""
    response = error_response(error)
    body = cast(bytes, response.body)
    response.headers.update({"Content-Length": str(len(body)), "Connection": "close"})
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _parser_error(status: int, exc: BaseException | None) -> PalaverError:
    if status >= 500:
        return PalaverError()
    if isinstance(exc, LineTooLong):
        return HeadTooLarge()
    return InvalidInput("this is not an HTTP request")
