"""The HTTP API: messages, stop and snapshot of one conversation, and the skills."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from palaver.channels import ConversationService
from palaver.errors import InvalidInput, PalaverError
from palaver.messages import Conversation, Message, encode, new_id
from palaver.version import __version__
from palaver.web.authentication import Authenticator, ConversationAccess
from palaver.web.bodies import (
    Accepted,
    ConversationAnswer,
    NewMessage,
    SkillAnswer,
    SkillsAnswer,
    StopAnswer,
    StopRequest,
)
from palaver.web.frames import view_of
from palaver.web.replies import follow_reply
from palaver.web.socket import CHANNEL

About = Callable[[], Mapping[str, Any]]  # JSON values


_decode_message = msgspec.json.Decoder(NewMessage).decode
_decode_stop = msgspec.json.Decoder(StopRequest).decode


def answer(body: object, status: int = 200) -> web.Response:
    """``body`` as JSON."""
    return web.Response(
        body=encode(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )


def refusal(error: PalaverError) -> web.Response:
    """``error`` as JSON, with its status."""
    response = answer({"error": {"code": error.code, "message": error.public}}, error.status)
    if error.retry_after is not None:
        response.headers.update(retry_headers(error.retry_after))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def retry_headers(seconds: float) -> dict[str, str]:
    """When to come back: in whole seconds for everybody, and exactly for those who read that."""
    return {
        "Retry-After": str(max(1, math.ceil(seconds))),
        "retry-after-ms": str(max(1, math.ceil(seconds * 1000))),
    }


class Api:
    """The routes below ``/v1``."""

    def __init__(
        self, service: ConversationService, authenticator: Authenticator, about: About
    ) -> None:
        self._service = service
        self._authenticator = authenticator
        self._about = about

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.post("/v1/conversations/{thread}/messages", self._send),
            web.post("/v1/conversations/{thread}/stop", self._stop),
            web.get("/v1/conversations/{thread}", self._snapshot, allow_head=False),
            web.get("/v1/export", self._export, allow_head=False),
            web.post("/v1/erase", self._erase),
            web.get("/v1/skills", self._skills, allow_head=False),
            web.get("/v1/about", self._tell_about, allow_head=False),
        )

    async def _visit(self, request: web.Request, person: str | None = None) -> ConversationAccess:
        principal = self._authenticator.principal(request)
        person = principal.speaks_for(person or request.query.get("person"))
        conversation = Conversation(principal.tenant, CHANNEL, request.match_info["thread"])
        visit = ConversationAccess(self._service, conversation, person)
        await visit.enter()
        return visit

    async def _send(self, request: web.Request) -> web.StreamResponse:
        self._authenticator.principal(request)  # before the body is read
        body = _read(_decode_message, await request.read())
        visit = await self._visit(request, body.person)
        message = Message(
            conversation=visit.conversation,
            id=_message_id(request, body),
            person=visit.person,
            text=body.text,
            skill=body.skill,
            arguments=body.arguments,
        )
        if request.query.get("wait") == "true":
            return await self._reply(message)
        receipt = await self._service.accept(message)
        accepted = Accepted(
            turn=receipt.turn,
            ahead=receipt.ahead,
            duplicate=receipt.duplicate,
            joined=receipt.joined,
        )
        return answer(accepted, 202)

    async def _reply(self, message: Message) -> web.StreamResponse:
        async with follow_reply(self._service, message) as reply:
            return answer(await reply.finish())

    async def _stop(self, request: web.Request) -> web.StreamResponse:
        self._authenticator.principal(request)
        body = _read(_decode_stop, await request.read() or b"{}")
        visit = await self._visit(request)
        state, turn = await self._service.stop(visit.conversation, body.turn)
        return answer(StopAnswer(turn=turn, state=state))

    async def _snapshot(self, request: web.Request) -> web.StreamResponse:
        visit = await self._visit(request)
        snapshot = await self._service.snapshot(visit.conversation)
        return answer(ConversationAnswer(cursor=str(snapshot.cursor), snapshot=view_of(snapshot)))

    async def _export(self, request: web.Request) -> web.StreamResponse:
        return answer(await self._service.export(*self._person(request)))

    async def _erase(self, request: web.Request) -> web.StreamResponse:
        return answer(await self._service.erase(*self._person(request)))

    def _person(self, request: web.Request) -> tuple[str, str]:
        """The tenant and the person that a request is about."""
        principal = self._authenticator.principal(request)
        return principal.tenant, principal.speaks_for(request.query.get("person"))

    async def _skills(self, request: web.Request) -> web.StreamResponse:
        self._authenticator.principal(request)
        skills = sorted(self._service.skills().items())
        return answer(
            SkillsAnswer(
                skills=tuple(SkillAnswer(name=name, description=text) for name, text in skills)
            )
        )

    async def _tell_about(self, request: web.Request) -> web.StreamResponse:
        self._authenticator.principal(request)
        return answer({"version": __version__, **self._about()})


def _read(decode: Callable[[bytes], Any], body: bytes) -> Any:  # Any: the decoder's struct
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body cannot be read: {error}") from error


def _message_id(request: web.Request, body: NewMessage) -> str:
    key = request.headers.get("Idempotency-Key")
    if key and body.id and key != body.id:
        raise InvalidInput("Idempotency-Key and the body's id differ; one of them is enough")
    return key or body.id or new_id()
