"""Authentication: map a request's credential to a tenant and a person.

Without configured keys the server answers to this machine only: the bind address, the ``Host``
header and the ``Origin`` header must be local, so that neither another machine nor a foreign web
page (through DNS rebinding) can use the server.
"""

import dataclasses
import hmac
import ipaddress
from typing import TYPE_CHECKING

from palaver.config.settings import Settings
from palaver.errors import ConfigurationError, Forbidden, Unauthenticated
from palaver.messages import check_name

if TYPE_CHECKING:  # programs without the web surface do not load aiohttp
    from aiohttp import web

DEFAULT_PERSON = "local"
"""The person when there are no keys and the client names none."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110, 9.2.1); a foreign page cannot read their responses."""
OWN_SITES = frozenset({"none", "same-origin"})
"""``Sec-Fetch-Site`` of requests that come from no page, or from the server's own."""


@dataclasses.dataclass(frozen=True, slots=True)
class Principal:
    """The owner of a credential. An empty ``person`` lets the client name any person of the tenant;
    without a named person it is ``name``."""

    tenant: str
    person: str
    name: str

    def resolve_person(self, person: str | None) -> str:
        """Return the person of a request that names ``person``. Raises `Forbidden` and
        `InvalidInput`."""
        if self.person:
            if person and person != self.person:
                raise Forbidden(f"this key is not valid for the person {person!r}")
            return self.person
        return check_name(person, "person") if person else self.name


def check_bind(settings: Settings) -> None:
    """Refuse to serve other machines without keys. Raises `ConfigurationError`."""
    host = settings.server.host
    if not settings.auth.keys and not _is_loopback(host):
        raise ConfigurationError(
            f"server.host {host!r} can be reached from other machines: set auth.keys, "
            "or listen on 127.0.0.1"
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
        self._keys: tuple[tuple[bytes, Principal], ...] = ()

    def load_keys(self) -> None:
        """Read the secrets; blocks. Raises `ConfigurationError`."""
        self._keys = tuple(
            (key.secret.reveal().encode(), Principal(key.tenant, key.person, name))
            for name, key in self._settings.keys.items()
        )

    def authenticate(self, request: "web.Request") -> Principal:
        """Return the principal of an HTTP request. Raises `Unauthenticated` and `Forbidden`."""
        self.check_origin(request)
        return self.authenticate_token(bearer_token(request))

    def authenticate_token(self, token: str | None) -> Principal:
        """Return the principal of a bearer token. Raises `Unauthenticated`."""
        if not self._settings.keys:
            return Principal("default", "", DEFAULT_PERSON)
        given = (token or "").encode()
        found = None
        for secret, principal in self._keys:  # all of them: the time must not tell which matched
            if hmac.compare_digest(secret, given):
                found = principal
        if found is None:
            raise Unauthenticated()
        return found

    def check_origin(self, request: "web.Request") -> None:
        """Refuse requests from foreign web pages. Raises `Forbidden`."""
        self.check_host(request)
        origin = request.headers.get("Origin")
        if origin is None:
            _check_fetch_site(request)
        elif origin not in self._origins and not _is_origin_of(origin, request.host):
            raise Forbidden(
                f"pages of {origin[:100]!r} may not use this server; "
                "server.origins lists the allowed ones"
            )

    def check_host(self, request: "web.Request") -> None:
        """Without keys, refuse host names that a foreign DNS server may point here. Raises
        `Forbidden`."""
        if self._settings.keys:
            return
        name = _host_name(request.host)
        if not _is_loopback(name):
            raise Forbidden(f"without keys this server answers to localhost, not to {name[:100]!r}")


def _check_fetch_site(request: "web.Request") -> None:
    """Refuse what a foreign page lets a browser send without ``Origin``. Raises `Forbidden`."""
    site = request.headers.get("Sec-Fetch-Site", "none")  # programs do not send it
    is_safe = request.method in SAFE_METHODS and "Upgrade" not in request.headers
    if not is_safe and site not in OWN_SITES:
        raise Forbidden(f"a request with Sec-Fetch-Site {site[:60]!r} needs an Origin header")


def _is_origin_of(origin: str, host: str) -> bool:
    """Return whether ``origin`` is that of the pages of ``host``."""
    scheme, _, site = origin.lower().partition("://")
    return scheme in ("http", "https") and site == host.lower()


def _host_name(host: str) -> str:
    """Return a ``Host`` header without its port, and without the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def bearer_token(request: "web.Request") -> str | None:
    """Return the bearer token of a request."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
