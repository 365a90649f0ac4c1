"""The HTTP API for operators of channels: how they are, and who may write to their bots."""

from collections.abc import Iterable

import msgspec
from aiohttp import web

from palaver.authentication import requires
from palaver.errors import NotFound
from palaver.messages import check_name
from palaver.openapi import described
from palaver.platforms.pairing import Pairings
from palaver.server import Server
from palaver.web import channel_operations as operations
from palaver.web.bodies import (
    ApprovedPeopleResponse,
    ChannelsResponse,
    ChannelState,
    PairingCode,
    PairingRequestsResponse,
)
from palaver.web.requests import decode_body
from palaver.web.responses import json_response

_decode_code = msgspec.json.Decoder(PairingCode).decode


class ChannelHandler:
    """The routes of channels. They show the people of all tenants."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def routes(self) -> Iterable[web.RouteDef]:
        people = "/v1/channels/{channel}/people"
        return (
            web.get("/v1/channels", self._list, allow_head=False),
            web.get("/v1/channels/{channel}/requests", self._waiting, allow_head=False),
            web.get(people, self._people, allow_head=False),
            web.post(people, self._approve),
            web.delete(f"{people}/{{person}}", self._revoke),
        )

    @requires("operate")
    @described(operations.CHANNELS)
    async def _list(self, request: web.Request) -> web.StreamResponse:
        states = [
            ChannelState(name=name, problem=self._server.channel_problem(name))
            for name in self._server.channels
        ]
        return json_response(ChannelsResponse(channels=tuple(states)))

    @requires("operate")
    @described(operations.WAITING)
    async def _waiting(self, request: web.Request) -> web.StreamResponse:
        requests = await self._pairings(request).requests()
        return json_response(PairingRequestsResponse(requests=tuple(requests)))

    @requires("operate")
    @described(operations.PEOPLE)
    async def _people(self, request: web.Request) -> web.StreamResponse:
        people = await self._pairings(request).people()
        return json_response(ApprovedPeopleResponse(people=tuple(people)))

    @requires("operate")
    @described(operations.APPROVE)
    async def _approve(self, request: web.Request) -> web.StreamResponse:
        pairings = self._pairings(request)
        body = decode_body(_decode_code, await request.read())
        return json_response(await pairings.approve(body.code))

    @requires("operate")
    @described(operations.REVOKE)
    async def _revoke(self, request: web.Request) -> web.StreamResponse:
        tenant = check_name(request.query.get("tenant", "default"), "tenant")
        person = check_name(request.match_info["person"], "person")
        return json_response(await self._pairings(request).revoke(tenant, person))

    def _pairings(self, request: web.Request) -> Pairings:
        """Return the pairings of the request's channel. Raises `NotFound`."""
        channel = request.match_info["channel"]
        if channel not in self._server.channels:
            enabled = ", ".join(self._server.channels) or "none"
            raise NotFound(f"there is no channel {channel[:100]!r}; enabled are: {enabled}")
        return Pairings(self._server.records, channel)
