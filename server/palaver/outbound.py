"""Outbound requests to URLs that others choose, such as callbacks and pages that a tool fetches.

The host of such a URL is somebody else's to name, and DNS somebody else's to answer: without a
check, a request could reach services that only this machine or its network can reach (server-side
request forgery). `OutboundClient` connects only to addresses of the public internet and to networks
that the operator names. The address that is checked is the one that it connects to.
"""

import asyncio
import contextlib
import dataclasses
import ipaddress
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from palaver.addresses import Address, Network, parse_network
from palaver.version import __version__

MAX_RESPONSE_BYTES = 65_536
DRAIN_SECONDS = 2.0
"""Bytes and seconds of a response's body that is read, and ignored; after that its connection is
closed."""
MAX_RESPONSE_HEADERS = 64
DNS_THREADS = 4
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_NEVER = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # most clouds
            "169.254.170.2",  # credentials of containers
            "100.100.100.200",
            "168.63.129.16",  # a public address, which is each machine's own host
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
        ),
    )
)
"""Services that tell a machine of a cloud its own credentials. Naming their network does not open
them."""
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            # https://www.iana.org/assignments/iana-ipv4-special-registry
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
            # https://www.iana.org/assignments/iana-ipv6-special-registry, within `_IPV6_PUBLIC`
            "2001::/23",
            "2001:db8::/32",
            "2002::/16",
            "2620:4f:8000::/48",
            "3fff::/20",
        ),
    )
)
_IPV6_PUBLIC = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

FindAddresses = Callable[[str, int], Sequence[str]]
"""Returns the addresses of a host, for a port. It may block. Raises `OSError`."""


class OutboundError(Exception):
    """Why a request failed. The text names the host, and quotes nothing else of the URL."""


class Unsent(OutboundError):
    """Nothing of the request has reached the host."""


class AddressRefused(Unsent):
    """The host has an address that requests may not reach."""


@dataclasses.dataclass(frozen=True, slots=True)
class OutboundResponse:
    """What a response says beside its body."""

    status: int
    headers: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class OutboundContent(OutboundResponse):
    """A response with its body, as it was sent."""

    body: bytes


class AddressPolicy:
    """The addresses that requests may reach: public ones, and those of ``allowed_networks``.

    An IPv6 address that stands for an IPv4 address (mapped, or by NAT64) is judged as that one.
    """

    def __init__(self, allowed_networks: Iterable[str] = (), *, is_public_allowed: bool = True):
        self._networks: tuple[Network, ...] = tuple(map(parse_network, allowed_networks))
        self._is_public_allowed = is_public_allowed

    def allows(self, text: str) -> bool:
        """Return whether requests may reach an address; never for a text that is none."""
        try:
            address = _embedded(ipaddress.ip_address(text.partition("%")[0]))
        except ValueError:
            return False
        if address in _NEVER:
            return False
        if any(address in network for network in self._networks):
            return True
        return self._is_public_allowed and is_public(address)

    def check(self, host: str, addresses: Iterable[str]) -> None:
        """Raise `AddressRefused` unless all the addresses of a host may be reached."""
        for address in addresses:
            if not self.allows(address):
                raise AddressRefused(
                    f"{host!r} has the address {address}, which requests may not reach; the "
                    "networks that they may reach are set by 'allowed_networks'"
                )


def is_public(address: Address) -> bool:
    """Return whether an address belongs to the public internet."""
    address = _embedded(address)
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.version == 4 or address in _IPV6_PUBLIC


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, else the address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address


