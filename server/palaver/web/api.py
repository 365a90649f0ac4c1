"""The HTTP API: a conversation's messages, stop and snapshot, the skills, export and erasure."""

import contextlib
from collections.abc import AsyncGenerator, Iterable

import msgspec
from aiohttp import web

from palaver.authentication import for_visitors, principal_of, requires
from palaver.channels import ConversationAccess
from palaver.errors import InvalidInput
from palaver.exports import ExportEncoder
from palaver.ledger import Export
from palaver.messages import Message, check_id, new_id
from palaver.openapi import described
from palaver.replies import follow_reply
from palaver.server import Server
from palaver.version import __version__
from palaver.web import api_operations as operations
from palaver.web.api_operations import MAX_PAGE_ENTRIES
from palaver.web.bodies import (
    AboutResponse,
    ConversationResponse,
    IdentityResponse,
    NewMessage,
    SkillDescription,
    SkillsResponse,
    StopRequest,
    StopResponse,
)
from palaver.web.connection import connection_of
from palaver.web.conversations import attach_files, find_conversation
from palaver.web.frames import make_snapshot, message_after
from palaver.web.requests import decode_body, parse_flag, parse_number
from palaver.web.responses import JSON_HEADERS, json_response
from palaver.web.setup_api import may_set_up

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
            web.get("/v1/export/summary", self._summary, allow_head=False),
            web.post("/v1/erase", self._erase),
            web.get("/v1/skills", self._skills, allow_head=False),
            web.get("/v1/about", self._about, allow_head=False),
            web.get("/v1/me", self._me, allow_head=False),
        )

    def _find_conversation(
        self, request: web.Request, person: str | None = None
    ) -> ConversationAccess:
        principal = principal_of(request)
        person = person or request.query.get("person")
        return find_conversation(self._server, principal, request.match_info["thread"], person)

    @requires("talk")
    @for_visitors
    @described(operations.SEND)
    async def _send(self, request: web.Request) -> web.StreamResponse:
        body = decode_body(_decode_message, await request.read())
        access = self._find_conversation(request, body.person)
        attachments = await attach_files(self._server, access, body.attachments)
        message = Message(
            conversation=access.conversation,
            id=_message_id(request, body),
            person=access.person,
            text=body.text,
            skill=body.skill,
            arguments=body.arguments,
            attachments=attachments,
            after=message_after(body.after),
            answers="" if body.answers is None else check_id(body.answers, "answered approval"),
        )
        if parse_flag(request, "wait"):
            async with follow_reply(self._server, message) as reply:
                connection_of(request).on_lost = reply.on_shutdown
                return json_response(await reply.wait())
        return json_response(await self._server.accept(message), 202)

    @requires("talk")
    @for_visitors
    @described(operations.STOP)
    async def _stop(self, request: web.Request) -> web.StreamResponse:
        body = decode_body(_decode_stop, await request.read() or b"{}")
        state, turn = await self._find_conversation(request).stop(body.turn)
        return json_response(StopResponse(turn=turn, state=state))

    @requires("read")
    @for_visitors
    @described(operations.SNAPSHOT)
    async def _snapshot(self, request: web.Request) -> web.StreamResponse:
        snapshot = await self._find_conversation(request).snapshot()
        return json_response(
            ConversationResponse(cursor=str(snapshot.cursor), snapshot=make_snapshot(snapshot))
        )

    @requires("read")
    @for_visitors
    @described(operations.HISTORY)
    async def _history(self, request: web.Request) -> web.StreamResponse:
        before = request.query.get("before", "")
        limit = parse_number(request, "limit", default=MAX_PAGE_ENTRIES, highest=MAX_PAGE_ENTRIES)
        return json_response(await self._find_conversation(request).history(before, limit))

    @requires("export")
    @for_visitors
    @described(operations.EXPORT)
    async def _export(self, request: web.Request) -> web.StreamResponse:
        export = self._server.export(*_data_owner(request))
        async with contextlib.aclosing(export) as parts:
            return await _stream_export(request, parts)

    @requires("export")
    @for_visitors
    @described(operations.SUMMARY)
    async def _summary(self, request: web.Request) -> web.StreamResponse:
        return json_response(await self._server.summarize_data(*_data_owner(request)))

    @requires("erase")
    @for_visitors
    @described(operations.ERASE)
    async def _erase(self, request: web.Request) -> web.StreamResponse:
        return json_response(await self._server.erase(*_data_owner(request)))

    @requires("talk")
    @for_visitors
    @described(operations.SKILLS)
    async def _skills(self, request: web.Request) -> web.StreamResponse:
        skills = sorted(self._server.skills(principal_of(request).site).items())
        return json_response(
            SkillsResponse(
                skills=tuple(
                    SkillDescription(
                        name=name, description=text, prompts=self._server.prompts(name)
                    )
                    for name, text in skills
                )
            )
        )

    @requires("talk")
    @for_visitors
    @described(operations.ABOUT)
    async def _about(self, request: web.Request) -> web.StreamResponse:
        about = self._server.about(principal_of(request).site)
        setup = may_set_up(self._server, request)
        return json_response(AboutResponse(version=__version__, setup=setup, **about))

    @requires("read")
    @for_visitors
    @described(operations.ME)
    async def _me(self, request: web.Request) -> web.StreamResponse:
        principal = principal_of(request)
        person = principal.resolve_person(None)
        return json_response(
            IdentityResponse(
                person=person,
                key=principal.name if self._server.authenticator.has_keys else "",
                rights=tuple(sorted(principal.rights)),
                is_shared=person in principal.shared,
            )
        )


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


def _message_id(request: web.Request, body: NewMessage) -> str:
    key = request.headers.get("Idempotency-Key", body.id)
    if key != body.id and body.id is not None:
        raise InvalidInput("Idempotency-Key and the body's id differ; one of them is enough")
    return new_id() if key is None else key
