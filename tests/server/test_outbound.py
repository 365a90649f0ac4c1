"""Requests to URLs that others choose reach public addresses only, and what the operator names."""

import asyncio
import ipaddress
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from tests.plugins.ledgers.certificates import make_authority
from tests.server.receivers import Names, Receiver, receiving

from palaver.addresses import Address
from palaver.outbound import (
    MAX_RESPONSE_BYTES,
    AddressPolicy,
    AddressRefused,
    OutboundClient,
    OutboundError,
    Unsent,
    is_public,
    open_checked_socket,
)

LOOPBACK = ("127.0.0.1/32",)
IPV4 = ipaddress.IPv4Address
PRIVATE = [
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16"),
    *("100.64.0.0/10", "0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "198.18.0.0/15"),
]
METADATA = ["169.254.169.254", "fd00:ec2::254", "168.63.129.16", "100.100.100.200", "192.0.0.192"]


def in_network(name: str) -> st.SearchStrategy[IPV4]:
    network = ipaddress.IPv4Network(name)
    first, last = int(network.network_address), int(network.broadcast_address)
    return st.integers(first, last).map(IPV4)


def disguises(address: IPV4) -> list[Address]:
    """Return the IPv6 addresses that lead to an IPv4 address."""
    number = int(address)
    return [
        ipaddress.IPv6Address((0xFFFF << 32) | number),
        ipaddress.IPv6Address((0x64FF9B << 96) | number),
    ]


# Addresses


@given(st.sampled_from(PRIVATE).flatmap(in_network))
def test_private_addresses_are_refused_in_every_disguise(address: IPV4) -> None:
    assert not any(map(is_public, [address, *disguises(address)]))


@given(st.ip_addresses(v=4))
def test_a_disguise_changes_nothing(address: IPV4) -> None:
    assert {is_public(each) for each in disguises(address)} == {is_public(address)}


@given(st.ip_addresses())
def test_nothing_is_public_that_python_takes_for_special(address: Address) -> None:
    is_disguise = address.version == 6 and int(address) >> 32 in (0xFFFF, 0x64FF9B << 64)
    if not is_disguise and (not address.is_global or address.is_multicast or address.is_reserved):
        assert not is_public(address)


@given(st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address))
def test_of_ipv6_only_global_unicast_is_public(address: Address) -> None:
    first = int(address) >> 125
    if first != 1 and int(address) >> 32 not in (0xFFFF, 0x64FF9B << 64):
        assert not is_public(address)


@pytest.mark.parametrize(
    "text",
    [
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "ff02::1"),
        *("2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1", "3fff::1", "64:ff9b:1::1"),
        *("::7f00:1", "192.88.99.1", "255.255.255.255", "", "localhost", "1.2.3", "0x7f.1"),
    ],
)
def test_special_addresses_are_refused(text: str) -> None:
    assert not AddressPolicy().allows(text)


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_allowed(text: str) -> None:
    assert AddressPolicy().allows(text)
    assert not AddressPolicy(is_public_allowed=False).allows(text)


def test_a_named_network_is_allowed_and_no_other() -> None:
    policy = AddressPolicy(["10.1.0.0/16", "fd12::/16"])
    for text in ("10.1.2.3", "::ffff:10.1.2.3", "fd12::1"):
        assert policy.allows(text)
    for text in ("10.2.0.1", "127.0.0.1", "fd13::1"):
        assert not policy.allows(text)


@pytest.mark.parametrize("text", METADATA)
def test_services_with_credentials_are_refused_even_in_named_networks(text: str) -> None:
    assert not AddressPolicy(["0.0.0.0/0", "::/0"]).allows(text)


# Requests


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def test_a_request_arrives_as_it_is(receiver: Receiver) -> None:
    body = "grüß dich".encode()
    async with OutboundClient(allowed_networks=LOOPBACK) as client:
        response = await client.post(receiver.url(), body, {"X-One": "1"})
    assert (response.status, response.headers["retry-after"]) == (202, "7")
    (request,) = receiver.requests
    assert await request.read() == body
    assert request.headers["X-One"] == "1"
    assert request.headers["User-Agent"].startswith("palaver/")


LOOPBACK_HOSTS = [
    *("127.0.0.1", "127.1", "0x7f000001", "0x7f.1", "2130706433", "0177.0.0.1", "0", "0.0.0.0"),
    *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[::]", "[::7f00:1]"),
    *("[::1%25lo]", "①②⑦.0.0.1", "127。0。0。1", "localhost", "localhost.", "LOCALHOST"),
]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
async def test_no_spelling_of_loopback_is_reached(
    receiver: Receiver, host: str, scheme: str
) -> None:
    async with OutboundClient() as client:
        with pytest.raises(OutboundError):
            await client.post(receiver.url(host, scheme), b"", {})
        with pytest.raises(OutboundError):
            await client.check(receiver.url(host, scheme))
    assert receiver.server.opened == 0


