"""Operations: health, readiness, metrics and the description of the API."""

from collections.abc import Iterable

from aiohttp import web

from palaver.authentication import public, requires
from palaver.errors import EngineUnavailable, LedgerUnavailable, Overloaded
from palaver.openapi import Content, Operation, described
from palaver.server import Server
from palaver.version import __version__
from palaver.web.access import AccessControl
from palaver.web.bodies import LiveResponse, ReadyResponse
from palaver.web.openapi import Json, make_document
from palaver.web.responses import json_response

READINESS_CODES = {
    "engine": EngineUnavailable.code,
    "ledger": LedgerUnavailable.code,
    "server": "draining",
}
"""What ``/readyz`` tells of a component's problem to callers without the right ``operate``."""


class OperationsHandler:
    """The routes for operators and their tools."""

    def __init__(self, server: Server, access_control: AccessControl) -> None:
        self._server = server
        self._access_control = access_control
        self._document: Json | None = None

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/healthz", self._live),
            web.get("/readyz", self._ready),
            web.get("/metrics", self._metrics, allow_head=False),
            web.get("/openapi.json", self._openapi, allow_head=False),
        )

    @public
    @described(
        Operation(
            summary="The process is alive",
            responses={200: Content(type=LiveResponse, example={"status": "alive"})},
        )
    )
    async def _live(self, request: web.Request) -> web.StreamResponse:
        return json_response(LiveResponse(status="alive"))

    @public
    @described(
        Operation(
            summary="Readiness: whether the server accepts messages",
            responses={
                200: Content(type=ReadyResponse, example={"status": "ready", "problems": {}}),
                503: Content(
                    description="Not ready: codes of the problems, or sentences for operators",
                    type=ReadyResponse,
                    example={"status": "not ready", "problems": {"server": "draining"}},
                ),
            },
            errors=(401, 429),
        )
    )
    async def _ready(self, request: web.Request) -> web.StreamResponse:
        problems = dict(self._server.readiness())
        if not problems:
            return json_response(ReadyResponse(status="ready", problems={}))
        if not self._access_control.has_right(request, "operate"):
            problems = {component: READINESS_CODES[component] for component in problems}
        response = json_response(ReadyResponse(status="not ready", problems=problems), 503)
        response.headers.update(Overloaded().retry_headers)
        return response

    @requires("metrics")
    @described(
        Operation(
            summary="Metrics for Prometheus",
            responses={
                200: Content(
                    type={"type": "string"},
                    example="palaver_websockets 3.0",
                    media_type="text/plain",
                )
            },
        )
    )
    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=self._server.metrics.exposition(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    @public
    @described(
        Operation(
            summary="This document",
            responses={200: Content(type={"type": "object"}, example={"openapi": "3.1.0"})},
        )
    )
    async def _openapi(self, request: web.Request) -> web.StreamResponse:
        if self._document is None:
            has_keys = self._server.authenticator.has_keys
            self._document = make_document(request.app, __version__, has_keys=has_keys)
        return json_response(self._document)
