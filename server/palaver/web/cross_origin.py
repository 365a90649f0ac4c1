"""Cross-origin requests (CORS): pages of `server.origins` may use every route and read its answers,
errors included. So may pages of `widget.sites`, but without cookies and with few headers."""

from typing import TypeVar

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from palaver.authentication import Authenticator

PREFLIGHT_SECONDS = 7200
"""Seconds for which a browser remembers a preflight, the longest that Chromium does."""
HEADERS_OF_VISITORS = frozenset(
    {"authorization", "content-type", "idempotency-key", "last-event-id"}
)
"""Headers that pages of `widget.sites` may send beside those that need no preflight."""
RETRY_HEADERS = ("Retry-After", "retry-after-ms")
ResponseT = TypeVar("ResponseT", bound=web.StreamResponse)


class CrossOriginAccess:
    """The headers that let pages of the allowed origins use the server."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    @web.middleware
    async def answer_preflight(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a browser that asks for what a page may send, before it sends any key."""
        method = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        if (
            request.method != hdrs.METH_OPTIONS
            or method is None
            or hdrs.ORIGIN not in request.headers
        ):
            return await handler(request)
        self._authenticator.check_origin(request, has_visitors=True)
        # An unknown path takes any method here, so that the page can read the 404.
        refusal = request.match_info.http_exception
        methods = {method}
        if isinstance(refusal, web.HTTPMethodNotAllowed):
            methods = refusal.allowed_methods
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(sorted(methods)),
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: self._allowed_headers(request),
                hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_SECONDS),
            },
        )

    def _allowed_headers(self, request: web.Request) -> str:
        """Return all headers that a page of `server.origins` asks for: the operator trusts it, and
        clients add headers of their own."""
        asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
        if self._authenticator.is_page_of_site(request):
            names = (name.strip() for name in asked.lower().split(","))
            return ", ".join(name for name in names if name in HEADERS_OF_VISITORS)
        return asked

    async def on_response_prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        self.allow_reading(request, response)

    def allow_reading(self, request: web.BaseRequest, response: ResponseT) -> ResponseT:
        """Let a page of an allowed origin read the response; return it."""
        headers = response.headers
        if headers.get(hdrs.ACCESS_CONTROL_ALLOW_ORIGIN) == "*":  # for everybody, and all the same
            return response
        vary = headers.get(hdrs.VARY, "")
        if hdrs.ORIGIN not in vary:
            headers[hdrs.VARY] = ", ".join(filter(None, (vary, hdrs.ORIGIN)))
        is_trusted = self._authenticator.is_foreign_page_allowed(request)
        if is_trusted or self._authenticator.is_page_of_site(request):
            exposed = {*RETRY_HEADERS, *headers} - {hdrs.VARY, hdrs.SET_COOKIE}
            headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ", ".join(sorted(exposed))
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
        if is_trusted:
            headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
        return response
