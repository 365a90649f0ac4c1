"""The HTTP API of the widget: tokens for the visitors of a site."""

from collections.abc import Iterable

import msgspec
from aiohttp import hdrs, web

from palaver.authentication import public
from palaver.errors import CallerError, Forbidden, TooLarge, TooMany
from palaver.openapi import Content, Operation, described
from palaver.origins import find_origin_of_page
from palaver.server import Server
from palaver.sites import Site, VisitorGrant
from palaver.visitors import TOKEN_SECONDS
from palaver.web.bodies import VisitorTokenRequest, VisitorTokenResponse
from palaver.web.requests import decode_body
from palaver.web.responses import json_response
from palaver.web.throttle import Throttle

MAX_REQUEST_BYTES = 16_384
"""Bytes of a request for a token."""
_decode_request = msgspec.json.Decoder(VisitorTokenRequest).decode


class WidgetHandler:
    """The route of the visitors' tokens."""

    def __init__(self, server: Server) -> None:
        settings = server.settings.widget
        self._server = server
        self._requests = Throttle(settings.token_requests_per_minute)
        self._new_visitors = {
            name: Throttle(site.new_visitors_per_minute) for name, site in settings.sites.items()
        }

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.post("/v1/widget/token", self._token),)

    @public
    @described(
        Operation(
            summary="Get a token for a visitor of a site with the widget",
            body=Content(
                type=VisitorTokenRequest, example={"key": "pk_4f0c2d7be19a4c55", "visitor": None}
            ),
            responses={
                200: Content(
                    type=VisitorTokenResponse,
                    example={
                        "token": "eyJhbGciOi…",
                        "expires_in": TOKEN_SECONDS,
                        "person": "visitor.shop.0d3f1a6c5b7e4f2a9c8d0e1f2a3b4c5d",
                        "visitor": "eyJhbGciOi…",
                    },
                )
            },
            errors=(401, 413, 429),
        )
    )
    async def _token(self, request: web.Request) -> web.StreamResponse:
        metrics = self._server.metrics
        try:
            grant = await self._grant(request)
        except TooMany:
            metrics.visitor_token("throttled")
            raise
        except CallerError:
            metrics.visitor_token("refused")
            raise
        metrics.visitor_token("granted")
        return json_response(
            VisitorTokenResponse(
                token=grant.token,
                expires_in=TOKEN_SECONDS,
                person=grant.person,
                visitor=grant.visitor,
            )
        )

    async def _grant(self, request: web.Request) -> VisitorGrant:
        self._server.authenticator.check_origin(request, has_visitors=True)
        origin = find_origin_of_page(request.headers.get(hdrs.ORIGIN, ""))
        if not origin:
            raise Forbidden("a token is for a page: the request needs its Origin header")
        self._limit_address(request)
        body = await request.read()
        if len(body) > MAX_REQUEST_BYTES:
            raise TooLarge(f"a request for a token has {MAX_REQUEST_BYTES} bytes at most")
        wanted = decode_body(_decode_request, body)
        site = self._server.sites.find(wanted.key, origin)
        grant = self._server.sites.grant(
            site, origin, visitor=wanted.visitor or "", identity=wanted.identity or ""
        )
        if grant.is_new:
            self._limit_new_visitors(site)
        return grant

    def _limit_address(self, request: web.Request) -> None:
        if wait := self._requests.count(self._server.client_addresses.of(request)):
            self._server.metrics.limit_reached("token_requests")
            raise TooMany("too many requests for tokens came from this address", retry_after=wait)

    def _limit_new_visitors(self, site: Site) -> None:
        if wait := self._new_visitors[site.name].count(site.name):
            self._server.metrics.limit_reached("new_visitors")
            raise TooMany("this site has too many new visitors at once", retry_after=wait)
