"""Calls of a platform, lost answers, parked conversations and the time until a reply is posted are
counted."""

import re

import pytest
from tests.server.platforms.board import Board, Fault
from tests.server.platforms.test_poster import Bot, running

pytestmark = pytest.mark.slow


def metrics_of(bot: Bot) -> dict[str, float]:
    """Return the metrics of the channel by name and labels, without those that are zero."""
    text = bot.server.metrics.exposition().decode()
    found = re.findall(r'^palaver_channel_(\w+\{.*channel="board".*\}) (\S+)$', text, re.M)
    return {name.replace('channel="board",', ""): float(value) for name, value in found}


async def test_posts_and_edits_are_counted() -> None:
    async with running(Board()) as bot:
        await bot.say("Hello there")
        await bot.until_posted()
        metrics = metrics_of(bot)
        calls = bot.board.calls
        assert metrics['calls_total{call="create",result="done"}'] == calls.count("create") == 1
        assert metrics.get('calls_total{call="edit",result="done"}', 0) == calls.count("edit")
        assert metrics['posted_seconds_count{channel="board"}'] == 1
        assert 0 <= metrics['posted_seconds_sum{channel="board"}'] < 60


@pytest.mark.parametrize(
    ("fault", "result"),
    [
        ("lost", "unreachable"),
        ("down", "unreachable"),
        ("limited", "rate_limited"),
        ("refused", "refused"),
    ],
)
async def test_calls_that_fail_are_counted(fault: Fault, result: str) -> None:
    board = Board(edit_interval=float("inf"))
    board.faults["create", 1] = fault
    async with running(board) as bot:
        await bot.say("Hello there")
        if fault == "refused":
            await bot.until(lambda record: b"archived" in record.value)
        else:
            await bot.until_posted()
        metrics = metrics_of(bot)
        assert metrics[f'calls_total{{call="create",result="{result}"}}'] == 1
        assert metrics.get('parked_total{channel="board"}', 0) == (fault == "refused")
        assert metrics.get('lost_answers_total{channel="board"}', 0) == (fault == "lost")
        assert metrics.get('posted_seconds_count{channel="board"}', 0) == (fault != "refused")


async def test_a_bug_in_a_call_is_counted() -> None:
    class Broken(Board):
        async def create(self, post: object) -> str:
            raise ZeroDivisionError

    async with running(Broken(edit_interval=float("inf"))) as bot:
        await bot.say("Hello there")
        await bot.until(lambda record: 'call="create",result="failed"' in str(metrics_of(bot)))


async def test_the_time_counts_from_the_settlement_also_for_the_next_owner() -> None:
    board = Board(edit_interval=float("inf"))
    board.faults = {("create", number): "down" for number in range(1, 6)}
    async with running(board) as bot:
        await bot.say("Hello there")
        await bot.until(lambda record: b'"settled_at":' in record.value)
        before = (await bot.outbox()).value
        await bot.kill()
        await bot.until_posted()
        assert b'"settled_at":' in before
        assert metrics_of(bot)['posted_seconds_count{channel="board"}'] == 1
