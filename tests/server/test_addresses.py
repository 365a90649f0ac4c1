"""The address that limits by address hold for, with and without proxies."""

import aiohttp
import pydantic
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from palaver.addresses import ClientAddresses
from palaver.config.settings import ConnectionSettings

TRUSTED = ClientAddresses(("10.0.0.0/8", "127.0.0.1", "fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.9", "192.0.2.1"),  # not a proxy: its word is not believed
        ("10.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("10.0.0.1", "203.0.113.7, 198.51.100.9", "198.51.100.9"),  # the first is the client's own
        ("10.0.0.1", "203.0.113.7, 198.51.100.9, 10.2.3.4", "198.51.100.9"),
        ("10.0.0.1", "10.1.1.1, 10.2.2.2", "10.1.1.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7, rubbish\udcff", "10.0.0.1"),
        ("10.0.0.1", ",,,", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.9:4711", "198.51.100.9"),
        ("10.0.0.1", "[2001:db8:1:2:3::4]:4711", "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", "::ffff:198.51.100.9", "198.51.100.9"),
        ("fd00::1", "2001:db8::5", "2001:db8::/64"),
        ("2001:db8:1:2::1", "", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("", "198.51.100.9", ""),
    ],
)
def test_the_client_is_the_nearest_address_that_is_no_proxy(
    peer: str, forwarded: str, expected: str
) -> None:
    assert TRUSTED.resolve(peer, forwarded) == expected


async def test_the_header_is_believed_from_trusted_proxies_only() -> None:
    for proxies, expected in (((), "127.0.0.1"), (("127.0.0.1",), "198.51.100.9")):
        settings = ConnectionSettings(trusted_proxies=proxies)
        addresses = ClientAddresses(settings.trusted_proxies)

        async def answer(request: web.Request, found: ClientAddresses = addresses) -> web.Response:
            return web.Response(text=found.of(request))

        application = web.Application()
        application.router.add_get("/", answer)
        lines = [("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-For", "198.51.100.9")]
        async with TestServer(application) as server, aiohttp.ClientSession() as session:
            async with session.get(server.make_url("/"), headers=lines) as response:
                assert await response.text() == expected


@pytest.mark.parametrize("network", ["proxy.example", "10.0.0.0/99", ""])
def test_a_proxy_is_an_address_or_a_network(network: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="does not appear to be"):
        ConnectionSettings(trusted_proxies=(network,))