async def test_a_name_is_resolved_once_and_what_is_checked_is_reached(receiver: Receiver) -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    async with OutboundClient(allowed_networks=LOOPBACK, find_addresses=names) as client:
        await client.post(receiver.url("rebinding.test"), b"", {})
    assert names.asked == ["rebinding.test"]
    assert receiver.requests[0].headers["Host"] == f"rebinding.test:{receiver.port}"


@pytest.mark.parametrize("answer", [["127.0.0.2"], ["127.0.0.1", "10.0.0.1"], ["::1"]])
async def test_a_name_with_an_address_that_is_not_allowed_is_refused(
    receiver: Receiver, answer: list[str]
) -> None:
    names = Names(answer, answer)
    async with OutboundClient(allowed_networks=LOOPBACK, find_addresses=names) as client:
        with pytest.raises(AddressRefused, match=f"'inside.test' has the address {answer[-1]}"):
            await client.post(receiver.url("inside.test"), b"", {})
        with pytest.raises(AddressRefused, match="allowed_networks"):
            await client.check(receiver.url("inside.test"))
    assert receiver.server.opened == 0


def test_the_socket_itself_is_refused() -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80))
    with pytest.raises(PermissionError):
        open_checked_socket(AddressPolicy(), info)


async def test_http_reaches_named_networks_only() -> None:
    async with OutboundClient(find_addresses=Names(["8.8.8.8"], ["8.8.8.8"])) as client:
        with pytest.raises(AddressRefused):
            await client.check("http://public.test/")
        await client.check("https://public.test/")


@pytest.mark.parametrize(
    "url",
    ["ftp://a.test/", "file:///etc/passwd", "https:///a", "a.test", "", "https://u:p@127.0.0.1/",
     "http://[::1", "https://a.test:99999/", "unix:///run/a"],
)  # fmt: skip
async def test_other_urls_are_refused(url: str) -> None:
    async with OutboundClient(allowed_networks=LOOPBACK) as client:
        with pytest.raises(OutboundError, match="URL"):
            await client.post(url, b"", {})


