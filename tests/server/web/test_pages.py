"""The page's files: compressed for clients that ask, and sent once."""

import pytest
from tests.server.web.live_server import LiveServer

pytestmark = pytest.mark.slow

PATHS = ("/", "/c/thread", "/s/share", "/static/palaver-client.js")


@pytest.mark.parametrize("path", PATHS)
async def test_a_file_is_compressed_for_a_client_that_reads_gzip_and_no_other(
    live_server: LiveServer, path: str
) -> None:
    bodies = set()
    for accepted, sent in (("gzip, deflate", "gzip"), ("identity", None), ("br", None)):
        headers = {"Accept-Encoding": accepted}
        async with live_server.session.get(live_server.url(path), headers=headers) as response:
            assert response.headers.get("Content-Encoding") == sent
            assert "Accept-Encoding" in response.headers["Vary"]
            bodies.add(await response.read())
    assert len(bodies) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_file_is_sent_again_only_when_it_has_changed(
    live_server: LiveServer, path: str
) -> None:
    async with live_server.session.get(live_server.url(path)) as response:
        etag = response.headers["ETag"]
    for known, status in ((etag, 304), (f'"older", {etag}', 304), ('"older"', 200)):
        headers = {"If-None-Match": known}
        async with live_server.session.get(live_server.url(path), headers=headers) as response:
            assert response.status == status
            assert bool(await response.read()) is (status == 200)


@pytest.mark.parametrize("path", PATHS)
async def test_a_file_is_for_the_names_of_the_server(live_server: LiveServer, path: str) -> None:
    headers = {"Host": "elsewhere.example"}
    async with live_server.session.get(live_server.url(path), headers=headers) as response:
        assert response.status >= 400


@pytest.mark.parametrize("path", ["/s/share", "/static/share.html"])
async def test_the_page_of_a_share_is_not_listed_and_makes_nobody_a_person(
    live_server: LiveServer, path: str
) -> None:
    async with live_server.session.get(live_server.url(path)) as response:
        assert "noindex" in response.headers["X-Robots-Tag"]
        assert "Set-Cookie" not in response.headers
        assert "trusted-types 'none'" in response.headers["Content-Security-Policy"]
        assert '<meta name="robots" content="noindex' in await response.text()
