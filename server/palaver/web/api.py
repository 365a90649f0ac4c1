"""The HTTP API: a conversation's messages, stop and snapshot, the skills, export and erasure."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

import msgspec
from aiohttp import web

from palaver.authentication import principal_of, requires
from palaver.channels import ConversationAccess
from palaver.errors import InvalidInput
from palaver.exports import ExportEncoder
from palaver.ledger import Export
from palaver.messages import Message, new_id
from palaver.replies import follow_reply
from palaver.server import Server
from palaver.version import __version__
from palaver.web.bodies import (
    ConversationResponse,
    NewMessage,
    SkillDescription,
    SkillsResponse,
    StopRequest,
    StopResponse,
)
from palaver.web.connection import connection_of
from palaver.web.conversations import find_conversation
from palaver.web.frames import make_snapshot
from palaver.web.responses import JSON_HEADERS, json_response

MAX_PAGE_ENTRIES = 1_000
"""History entries that a client may ask for at once; `ledger.history` may be less."""
_decode_message = msgspec.json.Decoder(NewMessage).decode
_decode_stop = msgspec.json.Decoder(StopRequest).decode


class ApiHandler:
    """The routes below ``/v1``, without the event streams."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.post("/v1/conversations/{thread}/messages", self._send),
            web.post("/v1/conversations/{thread}/stop", self._stop),
            web.get("/v1/conversations/{thread}", self._snapshot, allow_head=False),
            web.get("/v1/conversations/{thread}/history", self._history, allow_head=False),
            web.get("/v1/export", self._export, allow_head=False),
            web.post("/v1/erase", self._erase),
            web.get("/v1/skills", self._skills, allow_head=False),
            web.get("/v1/about", self._about, allow_head=False),
        )

    def _find_conversation(
        self, request: web.Request, person: str | None = None
    ) -> ConversationAccess:
        principal = principal_of(request)
        person = person or request.query.get("person")
        return find_conversation(self._server, principal, request.match_info["thread"], person)

    @requires("talk")
    async def _send(self, request: web.Request) -> web.StreamResponse:
        body = _decode(_decode_message, await request.read())
        access = self._find_conversation(request, body.person)
        message = Message(
            conversation=access.conversation,
            id=_message_id(request, body),
            person=access.person,
            text=body.text,
            skill=body.skill,
            arguments=body.arguments,
        )
        if request.query.get("wait") == "true":
            async with follow_reply(self._server, message) as reply:
                connection_of(request).on_lost = reply.on_shutdown
                return json_response(await reply.wait())
        return json_response(await self._server.accept(message), 202)

    @requires("talk")
    async def _stop(self, request: web.Request) -> web.StreamResponse:
        body = _decode(_decode_stop, await request.read() or b"{}")
        state, turn = await self._find_conversation(request).stop(body.turn)
        return json_response(StopResponse(turn=turn, state=state))

    @requires("read")
    async def _snapshot(self, request: web.Request) -> web.StreamResponse:
        snapshot = await self._find_conversation(request).snapshot()
        return json_response(
            ConversationResponse(cursor=str(snapshot.cursor), snapshot=make_snapshot(snapshot))
        )

    @requires("read")
    async def _history(self, request: web.Request) -> web.StreamResponse:
        before = request.query.get("before", "")
        limit = _parse_limit(request.query.get("limit"))
        return json_response(await self._find_conversation(request).history(before, limit))

    @requires("export")
    async def _export(self, request: web.Request) -> web.StreamResponse:
        export = self._server.export(*_data_owner(request))
        async with contextlib.aclosing(export) as parts:
            return await _stream_export(request, parts)

    @requires("erase")
    async def _erase(self, request: web.Request) -> web.StreamResponse:
        return json_response(await self._server.erase(*_data_owner(request)))

    @requires("talk")
    async def _skills(self, request: web.Request) -> web.StreamResponse:
        skills = sorted(self._server.skills().items())
        return json_response(
            SkillsResponse(
                skills=tuple(SkillDescription(name=name, description=text) for name, text in skills)
            )
        )

    @requires("talk")
    async def _about(self, request: web.Request) -> web.StreamResponse:
        return json_response({"version": __version__, **self._server.about()})


async def _stream_export(
    request: web.Request, parts: AsyncGenerator[Export, None]
) -> web.StreamResponse:
    """Answer with the JSON of an export, part by part. An error after the first part cuts the
    response."""
    encoder = ExportEncoder()
    first = encoder.add(await anext(parts))  # an error so far is answered as any other
    response = web.StreamResponse(headers=JSON_HEADERS)
    response.content_type = "application/json"
    await response.prepare(request)
    await response.write(first)
    async for part in parts:
        await response.write(encoder.add(part))
    await response.write_eof(encoder.end())
    return response


def _data_owner(request: web.Request) -> tuple[str, str]:
    """Return the tenant and the person whose data the request is about."""
    principal = principal_of(request)
    return principal.tenant, principal.resolve_data_owner(request.query.get("person"))


def _decode(decode: Callable[[bytes], Any], body: bytes) -> Any:  # Any: the decoder's struct
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body cannot be read: {error}") from error


def _parse_limit(text: str | None) -> int:
    """Return the number of entries that a client asks for."""
    if text is None:
        return MAX_PAGE_ENTRIES
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_PAGE_ENTRIES:
        raise InvalidInput(f"limit={text[:20]!r}: expected a number from 1 to {MAX_PAGE_ENTRIES}")
    return int(text)


def _message_id(request: web.Request, body: NewMessage) -> str:
    key = request.headers.get("Idempotency-Key")
    if key and body.id and key != body.id:
        raise InvalidInput("Idempotency-Key and the body's id differ; one of them is enough")
    return key or body.id or new_id()
