"""Pages of the web are fetched from the public internet only, within limits of bytes and time."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from tests.server.receivers import Names, Receiver, receiving

from palaver.config.settings import FetchSettings
from palaver.errors import Forbidden, InvalidInput
from palaver.fetching import MAX_REDIRECTS, FetchedFile, Fetcher

LOOPBACK = ("127.0.0.1/32",)
Respond = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


def answer(body: bytes = b"hello", status: int = 200, **headers: str) -> Respond:
    """Answer each request in the same way; ``_`` in the name of a header stands for ``-``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(
            body=body, status=status, headers={"Content-Type": "text/plain"} | named
        )

    return respond


def redirect(*locations: str) -> Respond:
    """Redirect to one location after the other; after the last one, answer."""
    left = list(locations)

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        if left:
            return web.Response(status=302, headers={"Location": left.pop(0)})
        return web.Response(text="hello")

    return respond


async def fetch(url: str, names: Names | None = None, **settings: object) -> FetchedFile:
    """Fetch a URL; every network but loopback is closed."""
    values = {"allowed_networks": LOOPBACK, "only_written": False} | settings
    options = FetchSettings.model_validate(values)
    async with Fetcher(options, find_addresses=names or Names()) as fetcher:
        return await fetcher.fetch(url, ())


async def test_a_page_is_fetched_as_it_is(receiver: Receiver) -> None:
    receiver.respond = answer("grüß dich".encode(), Content_Type="text/html; charset=utf-8")
    file = await fetch(receiver.url() + "/page.html?a=1#part")
    assert (file.name, file.media_type) == ("page.html", "text/html")
    assert file.content.decode() == "grüß dich"
    assert file.url.endswith("/page.html?a=1")
    (request,) = receiver.requests
    assert request.method == "GET"
    assert not {"Cookie", "Referer", "Authorization"} & set(request.headers)


# Where requests go


OTHER_ADDRESSES = [
    *("http://127.0.0.2/", "http://169.254.169.254/latest/meta-data/", "http://[::1]/"),
    *("http://[::ffff:127.0.0.2]/", "http://[::ffff:7f00:2]/", "http://0.0.0.0/", "http://0/"),
    *("http://2130706434/", "http://0x7f000002/", "http://0177.0.0.2/", "http://127.2/"),
    *("http://10.0.0.1/", "http://192.168.1.1/", "http://[fd00:ec2::254]/", "http://[64:ff9b::a00:1]/"),
    *("http://①②⑦.0.0.2/", "http://127。0。0。2/", "http://localhost/", "//10.0.0.1/x"),
    *("file:///etc/passwd", "ftp://a.test/", "gopher://a.test/", "data:text/plain,x"),
    *("javascript:alert(1)", "http://user:word@127.0.0.1/", "http://user@127.0.0.1/"),
    *("http://[::1", "http://a.test:99999/", "unix:///run/a", "http://" + "a" * 3000),
]  # fmt: skip


@pytest.mark.parametrize("url", [*OTHER_ADDRESSES, "http:///", "/path", "127.0.0.1", ""])
async def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises((Forbidden, InvalidInput)):
        await fetch(url, Names(["127.0.0.2"]))


@pytest.mark.parametrize("url", OTHER_ADDRESSES)
async def test_a_redirect_to_another_address_is_refused(receiver: Receiver, url: str) -> None:
    receiver.respond = redirect(url)
    with pytest.raises((Forbidden, InvalidInput)):
        await fetch(receiver.url(), Names(["127.0.0.2"]))
    assert len(receiver.requests) == 1


async def test_a_name_that_changes_its_address_is_checked_at_each_redirect(
    receiver: Receiver,
) -> None:
    receiver.respond = redirect(f"http://other.test:{receiver.port}/")
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    with pytest.raises(Forbidden, match="is not on the public internet"):
        await fetch(receiver.url("first.test"), names)
    assert names.asked == ["first.test", "other.test"]


