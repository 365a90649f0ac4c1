"""Authentication: map a request's credential to a tenant, a person and rights.

Without configured keys the server answers to this machine only: the bind address, the ``Host``
header and the ``Origin`` header must be local, so that neither another machine nor a foreign web
page (through DNS rebinding) can use the server.
"""

import dataclasses
import functools
import hashlib
import hmac
import ipaddress
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar, get_args

from palaver.config.settings import AuthKey, AuthSettings, Right, Secret, Settings
from palaver.errors import (
    ConfigurationError,
    Forbidden,
    ForeignHost,
    MissingRight,
    PalaverError,
    Unauthenticated,
)
from palaver.messages import check_name
from palaver.origins import find_origin_of_page, is_origin_of_host

if TYPE_CHECKING:  # programs without the web surface do not load aiohttp
    from aiohttp import web

RIGHTS: frozenset[Right] = frozenset(get_args(Right))
MIN_SECRET_CHARACTERS = 16
NO_KEYS = "local"
"""Name of the principal when there are no keys."""
HandlerT = TypeVar("HandlerT", bound=Callable[..., object])
_ACCESS = "palaver_access"
_FOR_VISITORS = "palaver_for_visitors"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110, 9.2.1); a foreign page cannot read their responses."""
OWN_SITES = frozenset({"none", "same-origin"})
"""``Sec-Fetch-Site`` of requests that come from no page, or from the server's own."""


@dataclasses.dataclass(frozen=True, slots=True)
class Principal:
    """The caller of one request, as its key and its browser prove it.

    ``person`` is that of the key or of the browser; when it is empty, programs share the identity
    ``name``. ``shared`` are the tenant's shared identities. ``site``: the caller is a visitor of
    this site with the widget, and has a token until ``expires_at``, in seconds since 1970.
    """

    tenant: str
    person: str
    name: str
    rights: frozenset[Right]
    shared: frozenset[str]
    site: str = ""
    expires_at: float = math.inf

    def require(self, right: Right) -> None:
        """Refuse a caller without ``right``. Raises `Forbidden`."""
        if right in self.rights:
            return
        if self.site:
            raise MissingRight(
                f"visitors of the site {self.site!r} lack the right {right!r}", right=right
            )
        raise MissingRight(
            f"the key {self.name!r} lacks the right {right!r}; an operator can add it to "
            f"auth.keys.{self.name}.rights",
            right=right,
        )

    def is_same_visitor(self, other: "Principal") -> bool:
        return dataclasses.replace(self, expires_at=other.expires_at) == other

    def resolve_person(self, person: str | None) -> str:
        """Return the person of a request that names ``person``. Raises `Forbidden` and
        `InvalidInput`."""
        own = self.person or self.name
        if not person or person == own:
            return own
        if "impersonate" not in self.rights:
            raise Forbidden(
                f"the person {person[:100]!r} is not yours: only a key with the right "
                "'impersonate' may name persons"
            )
        return check_name(person, "person")

    def resolve_data_owner(self, person: str | None) -> str:
        """Return the person whose data a request lists, exports or erases.

        Raises as `resolve_person`, and `Forbidden` for a shared identity.
        """
        resolved = self.resolve_person(person)
        if resolved in self.shared:
            raise Forbidden(
                f"{resolved!r} is a shared identity: several people may stand behind it, so its "
                "data can be neither listed nor exported nor erased here. Use a browser, which is "
                "a person of its own, or a key of one person, or name the person, for which a key "
                "needs the right 'impersonate'"
            )
        return resolved


@dataclasses.dataclass(frozen=True, slots=True)
class RouteAccess:
    """What a route requires: a key with ``right``, or nothing before its handler runs (None).
    ``error_response`` makes the response to a refusal in the route's own format."""

    right: Right | None
    error_response: "Callable[[PalaverError], web.StreamResponse] | None" = None
    streams_body: bool = False
    """The handler reads the body as it comes. Otherwise a body is small and JSON."""


def requires(
    right: Right,
    *,
    error_response: "Callable[[PalaverError], web.StreamResponse] | None" = None,
    streams_body: bool = False,
) -> Callable[[HandlerT], HandlerT]:
    """Declare that a route's handler runs only for a key with ``right``.

    `principal_of` then returns the caller. ``error_response`` makes the response to any
    `PalaverError` of the route; without it, errors have the form of the HTTP API.
    """
    return _declare(RouteAccess(right, error_response, streams_body))


