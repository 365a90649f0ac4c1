"""Access: the one place where the server checks what a caller may do, before any handler runs."""

import dataclasses
import logging
import re

from aiohttp import web
from aiohttp.typedefs import Handler

from palaver.addresses import ClientAddresses
from palaver.authentication import (
    Principal,
    bearer_token,
    is_for_visitors,
    route_access,
    set_principal,
)
from palaver.browsers import browser_person, new_browser_id
from palaver.config.settings import Right
from palaver.errors import ConfigurationError, Forbidden, TooMany, Unauthenticated
from palaver.server import Server
from palaver.web.connection import connection_of
from palaver.web.throttle import Throttle

log = logging.getLogger(__name__)

_GROUP_NAME = re.compile(r"\?P<\w+>")
COOKIE_SECONDS = 400 * 86_400
"""Life of a browser's cookie, the longest that browsers allow. Each visit of the page renews it."""
LOG_LINES_PER_MINUTE = 60.0
"""Lines about wrong keys: with many addresses, they must not fill the disk."""
BROWSER_HEADERS = ("Origin", "Sec-Fetch-Site")
"""Headers that browsers send and that scripts in a page cannot set or remove."""
BROWSER_ID = web.RequestKey("browser_id", str)


class AccessControl:
    """Identifies the caller of each request, and checks its rights."""

    def __init__(self, server: Server) -> None:
        self._authenticator = server.authenticator
        self._sites = server.sites
        self._cookies = server.browser_cookies
        self._metrics = server.metrics
        self._addresses = ClientAddresses(server.settings.connections.trusted_proxies)
        self._throttle = Throttle(server.settings.auth.failures_per_minute)
        self._log_throttle = Throttle(LOG_LINES_PER_MINUTE)

    @web.middleware
    async def authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Run the handler if the caller has the right that its route requires."""
        access = route_access(request.match_info.handler)
        if access is not None and access.right is not None:
            principal = self.identify(request)
            principal.require(access.right)
            if principal.site and not is_for_visitors(request.match_info.handler):
                raise Forbidden("this route is not for visitors of a site")
            if access.right != "metrics":  # operators see what a tenant fills
                connection_of(request).count_tenant(principal.tenant)
            set_principal(request, principal)
        return await handler(request)

    def check_upgrade(self, request: web.Request) -> None:
        """Refuse foreign pages and a wrong header; a browser sends its key in the hello. Raises as
        `identify`."""
        self._authenticator.check_origin(request, has_visitors=True)
        if bearer_token(request) is not None:
            self.identify(request)

    def has_right(self, request: web.Request, right: Right) -> bool:
        """Return whether the caller of a public route has a right. Raises `Unauthenticated` and
        `TooMany` for a wrong key."""
        is_page_of_site = self._authenticator.is_page_of_site(request)
        if (self._authenticator.has_keys or is_page_of_site) and bearer_token(request) is None:
            return False
        try:
            return right in self.identify(request).rights
        except Forbidden:  # a foreign page
            return False

    def identify(self, request: web.Request, token: str | None = None) -> Principal:
        """Return the caller of a request; ``token`` stands for the header. Raises
        `Unauthenticated`, `TooMany` and `Forbidden`."""
        token = token or bearer_token(request) or ""
        if visitor := self._sites.find_principal(request, token):
            self._authenticator.check_origin(request, has_visitors=True)
            return visitor
        self._authenticator.check_origin(request)
        principal = self._authenticator.find_principal(token)
        if principal is None:
            raise self._refusal(request, token)
        if principal.person:
            return principal
        if id := self._browser_id(request):
            person = browser_person(id, principal.tenant, principal.name)
            principal = dataclasses.replace(principal, person=person)
        if not self._authenticator.has_keys and (id or _is_browser(request)):
            # Programs of this machine may name persons; a page may not name another browser's.
            principal = dataclasses.replace(principal, rights=principal.rights - {"impersonate"})
        return principal

    def _refusal(self, request: web.Request, token: str) -> Unauthenticated | TooMany:
        """Count a wrong key and return the error for it. A missing key is no guess."""
        if not token:
            return Unauthenticated()
        address = self._addresses.of(request)
        wait = self._throttle.count(address)
        self._metrics.wrong_key("throttled" if wait else "refused")
        if wait:
            return TooMany("too many wrong keys came from this address", retry_after=wait)
        if not self._log_throttle.count("all addresses"):
            log.warning("a wrong key came from %s", address or "an unknown address")
        return Unauthenticated()

    def _browser_id(self, request: web.Request) -> str:
        return request.get(BROWSER_ID) or self._cookies.read(
            request.cookies, is_https=_is_https(request)
        )

    def set_cookie(self, request: web.Request, response: web.StreamResponse) -> None:
        """Make the browser a person of its own, or renew the cookie that makes it one."""
        id = self._browser_id(request) or new_browser_id()
        request[BROWSER_ID] = id
        response.set_cookie(
            self._cookies.name(is_https=_is_https(request)),
            self._cookies.sign(id),
            max_age=COOKIE_SECONDS,
            httponly=True,
            # With "Strict" a link from elsewhere would open the page as somebody new.
            samesite="Lax",
            secure=_is_https(request),
        )


def _is_browser(request: web.Request) -> bool:
    return any(name in request.headers for name in BROWSER_HEADERS)


def _is_https(request: web.Request) -> bool:
    """Return whether the browser uses https. A client that claims so harms only itself."""
    outermost = request.headers.get("X-Forwarded-Proto", "").partition(",")[0]
    return request.secure or outermost.strip().lower() == "https"


def check_routes(application: web.Application) -> None:
    """Refuse routes that do not say what they require, and two that answer the same requests.
    Raises `ConfigurationError`."""
    handlers: dict[tuple[str, str], str] = {}
    for route in application.router.routes():
        path = route.resource.canonical if route.resource else ""
        name = getattr(route.handler, "__qualname__", repr(route.handler))
        if route_access(route.handler) is None:
            raise ConfigurationError(
                f"the route {route.method} {path} does not declare who may call it: decorate its "
                f"handler {name!r} with @palaver.requires(RIGHT) or @palaver.public"
            )
        pattern = route.resource.get_info().get("pattern") if route.resource else None
        paths = _GROUP_NAME.sub("", pattern.pattern) if pattern else path
        first = handlers.setdefault((route.method, paths), name)
        if first != name:
            raise ConfigurationError(
                f"the route {route.method} {path} has two handlers, {first!r} and {name!r}"
            )