async def test_redirects_are_not_followed(receiver: Receiver) -> None:
    async def redirect(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": receiver.url()})

    receiver.respond = redirect
    async with OutboundClient(allowed_networks=LOOPBACK) as client:
        response = await client.post(receiver.url(), b"", {})
    assert response.status == 307
    assert len(receiver.requests) == 1


async def test_proxies_of_the_environment_are_not_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    async with OutboundClient(allowed_networks=LOOPBACK) as client:
        assert (await client.post(receiver.url(), b"", {})).status == 202


async def test_cookies_are_not_kept(receiver: Receiver) -> None:
    async def give(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(headers={"Set-Cookie": "a=b"})

    receiver.respond = give
    names = Names(["127.0.0.1"], ["127.0.0.1"])
    async with OutboundClient(allowed_networks=LOOPBACK, find_addresses=names) as client:
        await client.post(receiver.url("a.test"), b"", {})
        await client.post(receiver.url("a.test"), b"", {})
    assert "Cookie" not in receiver.requests[1].headers
    assert receiver.server.opened == 1, "the connection is used again"
    assert names.asked == ["a.test"]


async def test_a_new_connection_asks_the_name_service_again(receiver: Receiver) -> None:
    async def close(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(headers={"Connection": "close"})

    receiver.respond = close
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    async with OutboundClient(allowed_networks=LOOPBACK, find_addresses=names) as client:
        await client.post(receiver.url("a.test"), b"", {})
        with pytest.raises(AddressRefused):
            await client.post(receiver.url("a.test"), b"", {})


async def test_a_body_without_an_end_is_not_read(receiver: Receiver) -> None:
    sent = 0

    async def pour(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=201)
        await response.prepare(request)
        while True:
            await response.write(b"x" * 16_384)
            sent += 16_384

    receiver.respond = pour
    async with OutboundClient(allowed_networks=LOOPBACK) as client:
        assert (await client.post(receiver.url(), b"", {})).status == 201
    assert sent < 100 * MAX_RESPONSE_BYTES


async def test_a_body_may_arrive_piece_by_piece(receiver: Receiver) -> None:
    more = asyncio.Event()

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        await more.wait()
        await response.write(b"second")
        return response

    receiver.respond = stream
    async with OutboundClient(allowed_networks=LOOPBACK) as client:
        streaming = client.stream("PUT", receiver.url(), b"body", {"A": "b"}, read_timeout=5.0)
        async with streaming as response:
            assert await response.content.readany() == b"first"
            more.set()
            assert await response.content.read() == b"second"
        refused = client.stream("GET", receiver.url("10.0.0.1"), None, {}, read_timeout=5.0)
        with pytest.raises(AddressRefused):
            async with refused:
                raise AssertionError
    (request,) = receiver.requests
    assert (request.method, request.headers["A"]) == ("PUT", "b")


@pytest.mark.parametrize(
    "headers", [{f"X-{number}": "1" for number in range(100)}, {"X-Long": "1" * 20_000}]
)
async def test_headers_are_bounded(receiver: Receiver, headers: dict[str, str]) -> None:
    async def boast(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(headers=headers)

    receiver.respond = boast
    async with OutboundClient(allowed_networks=LOOPBACK) as client:
        with pytest.raises(OutboundError, match="the connection failed"):
            await client.post(receiver.url(), b"", {})


async def test_a_receiver_that_does_not_answer_is_given_up(receiver: Receiver) -> None:
    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    receiver.respond = hang
    async with OutboundClient(allowed_networks=LOOPBACK, timeout=0.05) as client:
        with pytest.raises(OutboundError, match=r"'127.0.0.1' did not answer in 0.05 s"):
            await client.post(receiver.url(), b"", {})


async def test_a_name_service_that_does_not_answer_is_given_up(receiver: Receiver) -> None:
    answering = threading.Event()

    def hang(host: str, port: int) -> Sequence[str]:
        answering.wait(5)
        return ["127.0.0.1"]

    async with OutboundClient(
        allowed_networks=LOOPBACK, timeout=0.05, find_addresses=hang
    ) as client:
        with pytest.raises(OutboundError, match=r"'slow.test' is not found in time"):
            await client.check(receiver.url("slow.test"))
        with pytest.raises(OutboundError, match=r"'slow.test' did not answer in 0.05 s"):
            await client.post(receiver.url("slow.test"), b"", {})
        answering.set()
    assert receiver.server.opened == 0


async def test_a_failure_names_the_host_and_not_the_path(receiver: Receiver) -> None:
    async def garble(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"220 mail.test ESMTP secret-path\r\n\r\n")
        await asyncio.Event().wait()
        raise AssertionError

    receiver.respond = garble
    names = Names()
    async with OutboundClient(allowed_networks=LOOPBACK, find_addresses=names) as client:
        for host, words in (("127.0.0.1", "the connection failed"), ("gone.test", "is not found")):
            with pytest.raises(OutboundError, match=words) as caught:
                await client.post(receiver.url(host), b"", {})
            assert host in str(caught.value)
            assert "secret-path" not in str(caught.value)
            assert isinstance(caught.value, Unsent) == (host == "gone.test")


async def test_a_body_comes_back_as_far_as_the_caller_wants(receiver: Receiver) -> None:
    async def repeat(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=2 * await request.read())

    receiver.respond = repeat
    async with OutboundClient(allowed_networks=LOOPBACK) as client:
        content = await client.call(receiver.url(), b"abc", {}, max_bytes=6)
        assert (content.status, content.body) == (200, b"abcabc")
        with pytest.raises(OutboundError, match="more than 5 bytes") as caught:
            await client.call(receiver.url(), b"abc", {}, max_bytes=5)
        assert not isinstance(caught.value, Unsent)


async def test_a_closed_port_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        async with OutboundClient(allowed_networks=LOOPBACK) as client:
            with pytest.raises(Unsent, match="cannot connect: "):
                await client.post(url, b"", {})


async def test_certificates_are_verified(tmp_path: Path) -> None:
    authority = await make_authority(tmp_path)
    own = await authority.issue("receiver")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(own.certificate, own.key)
    trusting = ssl.create_default_context(cafile=str(authority.own.certificate))
    async with receiving(serving) as receiver:
        url = receiver.url(scheme="https")
        async with OutboundClient(allowed_networks=LOOPBACK, ssl_context=trusting) as client:
            assert (await client.post(url, b"", {})).status == 202
        async with OutboundClient(allowed_networks=LOOPBACK) as client:
            with pytest.raises(OutboundError, match="certificate"):
                await client.post(url, b"", {})
    assert len(receiver.requests) == 1
