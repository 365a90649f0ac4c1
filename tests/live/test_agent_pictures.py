"""What the pictures of agents promise is true, and a recording without it is refused."""

from pathlib import Path

import pytest
from tests.live.agent_recording import (
    PAYING,
    SHOWN_IN_TERMINAL,
    check_runs,
    check_transcript,
    record_approval,
    record_takeover,
    render_approval,
    render_takeover,
)
from tests.live.chromium import chromium
from tests.live.pictures import render, to_webp
from tests.live.workshop import ToolRun
from tests.plugins.ledgers.redis_server import redis_server

RUNS = [ToolRun(name, 1) for name in PAYING]
TRANSCRIPT = "\x1b[2m".join(SHOWN_IN_TERMINAL)


@pytest.mark.live
@pytest.mark.chromium
async def test_the_third_tool_waits_for_an_approval_in_terminal_and_page(tmp_path: Path) -> None:
    async with chromium() as browser:
        approval = await record_approval(browser, tmp_path)
        picture = await render(browser, render_approval(approval), width=1280, scale=1)
        assert (await to_webp(browser, picture)).startswith(b"RIFF")


@pytest.mark.live
@pytest.mark.chromium
@pytest.mark.redis
async def test_another_server_runs_the_third_tool_after_a_kill(tmp_path: Path) -> None:
    async with chromium() as browser, redis_server() as redis:
        takeover = await record_takeover(browser, tmp_path, redis)
        document = render_takeover(takeover)
    row = "<tr><td>{}</td><td>1</td><td>{}</td></tr>"
    assert row.format("book_repair", takeover.killed_pid) in document
    assert row.format("send_text", takeover.other_pid) in document


@pytest.mark.parametrize(
    "runs",
    [RUNS[:2], [*RUNS, RUNS[1]], [RUNS[1], RUNS[0], RUNS[2]], [*RUNS[:2], ToolRun(PAYING[2], 2)]],
    ids=["lost", "twice", "another order", "another server"],
)
def test_other_runs_of_the_tools_are_refused(runs: list[ToolRun]) -> None:
    expected = dict.fromkeys(PAYING, 1)
    check_runs(RUNS, expected)
    with pytest.raises(AssertionError, match="the tools have run as"):
        check_runs(runs, expected)


@pytest.mark.parametrize("part", SHOWN_IN_TERMINAL)
def test_a_terminal_that_does_not_show_a_part_is_refused(part: str) -> None:
    check_transcript(TRANSCRIPT)
    with pytest.raises(AssertionError, match="the terminal does not show"):
        check_transcript(TRANSCRIPT.replace(part, ""))
