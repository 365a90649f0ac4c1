"""The HTTP API for operators of tool sources: which tools they offer, and which may be called."""

from collections.abc import Iterable

import msgspec
from aiohttp import web

from palaver.authentication import requires
from palaver.errors import NotFound
from palaver.openapi import Content, Operation, Parameter, described
from palaver.server import Server
from palaver.web.bodies import NAME_SCHEMA, ToolApprovals, ToolSourcesResponse, ToolSourceState
from palaver.web.requests import decode_body
from palaver.web.responses import json_response

_decode_approvals = msgspec.json.Decoder(ToolApprovals).decode
_DIGEST = "9f2c5b0e7d41"
_SOURCE = Parameter(
    name="source",
    place="path",
    description="The name of an enabled source of tools.",
    schema=NAME_SCHEMA,
    example="mcp",
)
_EXAMPLE = {
    "name": "mcp",
    "problems": [],
    "tools": [
        {
            "name": "time__now",
            "description": "Return the time.",
            "state": "new",
            "digest": _DIGEST,
            "problem": "",
        }
    ],
}


class ToolSourceHandler:
    """The routes of tool sources."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/v1/tool-sources", self._list, allow_head=False),
            web.post("/v1/tool-sources/{source}/approvals", self._approve),
        )

    @requires("operate")
    @described(
        Operation(
            summary="List the sources of tools, with the tools that they offer",
            responses={200: Content(type=ToolSourcesResponse, example={"sources": [_EXAMPLE]})},
        )
    )
    async def _list(self, request: web.Request) -> web.StreamResponse:
        states = tuple(map(self._state, self._server.tool_sources))
        return json_response(ToolSourcesResponse(sources=states))

    @requires("operate")
    @described(
        Operation(
            summary="Approve definitions of tools, which may be called from then on",
            parameters=(_SOURCE,),
            body=Content(type=ToolApprovals, example={"digests": {"time__now": _DIGEST}}),
            responses={200: Content(type=ToolSourceState, example=_EXAMPLE)},
        )
    )
    async def _approve(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["source"]
        source = self._server.tool_sources.get(name)
        if source is None:
            enabled = ", ".join(self._server.tool_sources) or "none"
            raise NotFound(f"there is no tool source {name[:100]!r}; enabled are: {enabled}")
        body = decode_body(_decode_approvals, await request.read())
        await source.approve(body.digests)
        return json_response(self._state(name))

    def _state(self, name: str) -> ToolSourceState:
        source = self._server.tool_sources[name]
        return ToolSourceState(
            name=name, problems=tuple(source.problems), tools=tuple(source.offered())
        )
