"""Files of the fake Slack, by the unmodified slack_sdk."""

import aiohttp
import pytest
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from tests.server.testing.fakes.slack_support import error_of, receive

from palaver.testing.fakes.slack import FakeSlack

pytestmark = pytest.mark.slow


async def download(url: str, token: str) -> tuple[int, str, bytes]:
    """Return status, media type and content."""
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status, response.content_type, await response.read()


async def share(slack: FakeSlack) -> str:
    """Share a file in the channel, and return its URL as the app is told."""
    async with receive(slack) as app:
        file = slack.file(slack.ada, "my notes/名前?.txt", "naïve 名前".encode())
        await slack.say(slack.general, slack.ada, "read this", files=[file])
        await slack.wait_until_delivered()
    [event] = app.of_type("message")
    assert event["subtype"] == "file_share"
    assert event["files"][0]["mimetype"] == "text/plain"
    return str(event["files"][0]["url_private"])


async def test_a_shared_file_is_downloaded_with_the_token(slack: FakeSlack) -> None:
    url = await share(slack)
    assert await download(url, slack.bot_token) == (200, "text/plain", "naïve 名前".encode())


async def test_without_the_scope_a_download_is_a_login_page(slack: FakeSlack) -> None:
    url = await share(slack)
    token = slack.install(slack.team, scopes=["chat:write"])
    for value in (token.value, "xoxb-unknown", slack.app_token):
        status, media_type, content = await download(url, value)
        assert (status, media_type) == (200, "text/html")
        assert b"Sign in" in content


async def test_a_file_of_another_channel_is_a_login_page(slack: FakeSlack) -> None:
    channel = slack.add_channel("private", [slack.ada], kind="group")
    file = slack.file(slack.ada, "secret.txt", b"secret")
    await slack.say(channel, slack.ada, "look", files=[file])
    url = slack._server.services.payloads.file(file)["url_private"]
    assert (await download(url, slack.bot_token))[1] == "text/html"


async def test_an_uploaded_file_is_shared_when_it_is_ready(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    thread = await slack.say(slack.general, slack.ada, "a picture, please")
    answer = await client.files_upload_v2(
        channel=slack.general,
        thread_ts=thread,
        filename="plot.png",
        content=b"\x89PNG",
        title="Plot",
        initial_comment="Here it is",
    )
    id = answer["file"]["id"]
    assert len(slack.conversation(slack.general, thread)) == 1
    assert (await client.files_info(file=id))["file"]["shares"] == {}
    slack.clock.advance(1)
    shown = slack.conversation(slack.general, thread)[1]
    assert (shown.text, shown.files, shown.is_app) == ("Here it is", ("plot.png",), True)
    info = (await client.files_info(file=id))["file"]
    assert info["shares"]["public"][slack.general][0]["ts"] == shown.ts
    assert await download(info["url_private"], slack.bot_token) == (200, "image/png", b"\x89PNG")


async def test_an_upload_of_another_length_is_a_violation(
    slack: FakeSlack, client: AsyncWebClient
) -> None:
    answer = await client.files_getUploadURLExternal(filename="a.txt", length=3)
    async with (
        aiohttp.ClientSession() as session,
        session.post(answer["upload_url"], data=b"four") as response,
    ):
        assert response.status == 400
    assert slack.violations.pop() == "an upload has 4 bytes, not 3"
    with pytest.raises(SlackApiError) as failure:
        await client.files_completeUploadExternal(files=[{"id": answer["file_id"], "title": "a"}])
    assert error_of(failure) == "file_not_found"


async def test_an_upload_url_expires(slack: FakeSlack, client: AsyncWebClient) -> None:
    answer = await client.files_getUploadURLExternal(filename="a.txt", length=3)
    slack.clock.advance(3600)
    async with (
        aiohttp.ClientSession() as session,
        session.post(answer["upload_url"], data=b"abc") as response,
    ):
        assert response.status == 404


async def test_only_the_owner_deletes_a_file(slack: FakeSlack, client: AsyncWebClient) -> None:
    file = slack.file(slack.ada, "a.txt", b"a")
    with pytest.raises(SlackApiError) as failure:
        await client.files_delete(file=file.id)
    assert error_of(failure) == "cant_delete_file"