def public(handler: HandlerT) -> HandlerT:
    """Declare that a route's handler runs for anybody: it shows nothing of anybody, or checks
    itself who calls."""
    return _declare(RouteAccess(None))(handler)


def for_visitors(handler: HandlerT) -> HandlerT:
    """Declare that visitors of `widget.sites` may call a route, as far as they have its right.
    Other routes are for the operator's own programs and pages."""
    setattr(handler, _FOR_VISITORS, True)
    return handler


def is_for_visitors(handler: object) -> bool:
    return getattr(handler, _FOR_VISITORS, False)


def _declare(access: RouteAccess) -> Callable[[HandlerT], HandlerT]:
    def declare(handler: HandlerT) -> HandlerT:
        setattr(handler, _ACCESS, access)
        return handler

    return declare


def route_access(handler: object) -> RouteAccess | None:
    """Return what `requires` or `public` has declared for a handler; None: nothing."""
    access: RouteAccess | None = getattr(handler, _ACCESS, None)
    return access


@functools.cache
def _principal_key() -> "web.RequestKey[Principal]":
    from aiohttp import web

    return web.RequestKey("palaver_principal", Principal)


def set_principal(request: "web.Request", principal: Principal) -> None:
    request[_principal_key()] = principal


def principal_of(request: "web.Request") -> Principal:
    """Return the caller of a route that `requires` a right."""
    principal: Principal | None = request.get(_principal_key())
    if principal is None:
        raise LookupError("nobody has checked who calls this route: declare it with `requires`")
    return principal


def shared_identities(auth: AuthSettings, tenant: str) -> frozenset[str]:
    """Return the persons of a tenant that programs with an open key share."""
    if not auth.keys:
        return frozenset({NO_KEYS})
    return frozenset(
        name for name, key in auth.keys.items() if key.tenant == tenant and not key.person
    )


def find_key_problems(auth: AuthSettings) -> Iterator[str]:
    """Yield a sentence for each secret that is easy to guess or belongs to two keys, and for each
    key that contradicts itself. Blocks. A secret that cannot be read is not its concern."""
    names: dict[str, str] = {}
    for name, secret in list_secrets(auth):
        value = reveal_if_possible(secret)
        if value and len(value) < MIN_SECRET_CHARACTERS:
            yield (
                f"{name}: {secret.root} has {len(value)} characters; a secret needs at least "
                f"{MIN_SECRET_CHARACTERS}. Make one with: openssl rand -hex 32"
            )
        if value and names.setdefault(value, name) != name:
            yield f"{name} and {names[value]} are equal; each needs a secret of its own"
    for name, key in auth.keys.items():
        if key.person and "impersonate" in key.rights:
            yield (
                f"auth.keys.{name}: a key is for one person, or may name any ('impersonate'), "
                "not both"
            )
        if key.person in shared_identities(auth, key.tenant):
            yield (
                f"auth.keys.{name}.person {key.person!r} is the shared identity of the key "
                f"{key.person!r}; rename one of them"
            )


def list_secrets(auth: AuthSettings) -> Iterator[tuple[str, Secret]]:
    """Yield the secrets of the settings with their names."""
    for name, key in auth.keys.items():
        yield f"auth.keys.{name}.secret", key.secret
    for name in ("cookie_secret", "previous_cookie_secret"):
        secret: Secret | None = getattr(auth, name)
        if secret is not None:
            yield f"auth.{name}", secret


def reveal_if_possible(secret: Secret) -> str:
    """Return the secret; empty when it cannot be read. Blocks."""
    try:
        return secret.reveal()
    except ConfigurationError:
        return ""


