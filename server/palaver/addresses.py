"""Addresses of clients, also of those behind trusted proxies."""

import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # programs without the web surface do not load aiohttp
    from aiohttp import web

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

IPV6_CLIENT_PREFIX = 64
"""Bits of an IPv6 address that name one client: the rest is the client's own to choose."""


class ClientAddresses:
    """The addresses of requests' clients, for limits by address.

    A proxy appends the address of its own client to ``X-Forwarded-For``. What an address that is
    not trusted has written there is not believed.
    """

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        self._trusted = tuple(map(parse_network, trusted_proxies))

    def of(self, request: "web.BaseRequest") -> str:
        """Return the client's address; of IPv6 the network of one client."""
        peer = request.transport.get_extra_info("peername") if request.transport else None
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", ()))
        return self.resolve(peer[0] if peer else "", forwarded)

    def resolve(self, peer: str, forwarded: str = "") -> str:
        """Return the address of the client behind ``peer``, which has sent ``forwarded``."""
        nearest = _parse_address(peer)
        if nearest is None:
            return ""
        hops = reversed(forwarded.split(",")) if forwarded else ()
        for hop in hops:
            address = _parse_address(hop) if self._is_trusted(nearest) else None
            if address is None:
                break
            nearest = address
        return _name_of_client(nearest)

    def is_proxy(self, peer: str) -> bool:
        """Return whether ``peer`` is a trusted proxy."""
        address = _parse_address(peer)
        return address is not None and self._is_trusted(address)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def parse_network(text: str) -> Network:
    """Return the network of an address or of a network in CIDR form. Raises `ValueError`."""
    return ipaddress.ip_network(text.strip(), strict=False)


def _parse_address(text: str) -> Address | None:
    """Return the address in ``1.2.3.4``, ``1.2.3.4:5``, ``::1`` or ``[::1]:5``."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _name_of_client(address: Address) -> str:
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, IPV6_CLIENT_PREFIX), strict=False))
