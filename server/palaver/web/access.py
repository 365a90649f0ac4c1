"""Access: the one place where the server checks what a caller may do, before any handler runs."""

from aiohttp import web
from aiohttp.typedefs import Handler

from palaver.authentication import (
    Authenticator,
    Principal,
    bearer_token,
    route_access,
    set_principal,
)
from palaver.config.settings import Right
from palaver.errors import ConfigurationError, Forbidden


class AccessControl:
    """Identifies the caller of each request, and checks its rights."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    @web.middleware
    async def authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Run the handler if the caller has the right that its route requires."""
        access = route_access(request.match_info.handler)
        if access is not None and access.right is not None:
            principal = self.identify(request)
            principal.require(access.right)
            set_principal(request, principal)
        return await handler(request)

    def check_before_upgrade(self, request: web.Request) -> None:
        """Refuse foreign pages and a wrong header; a browser sends its key in the hello. Raises as
        `identify`."""
        self._authenticator.check_origin(request)
        if bearer_token(request) is not None:
            self.identify(request)

    def has_right(self, request: web.Request, right: Right) -> bool:
        """Return whether the caller of a public route has a right. Raises `Unauthenticated` for a
        wrong key."""
        if self._authenticator.has_keys and bearer_token(request) is None:
            return False
        try:
            return right in self.identify(request).rights
        except Forbidden:  # a foreign page
            return False

    def identify(self, request: web.Request, token: str | None = None) -> Principal:
        """Return the caller of a request; ``token`` stands for a missing header. Raises
        `Unauthenticated` and `Forbidden`."""
        self._authenticator.check_origin(request)
        return self._authenticator.authenticate_token(bearer_token(request) or token)


def check_declared(application: web.Application) -> None:
    """Refuse routes that do not say what they require. Raises `ConfigurationError`."""
    for route in application.router.routes():
        if route_access(route.handler) is None:
            path = route.resource.canonical if route.resource else ""
            name = getattr(route.handler, "__qualname__", repr(route.handler))
            raise ConfigurationError(
                f"the route {route.method} {path} does not declare who may call it: decorate its "
                f"handler {name!r} with @palaver.requires(RIGHT) or @palaver.public"
            )