def find_addresses_by_system(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host as the system finds them. Blocks."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class OutboundClient:
    """Sends requests while it is open, as ``async with``.

    ``https`` reaches public addresses and those of ``allowed_networks``, ``http`` the latter only,
    unless ``is_public_http_allowed``. Redirects are not followed, and proxies of the environment
    not used. ``timeout`` is in seconds, for a whole request. The caller limits the requests at
    once.
    """

    def __init__(
        self,
        *,
        allowed_networks: Sequence[str] = (),
        is_public_http_allowed: bool = False,
        timeout: float = 20.0,
        find_addresses: FindAddresses = find_addresses_by_system,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._policies = {
            "https": AddressPolicy(allowed_networks),
            "http": AddressPolicy(allowed_networks, is_public_allowed=is_public_http_allowed),
        }
        self._timeout = timeout
        self._find_by_name = find_addresses
        self._ssl_context = ssl_context
        self._threads = ThreadPoolExecutor(DNS_THREADS, thread_name_prefix="outbound-dns")
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Self:
        self._sessions = {
            scheme: self._make_session(policy) for scheme, policy in self._policies.items()
        }
        return self

    async def __aexit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        closing = asyncio.gather(*(session.close() for session in self._sessions.values()))
        await asyncio.shield(closing)  # a cancellation would leave connections open

    async def check(self, url: str) -> None:
        """Raise `OutboundError` unless a request to the URL would be sent. Connects to nothing."""
        parsed, policy = self._parse(url)
        host = parsed.host or ""
        if _is_address(host):
            return
        try:
            async with asyncio.timeout(self._timeout):
                await _CheckedResolver(policy, self._find_addresses).resolve(host, parsed.port or 0)
        except TimeoutError:
            raise OutboundError(f"the address of {host!r} is not found in time") from None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> OutboundResponse:
        """Return the response to a request, whatever its status; its body is ignored. Raises
        `OutboundError`."""
        async with self._request("POST", url, body, headers) as response:
            await _drain(response)
            return OutboundResponse(response.status, response.headers)

    async def get(self, url: str, headers: Mapping[str, str], *, max_bytes: int) -> OutboundContent:
        """Return the response to a request, whatever its status. The body of a redirect is not
        read. Raises `OutboundError`, also for a body above ``max_bytes`` or a compressed one."""
        return await self._exchange("GET", url, None, headers, max_bytes)

    async def call(
        self, url: str, body: bytes, headers: Mapping[str, str], *, max_bytes: int
    ) -> OutboundContent:
        """Return the response to a POST with its body, by the rules of `get`."""
        return await self._exchange("POST", url, body, headers, max_bytes)

    async def _exchange(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], max_bytes: int
    ) -> OutboundContent:
        async with self._request(method, url, body, headers) as response:
            content = b""
            if response.status not in REDIRECTS:
                content = await _read(response, max_bytes)
            return OutboundContent(response.status, response.headers, content)

    def stream(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        read_timeout: float,
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send a request and yield its response, whose body may take any time: ``read_timeout`` is
        in seconds without a byte. Raises `OutboundError`."""
        return self._request(method, url, body, headers, read_timeout)

    @contextlib.asynccontextmanager
    async def _request(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        read_timeout: float | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Send a request and yield its response. Raises `OutboundError`."""
        parsed, _ = self._parse(url)
        timeout = aiohttp.ClientTimeout(total=self._timeout)
        if read_timeout is not None:
            timeout = aiohttp.ClientTimeout(connect=self._timeout, sock_read=read_timeout)
        try:
            async with self._sessions[parsed.scheme].request(
                method, parsed, data=body, headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unsent(f"{parsed.host!r}: {_describe(error)}") from error
        except TimeoutError:
            seconds = self._timeout if read_timeout is None else read_timeout
            raise OutboundError(f"{parsed.host!r} did not answer in {seconds:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise OutboundError(f"{parsed.host!r}: {_describe(error)}") from error

    def _parse(self, url: str) -> tuple[URL, AddressPolicy]:
        """Return a URL and the policy for it. Raises `OutboundError`; a host that is an address is
        checked here, since nothing resolves it."""
        try:
            parsed = URL(url)
        except ValueError:
            raise Unsent("the URL is malformed") from None
        policy, host = self._policies.get(parsed.scheme), parsed.host
        if policy is None or not host:
            raise Unsent("the URL is not of the form https://HOST/PATH")
        if parsed.user is not None or parsed.password is not None:
            raise Unsent("the URL holds a user or a password")
        if _is_address(host):
            policy.check(host, [host])
        return parsed, policy

    def _make_session(self, policy: AddressPolicy) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=_CheckedResolver(policy, self._find_addresses),
            socket_factory=lambda info: open_checked_socket(policy, info),
            use_dns_cache=False,
            limit=0,  # who waits for a connection would lose time of its request
            ssl=self._ssl_context or True,
        )
        return aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": f"palaver/{__version__}", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            auto_decompress=False,
            max_headers=MAX_RESPONSE_HEADERS,
            trust_env=False,
        )

    async def _find_addresses(self, host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._find_by_name, host, port)
        except (OSError, UnicodeError) as error:
            raise Unsent(f"the address of {host!r} is not found") from error


class _CheckedResolver(AbstractResolver):
    """Resolver that raises `AddressRefused` unless all the addresses of a host may be reached."""

    def __init__(
        self, policy: AddressPolicy, find: Callable[[str, int], Awaitable[Sequence[str]]]
    ) -> None:
        self._policy = policy
        self._find = find

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._find(host, port)
        self._policy.check(host, addresses)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None: ...


def open_checked_socket(policy: AddressPolicy, info: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket for an address. It is checked again: a host that is an address in some
    spelling reaches no resolver."""
    family, kind, protocol, _, address = info
    if not policy.allows(str(address[0])):
        raise PermissionError(f"requests may not reach the address {address[0]}")
    return socket.socket(family, kind, protocol)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Return the body. It was asked for as it is: a small compressed one may hold a huge one."""
    host = response.url.host
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise OutboundError(f"{host!r} sent a compressed body, which it was not asked for")
    pieces: list[bytes] = []
    left = max_bytes - (response.content_length or 0)
    if left >= 0:
        left = max_bytes
        async for piece in response.content.iter_any():
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                break
    if left < 0:
        response.close()
        raise OutboundError(f"{host!r} sent more than {max_bytes:_} bytes")
    return b"".join(pieces)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read a short body to its end, so that its connection can be used again."""
    left = MAX_RESPONSE_BYTES
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            async for piece in response.content.iter_any():
                left -= len(piece)
                if left < 0:
                    break
            else:
                return
    except (TimeoutError, aiohttp.ClientError):
        pass
    response.close()


def _describe(error: Exception) -> str:
    """Return what went wrong, without the URL: aiohttp's own texts quote it."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not valid: {error.certificate_error}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "it accepts no connection in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        return f"cannot connect: {cause.strerror or cause or type(cause).__name__}"
    return f"the connection failed: {type(error).__name__}"
