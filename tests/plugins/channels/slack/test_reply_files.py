"""Files of replies are shared once each, in the thread."""

import base64

import pytest
from tests.plugins.channels.slack.posting_bot import Step, posting

from palaver import Attachment, Turn

pytestmark = pytest.mark.slow


def attach(name: str, content: bytes = b"thirty days") -> Step:
    async def step(turn: Turn) -> None:
        url = f"data:text/plain;base64,{base64.b64encode(content).decode()}"
        turn.attach(Attachment(name=name, media_type="text/plain", url=url))

    return step


async def test_files_are_shared_in_the_thread_after_the_text() -> None:
    async with posting() as bot:
        thread = await bot.answer("Here:", attach("a.txt", b"one"), attach("ü b.txt", b"two"))
        shown = await bot.until_posted(thread)
        assert [(each.text, each.files) for each in shown] == [
            ("Here:", ()),
            ("", ("a.txt",)),
            ("", ("ü b.txt",)),
        ]
        assert {each.thread_ts for each in shown} == {thread.root}
        contents = [file.content for file in bot.slack.world.files.values()]
        assert contents == [b"one", b"two"]


async def test_files_go_to_direct_messages_outside_of_threads() -> None:
    async with posting() as bot:
        thread = await bot.ask_directly(agent=False)
        bot.finish(attach("a.txt"))
        shown = await bot.until_posted(thread)
        assert [(each.files, each.thread_ts) for each in shown] == [(("a.txt",), "")]


@pytest.mark.parametrize(
    "method", ["files.getUploadURLExternal", "files.completeUploadExternal", "files.info"]
)
@pytest.mark.parametrize("fault", ["lose_response", "lose_request", "server_error", "rate_limit"])
async def test_a_fault_neither_loses_nor_doubles_a_file(method: str, fault: str) -> None:
    async with posting() as bot:
        limits = {"retry_after": 0} if fault == "rate_limit" else {}
        getattr(bot.slack.faults, fault)(method, **limits)
        if method == "files.info":
            bot.slack.faults.lose_response("files.completeUploadExternal")
        thread = await bot.answer(attach("a.txt"), attach("b.txt"))
        shown = await bot.until_posted(thread)
        assert [each.files for each in shown] == [("a.txt",), ("b.txt",)]


@pytest.mark.parametrize("is_committed", [True, False])
@pytest.mark.parametrize("seconds", [0.0, 2.0])
async def test_another_server_finds_a_file_that_was_shared(
    is_committed: bool, seconds: float
) -> None:
    """Slack looks at a file for a while before it posts it."""
    async with posting() as bot:
        method = "files.completeUploadExternal"
        bot.slack.faults.hang(method, is_committed=is_committed)
        bot.slack.rules.file_seconds = seconds
        thread = await bot.answer(attach("a.txt"))
        await bot.slack.wait_until(lambda: bot.slack.calls(method))
        await bot.restart()
        await bot.until_posted(thread)
        bot.slack.clock.advance(5)
        assert [each.files for each in bot.messages(thread)] == [("a.txt",)]


async def test_without_the_right_to_read_files_the_thread_tells_what_was_shared() -> None:
    async with posting() as bot:
        bot.slack.faults.refuse("files.info", "missing_scope")
        bot.slack.faults.lose_response("files.completeUploadExternal")
        thread = await bot.answer(attach("a.txt"))
        assert [each.files for each in await bot.until_posted(thread)] == [("a.txt",)]


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("method", ["files.getUploadURLExternal", "files.completeUploadExternal"])
async def test_a_file_that_slack_refuses_is_named_in_its_place(method: str, lost: bool) -> None:
    async with posting() as bot:
        bot.slack.faults.refuse(method, "file_uploads_disabled")
        if lost:
            bot.slack.faults.lose_response("chat.postMessage", nth=2)
        thread = await bot.answer("Here:", attach("a_b.txt"), attach("c.txt"))
        shown = await bot.until_posted(thread)
        assert [(each.text, each.files) for each in shown] == [
            ("Here:", ()),
            ("*a\\_b.txt* cannot be shared here.", ()),
            ("", ("c.txt",)),
        ]


async def test_an_archived_channel_parks_a_reply_of_a_file_alone() -> None:
    async with posting() as bot:
        bot.slack.faults.refuse("files.completeUploadExternal", "is_archived")
        bot.slack.faults.refuse("chat.postMessage", "is_archived")
        thread = await bot.answer(attach("a.txt"))
        await bot.until(thread, lambda record: b"is_archived" in record.value)
