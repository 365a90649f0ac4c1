"""Files of messages: read with the bot's token, from Slack alone."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from tests.plugins.channels.slack.slack_server import serving, until

from palaver.config.settings import FilesSettings
from palaver.files.objects import ObstoreObjects
from palaver.files.store import FileStore
from palaver.testing.fakes.slack import FakeSlack

pytestmark = pytest.mark.slow

UNREADABLE = "A file of your message could not be read from the platform. Send it again."


async def test_a_file_arrives_with_its_message() -> None:
    content = bytes(range(256)) * 1000
    async with FakeSlack() as slack, serving(slack) as bot:
        file = slack.file(slack.ada, "table.bin", content)
        ts = await slack.mention(slack.general, slack.ada, "read", files=[file])
        await bot.until_answered(bot.conversation(slack.general, ts))
        assert bot.skill.files == [content]


async def test_files_alone_are_a_message() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        direct = slack.direct(slack.ada)
        files = [slack.file(slack.ada, f"{name}.txt", name.encode()) for name in ("one", "two")]
        ts = await slack.say(direct, slack.ada, "", files=files)
        await slack.wait_until_delivered()
        [entry] = await bot.said(bot.conversation(direct, ts))
        assert [file.name for file in entry.attachments or ()] == ["one.txt", "two.txt"]


async def test_a_web_page_that_somebody_has_sent_is_a_file() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        file = slack.file(slack.ada, "page.html", b"<p>hello</p>")
        ts = await slack.mention(slack.general, slack.ada, "read", files=[file])
        await bot.until_answered(bot.conversation(slack.general, ts))
        assert bot.skill.files == [b"<p>hello</p>"]


async def test_slack_s_login_page_is_not_taken_for_a_file() -> None:
    """Slack sends it with status 200 to a token that may not read files."""
    async with FakeSlack() as slack:
        token = next(token for token in slack.world.tokens.values() if token.kind == "bot")
        token.scopes -= {"files:read"}
        async with serving(slack) as bot:
            direct = slack.direct(slack.ada)
            for name in ("text.txt", "page.html"):
                file = slack.file(slack.ada, name, b"hello")
                ts = await slack.say(direct, slack.ada, "read", files=[file])
                await slack.wait_until_delivered()
                assert await bot.said(bot.conversation(direct, ts)) == []
            assert [text for _, text in bot.board.notices] == [UNREADABLE] * 2


async def test_a_file_that_is_too_large_is_refused() -> None:
    limits = FilesSettings(max_file_bytes=1_000)
    async with FakeSlack() as slack:
        store = FileStore(ObstoreObjects("memory:///"), limits)
        async with serving(slack, files=store) as bot:
            direct = slack.direct(slack.ada)
            file = slack.file(slack.ada, "large.bin", bytes(1_001))
            ts = await slack.say(direct, slack.ada, "read", files=[file])
            await slack.wait_until_delivered()
            assert await bot.said(bot.conversation(direct, ts)) == []
            assert len(bot.board.notices) == 1


async def test_a_file_that_slack_has_not_processed_comes_with_the_next_delivery() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        direct = slack.direct(slack.ada)
        file = slack.file(slack.ada, "late.txt", b"at last")
        del slack.world.files[file.id]
        await slack.say(direct, slack.ada, "read", files=[file])
        await slack.wait_until(lambda: len(slack.deliveries[0].attempts) == 2)
        assert [attempt.status for attempt in slack.deliveries[0].attempts] == [503, 503]
        slack.world.files[file.id] = file
        slack.clock.advance(60)
        await until(lambda: bot.skill.files == [b"at last"])
        assert bot.board.notices == []


async def test_a_file_that_slack_never_gives_is_told_the_last_time() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        direct = slack.direct(slack.ada)
        file = slack.file(slack.ada, "gone.txt", b"gone")
        del slack.world.files[file.id]
        await slack.say(direct, slack.ada, "read", files=[file])
        for count, seconds in ((2, 60), (3, 300)):
            await slack.wait_until(lambda: len(slack.deliveries[0].attempts) == count)  # noqa: B023
            slack.clock.advance(seconds)
        await slack.wait_until_delivered()
        assert [attempt.status for attempt in slack.deliveries[0].attempts] == [503, 503, 503, 200]
        assert [text for _, text in bot.board.notices] == [UNREADABLE]


class OtherHost:
    """A server that is not Slack's."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Authorization", ""))
        return web.Response(body=b"theirs")


@pytest.fixture
async def other_host() -> AsyncIterator[OtherHost]:
    host = OtherHost()
    application = web.Application()
    application.router.add_get("/file", host.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "localhost", 0).start()
    host.url = f"http://localhost:{runner.addresses[0][1]}/file"
    yield host
    await runner.cleanup()


async def test_the_token_goes_to_no_other_host(other_host: OtherHost) -> None:
    """A file may be a link to another service, and an event may come from a shared channel."""
    async with FakeSlack() as slack, serving(slack) as bot:
        place = slack.direct(slack.ada)
        own = f"{slack.url}/file"
        kinds: list[dict[str, Any]] = [
            {"mode": "hosted", "url_private": other_host.url},
            {"mode": "external", "url_private": own},
            {"mode": "hosted", "url_private": own.replace("http:", "ftp:")},
            {"mode": "hosted"},
        ]
        for file in kinds:
            event = {"type": "message", "subtype": "file_share", "channel": place}
            event |= {"user": slack.ada, "text": "read", "ts": slack.world.new_ts()}
            named = {"id": "F1", "name": "file.txt", "mimetype": "text/plain", "size": 6}
            assert await bot.send_event({**event, "files": [named | file]}) == 200
        assert [text for _, text in bot.board.notices] == [UNREADABLE] * 4
        assert other_host.keys == []


async def test_a_file_of_a_shared_channel_is_looked_up() -> None:
    """Slack keeps its fields back until somebody asks for them."""
    async with FakeSlack() as slack, serving(slack) as bot:
        place = slack.direct(slack.ada)
        file = slack.file(slack.ada, "shared.txt", b"shared")
        message = await slack.say(place, slack.ada, "hello", files=[file])
        await slack.wait_until_delivered()
        event = {"type": "message", "subtype": "file_share", "channel": place, "user": slack.ada}
        event |= {"text": "read", "ts": slack.world.new_ts(), "thread_ts": message}
        stub = {"id": file.id, "file_access": "check_file_info"}
        assert await bot.send_event({**event, "files": [stub]}) == 200
        await until(lambda: bot.skill.files == [b"shared"])


async def test_a_redirect_is_not_followed(other_host: OtherHost) -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        place = slack.direct(slack.ada)
        page = f"{slack.url}/oauth/v2/authorize?scope=commands&client_id={slack.app.client_id}"
        slack.app.redirect_urls.append(other_host.url)
        event = {"type": "message", "subtype": "file_share", "channel": place, "user": slack.ada}
        event |= {"text": "read", "ts": slack.world.new_ts()}
        file = {"id": "F1", "name": "file.txt", "url_private": page}
        assert await bot.send_event({**event, "files": [file]}) == 200
        assert [text for _, text in bot.board.notices] == [UNREADABLE]
        assert other_host.keys == []