def check_bind(settings: Settings) -> None:
    """Refuse to serve other machines without keys. Raises `ConfigurationError`."""
    host, sites = settings.server.host, settings.widget.sites
    if not settings.auth.keys and not _is_loopback(host):
        raise ConfigurationError(
            f"server.host {host!r} can be reached from other machines: set auth.keys, "
            "or listen on 127.0.0.1"
            + (". The keys of widget.sites are public and protect nothing" if sites else "")
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Authenticator:
    """The server's keys and the checks of a request's origin."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.auth
        self._origins = frozenset(settings.server.origins)
        self._origins_of_sites = frozenset(
            origin for site in settings.widget.sites.values() for origin in site.origins
        )
        self._keys: tuple[tuple[bytes, Principal], ...] = ()
        """Digests of the secrets, with their principals."""
        shared = shared_identities(settings.auth, "default")
        self._without_keys = Principal("default", "", NO_KEYS, RIGHTS, shared)

    @property
    def has_keys(self) -> bool:
        return bool(self._settings.keys)

    def load_keys(self) -> None:
        """Read the secrets; blocks. Raises `ConfigurationError`."""
        if problems := list(find_key_problems(self._settings)):
            raise ConfigurationError("\n".join(problems))
        self._keys = tuple(
            (_digest(key.secret.reveal()), self._principal(name, key))
            for name, key in self._settings.keys.items()
        )

    def _principal(self, name: str, key: AuthKey) -> Principal:
        shared = shared_identities(self._settings, key.tenant)
        return Principal(key.tenant, key.person, name, frozenset(key.rights), shared)

    def find_principal(self, token: str) -> Principal | None:
        """Return the principal of a bearer token; None: no key has it."""
        if not self._settings.keys:
            return self._without_keys
        if not token:
            return None
        given = _digest(token)
        found = None
        for digest, principal in self._keys:  # all of them: the time must not tell which matched
            if hmac.compare_digest(digest, given):
                found = principal
        return found

    def check_origin(self, request: "web.Request", *, has_visitors: bool = False) -> None:
        """Refuse requests from foreign web pages. Raises `Forbidden`.

        Pages of `widget.sites` may call where the route ``has_visitors``; elsewhere they get
        `Unauthenticated`, since they need a visitor's token, whatever else they send.
        """
        self.check_host(request)
        if "Origin" not in request.headers:
            _check_fetch_site(request)
            return
        origin = find_origin_of_page(request.headers["Origin"])
        if origin in self._origins or is_origin_of_host(origin, _host_of(request)):
            return
        if origin in self._origins_of_sites:
            if has_visitors:
                return
            raise Unauthenticated(
                "pages with the widget need a token of POST /v1/widget/token, which lasts ten "
                "minutes"
            )
        raise Forbidden(
            f"pages of {request.headers['Origin'][:100]!r} may not use this server; "
            "server.origins lists the allowed ones"
        )

    def is_foreign_page_allowed(self, request: "web.BaseRequest") -> bool:
        """Return whether a page of `server.origins` has sent the request."""
        return find_origin_of_page(request.headers.get("Origin", "")) in self._origins

    def is_page_of_site(self, request: "web.BaseRequest") -> bool:
        """Return whether a page of `widget.sites`, and not of `server.origins`, has sent it."""
        if not self._origins_of_sites:
            return False
        origin = find_origin_of_page(request.headers.get("Origin", ""))
        return origin in self._origins_of_sites and origin not in self._origins

    def check_host(self, request: "web.Request") -> None:
        """Without keys, refuse host names that a foreign DNS server may point here. Raises
        `Forbidden`."""
        if self._settings.keys:
            return
        name = _host_name(_host_of(request))
        if not _is_loopback(name):
            raise ForeignHost(
                f"without keys this server answers to localhost, not to {name[:100]!r}"
            )


def _check_fetch_site(request: "web.Request") -> None:
    """Refuse what a foreign page lets a browser send without ``Origin``. Raises `Forbidden`."""
    site = request.headers.get("Sec-Fetch-Site", "none")  # programs do not send it
    is_safe = request.method in SAFE_METHODS and "Upgrade" not in request.headers
    if not is_safe and site not in OWN_SITES:
        raise Forbidden(f"a request with Sec-Fetch-Site {site[:60]!r} needs an Origin header")


def comes_from(request: "web.Request", origin: str) -> bool:
    """Return whether a page of ``origin`` has sent the request. Browsers leave out ``Origin`` where
    the page is the server's own and only reads."""
    if "Origin" in request.headers:
        return find_origin_of_page(request.headers["Origin"]) == origin
    is_own = request.headers.get("Sec-Fetch-Site") == "same-origin"
    return is_own and is_origin_of_host(origin, _host_of(request))


def _host_of(request: "web.Request") -> str:
    return request.headers.get("Host", "")  # aiohttp would ask the name service for a missing one


def _host_name(host: str) -> str:
    """Return a ``Host`` header without its port, and without the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _digest(token: str) -> bytes:
    """Return a digest of a key. All have the same length, so that no comparison tells a key's."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def bearer_token(request: "web.Request") -> str | None:
    """Return the bearer token of a request."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
