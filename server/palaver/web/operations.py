"""Operations: health, readiness, metrics and the description of the API."""

from collections.abc import Iterable

from aiohttp import web

from palaver.authentication import public, requires
from palaver.errors import EngineUnavailable, LedgerUnavailable, Overloaded
from palaver.server import Server
from palaver.version import __version__
from palaver.web.access import AccessControl
from palaver.web.openapi import document
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

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/healthz", self._live),
            web.get("/readyz", self._ready),
            web.get("/metrics", self._metrics, allow_head=False),
            web.get("/openapi.json", self._openapi, allow_head=False),
        )

    @public
    async def _live(self, request: web.Request) -> web.StreamResponse:
        return json_response({"status": "alive"})

    @public
    async def _ready(self, request: web.Request) -> web.StreamResponse:
        problems = self._server.readiness()
        if not problems:
            return json_response({"status": "ready", "problems": {}})
        if not self._access_control.has_right(request, "operate"):
            problems = {component: READINESS_CODES[component] for component in problems}
        response = json_response({"status": "not ready", "problems": problems}, 503)
        response.headers.update(Overloaded().retry_headers)
        return response

    @requires("metrics")
    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=self._server.metrics.exposition(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    @public
    async def _openapi(self, request: web.Request) -> web.StreamResponse:
        return json_response(document(__version__))