async def test_a_name_with_a_private_address_beside_an_allowed_one_is_refused(
    receiver: Receiver,
) -> None:
    with pytest.raises(Forbidden) as caught:
        await fetch(receiver.url("inside.test"), Names(["127.0.0.1", "10.0.0.1"]))
    assert "10.0.0.1" not in str(caught.value), "addresses of the network are told to nobody"
    assert receiver.server.opened == 0


async def test_redirects_are_followed_to_the_page(receiver: Receiver) -> None:
    receiver.respond = redirect("/second", receiver.url() + "/third", "?x=1", "fifth", "./sixth")
    file = await fetch(receiver.url())
    assert file.url == f"http://127.0.0.1:{receiver.port}/secret-path/sixth"
    assert len(receiver.requests) == MAX_REDIRECTS + 1


async def test_an_endless_chain_of_redirects_is_refused(receiver: Receiver) -> None:
    receiver.respond = redirect(*["/again"] * 100)
    with pytest.raises(InvalidInput, match="redirects more than"):
        await fetch(receiver.url())
    assert len(receiver.requests) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("location", ["", "http://[::1", "http://a.test:port/"])
async def test_a_malformed_redirect_is_refused(receiver: Receiver, location: str) -> None:
    receiver.respond = redirect(*[location] * 10)
    with pytest.raises(InvalidInput):
        await fetch(receiver.url())


@pytest.mark.parametrize(
    ("hosts", "host", "is_allowed"),
    [
        (["docs.test"], "docs.test", True),
        (["docs.test"], "DOCS.test", True),
        (["docs.test"], "docs.test.", False),
        (["docs.test"], "evil-docs.test", False),
        (["docs.test"], "docs.test.evil.test", False),
        (["*.docs.test"], "a.docs.test", True),
        (["*.docs.test"], "docs.test", False),
        (["*.docs.test"], "evildocs.test", False),
        (["bücher.test"], "xn--bcher-kva.test", True),
    ],
)
async def test_only_listed_hosts_are_fetched(
    receiver: Receiver, hosts: list[str], host: str, is_allowed: bool
) -> None:
    receiver.respond = answer()
    names = Names(["127.0.0.1"])
    if is_allowed:
        await fetch(receiver.url(host), names, hosts=hosts)
    else:
        with pytest.raises(Forbidden, match="none of those"):
            await fetch(receiver.url(host), names, hosts=hosts)
    assert bool(names.asked) is is_allowed


async def test_a_redirect_away_from_the_listed_hosts_is_refused(receiver: Receiver) -> None:
    receiver.respond = redirect(receiver.url("evil.test"))
    with pytest.raises(Forbidden, match="evil"):
        await fetch(receiver.url("docs.test"), Names(["127.0.0.1"] * 2), hosts=["docs.test"])
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    "host", ["", "*", "*.", "https://a.test", "a.test/path", "a.test:80", "a b"]
)
def test_what_is_no_host_is_refused_in_the_settings(host: str) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        FetchSettings.model_validate({"hosts": [host]})


@pytest.mark.parametrize("network", ["10.0.0.0/40", "intranet"])
def test_what_is_no_network_is_refused_in_the_settings(network: str) -> None:
    with pytest.raises(ValueError, match="network"):
        FetchSettings.model_validate({"allowed_networks": [network]})


@pytest.mark.parametrize(
    "text",
    [
        "look at {url}",
        "look at <{url}>, please",
        "({url})",
        "[the page]({url})",
        "{url}.",
        "“{url}”",
        "see 127.0.0.1:{port}/secret-path/ again",
        "is {url}/ the same?",
        "{url}#part",
        "url={url}",
        "HTTP{url_rest}",
    ],
)
async def test_an_address_that_a_person_has_written_is_fetched(
    receiver: Receiver, text: str
) -> None:
    receiver.respond = answer()
    settings = FetchSettings(allowed_networks=LOOPBACK)
    async with Fetcher(settings) as fetcher:
        written = text.format(
            url=receiver.url(),
            url_rest=receiver.url().removeprefix("http"),
            port=receiver.port,
        )
        await fetcher.fetch(receiver.url(), ["hello", written])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "look at {url}",
        "{url}/other",
        "{url}?q=1",
        "{url}?q=secrets",
        "{host}",
    ],
)
async def test_an_address_that_nobody_has_written_is_not_fetched(
    receiver: Receiver, text: str
) -> None:
    url = receiver.url()
    async with Fetcher(FetchSettings(allowed_networks=LOOPBACK)) as fetcher:
        written = text.format(url=url, host="127.0.0.1")
        with pytest.raises(Forbidden, match="people have written"):
            await fetcher.fetch(url + "?q=secret", [written])
    assert receiver.server.opened == 0


