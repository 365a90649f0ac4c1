"""Authentication: who calls, and which person of which tenant they speak for.

Without configured keys only this machine is served: the bind, the ``Host`` header and the
``Origin`` header must all be its own, so that neither another machine nor a foreign web page (by
DNS rebinding) can speak to the server.
"""

import dataclasses
import hmac
import ipaddress
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from palaver.channels import ConversationService
from palaver.config.settings import Settings
from palaver.errors import ConfigurationError, Forbidden, Unauthenticated
from palaver.ledger import Snapshot
from palaver.messages import Conversation, Event, Received, check_name

UNNAMED = "local"
"""The person, without keys, when the client names none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Principal:
    """Who a credential speaks for. An empty ``person`` lets the client name anyone of the tenant;
    ``name`` stands in when it names no one."""

    tenant: str
    person: str
    name: str

    def speaks_for(self, person: str | None) -> str:
        """The person that a request is made for. Raises `Forbidden` and `InvalidInput`."""
        if self.person:
            if person and person != self.person:
                raise Forbidden(f"this key speaks for another person than {person!r}")
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
    """Tells who makes a request. `start` reads the keys; it blocks while it does."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.auth
        self._origins = frozenset(settings.server.origins)
        self._keys: tuple[tuple[bytes, Principal], ...] = ()

    def start(self) -> None:
        """Read the secrets. Raises `ConfigurationError`."""
        self._keys = tuple(
            (key.secret.reveal().encode(), Principal(key.tenant, key.person, name))
            for name, key in self._settings.keys.items()
        )

    @property
    def needs_key(self) -> bool:
        return bool(self._settings.keys)

    def principal(self, request: web.Request) -> Principal:
        """Who makes an HTTP request. Raises `Unauthenticated` and `Forbidden`."""
        self.check_place(request)
        return self.holder(bearer(request))

    def holder(self, token: str | None) -> Principal:
        """Who holds ``token``. Raises `Unauthenticated`."""
        if not self.needs_key:
            return Principal("default", "", UNNAMED)
        given = (token or "").encode()
        found = None
        for secret, principal in self._keys:  # all of them: the time must not tell which matched
            if hmac.compare_digest(secret, given):
                found = principal
        if found is None:
            raise Unauthenticated()
        return found

    def check_place(self, request: web.Request) -> None:
        """Refuse foreign web pages. Raises `Forbidden`."""
        if not self.needs_key:
            self.check_host(request)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or origin in self._origins:
            return
        if urlsplit(origin).netloc.lower() != request.host.lower():
            raise Forbidden(
                f"pages of {origin[:100]!r} may not use this server; "
                "server.origins names those that may"
            )

    def check_host(self, request: web.Request) -> None:
        """Without keys, refuse names that a foreign DNS server may point here."""
        if self.needs_key:
            return
        name = urlsplit(f"//{request.host}").hostname or ""
        if not _is_loopback(name):
            raise Forbidden(f"without keys this server answers to localhost, not to {name[:100]!r}")


def bearer(request: web.Request) -> str | None:
    """The bearer token of a request."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


AUTHENTICATOR = web.AppKey("authenticator", Authenticator)
"""Where channels find the server's authenticator: ``request.app[AUTHENTICATOR]``."""


class ConversationAccess:
    """One person's access to one conversation.

    Members are those who have sent to it. A conversation that nobody has written to is open to
    whoever names it, until somebody else writes.
    """

    def __init__(
        self, service: ConversationService, conversation: Conversation, person: str
    ) -> None:
        self.conversation = conversation
        self.person = person
        self.member = False
        self._service = service

    async def enter(self) -> None:
        """Check the membership. Raises `Forbidden`."""
        members = await self._service.members(self.conversation)
        self.member = self.person in members
        if members and not self.member:
            raise Forbidden(f"conversation {self.conversation.thread!r} belongs to someone else")

    def allows(self, event: Event) -> bool:
        """Whether the person may see ``event``; it is False from the moment on when somebody else
        has written first."""
        if not self.member and isinstance(event, Received):
            self.member = event.person == self.person
            return self.member
        return True

    def allows_all(self, snapshot: Snapshot) -> bool:
        """The same for a whole conversation."""
        people = _people(snapshot)
        self.member = self.member or self.person in people
        return self.member or not people

    def renewed(self, snapshot: Snapshot) -> bool:
        """Whether the person may stay when the conversation begins anew before their eyes, as one
        does from which somebody was erased. When ``snapshot`` does not show it, they must come
        back and be let in again."""
        people = _people(snapshot)
        self.member = self.person in people
        return self.member or not people


def _people(snapshot: Snapshot) -> set[str]:
    people = {line.person for line in snapshot.history if line.role == "user"}
    return people | {message.person for turn in snapshot.pending for message in turn.messages}
