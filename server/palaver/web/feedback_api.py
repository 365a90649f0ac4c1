"""The HTTP API for a person's feedback on replies."""

from collections.abc import Iterable

import msgspec
from aiohttp import web

from palaver.authentication import for_visitors, principal_of, requires
from palaver.channels import ConversationAccess
from palaver.feedback import Feedback
from palaver.messages import check_id
from palaver.openapi import described
from palaver.server import Server
from palaver.web import conversation_operations as operations
from palaver.web.bodies import (
    FeedbackListResponse,
    NewFeedback,
    ThumbsDown,
    WithdrawnResponse,
)
from palaver.web.conversations import open_conversation
from palaver.web.requests import decode_body
from palaver.web.responses import json_response

_decode_feedback = msgspec.json.Decoder(NewFeedback).decode


class FeedbackHandler:
    """The routes of feedback."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ledger = server.ledger

    def routes(self) -> Iterable[web.RouteDef]:
        conversation = "/v1/conversations/{thread}"
        turn = f"{conversation}/turns/{{turn}}/feedback"
        return (
            web.get(f"{conversation}/feedback", self._list, allow_head=False),
            web.put(turn, self._give),
            web.delete(turn, self._withdraw),
        )

    async def _open(self, request: web.Request) -> ConversationAccess:
        """Return the access to the request's conversation. Raises `Forbidden`."""
        thread, person = request.match_info["thread"], request.query.get("person")
        return await open_conversation(self._server, principal_of(request), thread, person)

    @requires("read")
    @for_visitors
    @described(operations.FEEDBACK)
    async def _list(self, request: web.Request) -> web.StreamResponse:
        access = await self._open(request)
        given = await self._ledger.feedback(access.conversation, access.person)
        return json_response(FeedbackListResponse(feedback=given))

    @requires("talk")
    @for_visitors
    @described(operations.GIVE_FEEDBACK)
    async def _give(self, request: web.Request) -> web.StreamResponse:
        access = await self._open(request)
        body = decode_body(_decode_feedback, await request.read())
        feedback = Feedback(
            turn=_turn_of(request),
            rating="down" if isinstance(body, ThumbsDown) else "up",
            reason=body.reason,
            comment=body.comment,
        )
        given = await self._server.rate(access.conversation, access.person, feedback)
        return json_response(given)

    @requires("talk")
    @for_visitors
    @described(operations.WITHDRAW_FEEDBACK)
    async def _withdraw(self, request: web.Request) -> web.StreamResponse:
        access, turn = await self._open(request), _turn_of(request)
        withdrawn = await self._ledger.withdraw_feedback(access.conversation, access.person, turn)
        return json_response(WithdrawnResponse(turn=turn, withdrawn=withdrawn))


def _turn_of(request: web.Request) -> str:
    return check_id(request.match_info["turn"], "turn")
