"""Endpoint: one party that exchanges messages with the server, and the requests to it."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

from palaver import (
    ConfigurationError,
    Conversation,
    OutboundClient,
    OutboundError,
    OutboundResponse,
)
from palaver_plugins.channels.webhooks.settings import EndpointSettings
from palaver_plugins.channels.webhooks.signing import parse_secret, sign, verify

CHANNEL = "webhooks"
MAX_REQUESTS = 20
"""Requests to one endpoint at once."""
MAX_CONVERSATIONS = 300
"""Conversations of one endpoint whose turns one process follows at once."""
MakeClient = Callable[[EndpointSettings], OutboundClient]


def make_client(settings: EndpointSettings) -> OutboundClient:
    return OutboundClient(allowed_networks=settings.allowed_networks)


class Endpoint:
    """An endpoint of the settings. It shares nothing with others, so that a slow one delays none.

    Raises `ConfigurationError` for a secret that is not usable; blocks while it reads it.
    """

    def __init__(
        self,
        name: str,
        settings: EndpointSettings,
        *,
        make_client: MakeClient,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.tenant = settings.tenant
        self.callback = settings.callback
        self.client = make_client(settings)
        self.keys = _load_keys(name, settings)
        self._clock = clock
        self._requests = asyncio.Semaphore(MAX_REQUESTS)
        self._conversations = 0

    def conversation(self, thread: str) -> Conversation:
        """Return the conversation of a thread of the sender. Raises `InvalidInput`."""
        return Conversation(self.tenant, CHANNEL, f"{self.name}.{thread}")

    def person(self, name: str) -> str:
        """Return the person whom the sender calls so."""
        return f"{CHANNEL}.{self.name}.{name}"

    def verify(self, headers: Mapping[str, str], body: bytes) -> str:
        """Return the id of a message that is for this endpoint. Raises `Unauthenticated`."""
        return verify(self.keys, headers, body, self._clock())

    async def call(self, id: str, body: bytes) -> OutboundResponse:
        """Post an event to the callback. Raises `OutboundError`."""
        async with self._requests:
            headers = sign(self.keys, id, int(self._clock()), body)
            headers["Content-Type"] = "application/json"
            return await self.client.post(self.callback, body, headers)

    @property
    def is_busy(self) -> bool:
        return self._conversations >= MAX_CONVERSATIONS

    @contextmanager
    def following(self) -> Iterator[None]:
        """Count a conversation as followed."""
        self._conversations += 1
        try:
            yield
        finally:
            self._conversations -= 1


def endpoint_name(conversation: Conversation) -> str:
    """Return the name of the endpoint that a conversation belongs to."""
    return conversation.thread.partition(".")[0]


def load_endpoints(
    settings: Mapping[str, EndpointSettings],
    make_client: MakeClient,
    clock: Callable[[], float],
) -> dict[str, Endpoint]:
    """Return the endpoints by name. Raises `ConfigurationError` with a line for each problem;
    blocks."""
    endpoints, problems = {}, []
    for name, each in settings.items():
        try:
            endpoints[name] = Endpoint(name, each, make_client=make_client, clock=clock)
        except ConfigurationError as error:
            problems.append(str(error))
    problems += _find_shared_keys(endpoints.values())
    if problems:
        raise ConfigurationError("\n".join(problems))
    return endpoints


def _load_keys(name: str, settings: EndpointSettings) -> tuple[bytes, ...]:
    keys = []
    for field in ("secret", "previous_secret"):
        secret = getattr(settings, field)
        if secret is None:
            continue
        where = f"channels.{CHANNEL}.endpoints.{name}.{field}"
        try:
            keys.append(parse_secret(secret.reveal()))
        except ValueError as error:
            raise ConfigurationError(f"{where}: the value of {secret.root} {error}") from None
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from error
    return tuple(keys)


def _find_shared_keys(endpoints: Iterable[Endpoint]) -> Iterator[str]:
    """Yield a sentence for each key that two endpoints have: a message to one would be valid for
    the other, since the address is not signed."""
    owners: dict[bytes, str] = {}
    for endpoint in endpoints:
        for key in dict.fromkeys(endpoint.keys):
            if owner := owners.get(key):
                yield (
                    f"channels.{CHANNEL}.endpoints: {owner!r} and {endpoint.name!r} have the same "
                    "secret; each needs its own"
                )
            owners[key] = endpoint.name


async def check_callback(name: str, settings: EndpointSettings, client: OutboundClient) -> str:
    """Return why events cannot be posted to a callback; empty when they can, as far as its address
    tells."""
    if not settings.callback:
        return ""
    async with client:
        try:
            await client.check(settings.callback)
        except OutboundError as error:
            return f"channels.{CHANNEL}.endpoints.{name}.callback: {error}"
    return ""


def read_retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a response wants to pass before the next request; 0 for none. A date
    counts from the response's own, so that no clock of this server is compared with it."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        seconds = (
            parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("Date", ""))
        ).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
    return max(seconds, 0.0)
