"""Operations: health, readiness, metrics and the description of the API."""

from collections.abc import Callable, Iterable, Mapping

from aiohttp import web

from palaver.metrics import Metrics
from palaver.version import __version__
from palaver.web.api import answer, retry_headers
from palaver.web.authentication import Authenticator
from palaver.web.openapi import document

Readiness = Callable[[], Mapping[str, str]]
"""Component to problem; empty when the server can take messages."""
LOOK_AGAIN = 2.0
"""Seconds after which a server that is not ready may be."""


class Operations:
    def __init__(
        self, metrics: Metrics, readiness: Readiness, authenticator: Authenticator
    ) -> None:
        self._metrics = metrics
        self._readiness = readiness
        self._authenticator = authenticator

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/healthz", self._live),
            web.get("/readyz", self._ready),
            web.get("/metrics", self._scrape, allow_head=False),
            web.get("/openapi.json", self._describe, allow_head=False),
        )

    async def _live(self, request: web.Request) -> web.StreamResponse:
        return answer({"status": "alive"})

    async def _ready(self, request: web.Request) -> web.StreamResponse:
        problems = dict(self._readiness())
        status = "not ready" if problems else "ready"
        response = answer({"status": status, "problems": problems}, 503 if problems else 200)
        if problems:
            response.headers.update(retry_headers(LOOK_AGAIN))
        return response

    async def _scrape(self, request: web.Request) -> web.StreamResponse:
        self._authenticator.principal(request)
        return web.Response(
            body=self._metrics.exposition(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        return answer(document(__version__))