# What comes back


@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_huge_body_is_refused(receiver: Receiver, is_announced: bool) -> None:
    sent = 0

    async def pour(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.content_length = 10**12 if is_announced else None
        await response.prepare(request)
        while True:
            await response.write(b"x" * 16_384)
            sent += 16_384

    receiver.respond = pour
    with pytest.raises(InvalidInput, match="more than 100_000 bytes"):
        await fetch(receiver.url(), max_bytes=100_000)
    assert sent < 10_000_000


async def test_a_body_of_the_largest_size_is_read(receiver: Receiver) -> None:
    receiver.respond = answer(b"x" * 1000)
    assert len((await fetch(receiver.url(), max_bytes=1000)).content) == 1000
    with pytest.raises(InvalidInput, match="more than 999 bytes"):
        await fetch(receiver.url(), max_bytes=999)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "identity, gzip", "zstd"])
async def test_a_compressed_body_is_refused(receiver: Receiver, encoding: str) -> None:
    receiver.respond = answer(gzip.compress(b"0" * 1_000_000), Content_Encoding=encoding)
    with pytest.raises(InvalidInput, match="compressed"):
        await fetch(receiver.url())


@pytest.mark.parametrize("is_slow", ["head", "body", "redirects"])
async def test_a_slow_server_is_given_up(receiver: Receiver, is_slow: str) -> None:
    async def wait(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        if is_slow == "body":
            await response.prepare(request)
            await response.write(b"x")
        if is_slow == "redirects":
            await asyncio.sleep(0.02)
            return web.Response(status=302, headers={"Location": "/again"})
        await asyncio.Event().wait()
        return response

    receiver.respond = wait
    with pytest.raises(InvalidInput, match=r"did not answer in 0\.05 s"):
        await fetch(receiver.url(), timeout=0.05)


@pytest.mark.parametrize(
    ("media_type", "read_as"),
    [
        ("text/plain", "text/plain"),
        ("text/csv", "text/csv"),
        ("TEXT/HTML; charset=latin-1", "text/html"),
        ("application/xhtml+xml", "text/html"),
        ("application/json", "text/plain"),
        ("application/ld+json", "text/plain"),
        ("application/pdf", "application/pdf"),
        ("image/png", ""),
        ("application/octet-stream", ""),
        ("application/zip", ""),
        ("multipart/mixed", ""),
        ("text", "text/plain"),
    ],
)
async def test_only_text_is_returned(receiver: Receiver, media_type: str, read_as: str) -> None:
    receiver.respond = answer(Content_Type=media_type)
    if read_as:
        assert (await fetch(receiver.url())).media_type == read_as
        return
    with pytest.raises(InvalidInput, match="which is no text"):
        await fetch(receiver.url())


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 404, 500, 503])
async def test_an_error_is_named(receiver: Receiver, status: int) -> None:
    receiver.respond = answer(b"", status=status)
    with pytest.raises(InvalidInput, match=f"the status {status}"):
        await fetch(receiver.url())


async def test_a_server_that_cuts_the_body_is_named(receiver: Receiver) -> None:
    async def cut(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.content_length = 100
        await response.prepare(request)
        await response.write(b"x")
        assert request.transport is not None
        request.transport.abort()
        return response

    receiver.respond = cut
    with pytest.raises(InvalidInput, match="the connection failed"):
        await fetch(receiver.url())
