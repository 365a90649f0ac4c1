"""Recordings of agents: real servers, tools, pages and terminals; the model is the scripted one of
the `workshop`. Each recording fails when it does not show what the documentation promises."""

import asyncio
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Browser, Locator, Page, expect
from tests.chaos.proxy import FaultProxy
from tests.live.pictures import (
    STEPS_STYLE,
    TERMINAL_STYLE,
    data_url,
    render_step,
    render_terminal,
    screenshot_turns,
)
from tests.live.reply_observer import TIMEOUT_SECONDS, ReplyObserver
from tests.live.serve_processes import ServeProcess, wait_for_active
from tests.live.workshop import ANSWERS, STEPS, ToolRun, install, log_in, read_runs
from tests.server.cli.terminals import open_terminal

SETTINGS = ("engine.use=workshop", "routing.default=agent", "routing.consult_engine=false")
COLUMNS = 80
PAGE_WIDTH, PAGE_HEIGHT = 620, 860  # px

PAYING = ("reserve_part", "book_repair", "pay_deposit")
PAY = "My chain is worn out. Fit a new one on Thursday, and pay the deposit."
SHOWN_IN_TERMINAL = (
    '[reserve_part: begins {"part": "chain"}]\n[reserve_part: done 1 chain reserved, 24.90 €]\n',
    STEPS["book_repair"].text,
    "[book_repair: done Thursday, 14:30, for: new chain]\n",
    "May I use the tool pay_deposit with these arguments?",
    '"euros": 10',
    "> Approve\n",
    "[pay_deposit: done 10 € paid for new chain on Thursday, 14:30]\n",
    ANSWERS["pay_deposit"].replace("**", ""),
)
"""In this order."""

TEXTING = ("reserve_part", "book_repair", "send_text")
TEXT = "My chain is worn out. Fit a new one on Thursday, and text me the time."
REPLY = "\n\n".join([*(STEPS[name].text for name in TEXTING), ANSWERS["send_text"]])
KILL_AFTER = "There is one on"
"""Beginning of the text between the second tool and the third, at which the model of the first
server waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A call that is approved: the text of a terminal, and the page before the answer, as PNG."""

    terminal: str
    page: bytes


async def record_approval(browser: Browser, folder: Path) -> Approval:
    """Let the agent call three tools, of which the last needs an approval, in both clients."""
    server = ServeProcess(folder / "server", install(folder))
    await server.start(*SETTINGS, _tools(PAYING))
    try:
        terminal = await _approve_in_terminal(server, log_in(folder))
        log_in(folder).unlink()
        page = await _approve_in_page(browser, server, log_in(folder))
    finally:
        await server.kill()
    return Approval(terminal=terminal, page=page)


def _tools(names: Sequence[str]) -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    return f"skills.agent.tools=[{listed}]"


async def _approve_in_terminal(server: ServeProcess, log: Path) -> str:
    async with open_terminal(server.address, columns=COLUMNS) as session:
        session.type(PAY)
        await session.wait_for("“Deny”.\n> ")
        check_runs(read_runs(log), dict.fromkeys(PAYING[:-1], server.pid))
        session.type("Approve")
        await session.wait_for("[pay_deposit: done")
        await session.wait_for("\n> ")
        check_runs(read_runs(log), dict.fromkeys(PAYING, server.pid))
        check_transcript(session.transcript)
        return session.transcript.removesuffix("> ").rstrip()


async def _approve_in_page(browser: Browser, server: ServeProcess, log: Path) -> bytes:
    observer = await _open_page(browser, server.address)
    page = observer.page
    await observer.send(PAY)
    card = page.get_by_role("group", name="Your approval is needed")
    await expect(card.locator("code")).to_have_text("pay_deposit")
    await expect(card.locator("pre")).to_contain_text('"euros": 10')
    await expect_cards(page, PAYING[:-1])
    check_runs(read_runs(log), dict.fromkeys(PAYING[:-1], server.pid))
    asked = await page.screenshot(animations="disabled")
    await card.get_by_role("button", name="Approve").click()
    await expect(page.locator(".reply").last).to_have_text(ANSWERS["pay_deposit"].replace("**", ""))
    await expect(page.locator("#announcement")).to_have_text("The reply is complete.")
    await expect_cards(page, PAYING)
    check_runs(read_runs(log), dict.fromkeys(PAYING, server.pid))
    await page.close()
    return asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """A turn whose server was killed between two tools. ``continue_seconds``: from the kill until
    the page got text of the other server."""

    killed_pid: int
    other_pid: int
    runs: Sequence[ToolRun]
    continue_seconds: float
    at_kill: bytes
    finished: bytes


async def record_takeover(browser: Browser, folder: Path, redis: str) -> Takeover:
    """Kill the server that has run two of three tools, and let another one run the third."""
    environment = install(folder)
    first, second = (ServeProcess(folder / name, environment) for name in ("first", "second"))
    ledger = ("ledger.use=redis", f"ledger.redis.url={redis}")
    settings = (*SETTINGS, *ledger, _tools(TEXTING))
    try:
        await first.start(*settings, f"engine.workshop.pause_after={len(KILL_AFTER.split())}")
        await second.start(*settings)
        async with FaultProxy(first.address) as balancer:
            observer = await _open_page(browser, balancer.address)
            return await _record_kill(observer, balancer, first, second, log_in(folder))
    finally:
        await asyncio.gather(first.kill(), second.kill())


async def _record_kill(
    observer: ReplyObserver,
    balancer: FaultProxy,
    first: ServeProcess,
    second: ServeProcess,
    log: Path,
) -> Takeover:
    page, ran_first = observer.page, dict.fromkeys(TEXTING[:-1], first.pid)
    second.signal(signal.SIGSTOP)  # so that the first server claims the turn
    await observer.send(TEXT)
    await wait_for_active([first])
    balancer.target = second.address  # for later connections
    second.signal(signal.SIGCONT)
    reply = expect(page.locator(".reply"))
    await reply.to_contain_text(KILL_AFTER, timeout=TIMEOUT_SECONDS * 1000)
    await expect_cards(page, TEXTING[:-1])
    at_kill = await screenshot_turns(page)
    killed_at = time.monotonic()
    await first.kill()
    check_runs(read_runs(log), ran_first)
    await asyncio.wait_for(observer.continued.wait(), TIMEOUT_SECONDS)
    continue_seconds = time.monotonic() - killed_at
    text = await observer.complete_text()
    expected = re.sub(r"\n+|\*\*", "", REPLY)
    assert text.replace("\n", "") == expected, f"{text!r} is not the reply {expected!r}"
    await expect_cards(page, TEXTING)
    runs = read_runs(log)
    check_runs(runs, ran_first | {TEXTING[-1]: second.pid})
    finished = await screenshot_turns(page)
    await page.close()
    return Takeover(
        killed_pid=first.pid,
        other_pid=second.pid,
        runs=runs,
        continue_seconds=continue_seconds,
        at_kill=at_kill,
        finished=finished,
    )


async def _open_page(browser: Browser, address: str) -> ReplyObserver:
    page = await browser.new_page(
        viewport={"width": PAGE_WIDTH, "height": PAGE_HEIGHT},
        device_scale_factor=2,
        color_scheme="light",
        locale="en",
    )
    observer = ReplyObserver(page)
    await page.goto(address)
    return observer


# What the recordings promise


def check_runs(runs: Sequence[ToolRun], expected: dict[str, int]) -> None:
    """Raise `AssertionError` unless each tool has run once, in order, in the process expected."""
    wanted = [ToolRun(tool, pid) for tool, pid in expected.items()]
    assert list(runs) == wanted, f"the tools have run as {runs}, not as {wanted}"


def check_transcript(transcript: str) -> None:
    """Raise `AssertionError` unless a terminal has shown each part, in order."""
    rest = re.sub(r"\x1b\[[0-9;]*m", "", transcript)
    for part in SHOWN_IN_TERMINAL:
        before, found, rest = rest.partition(part)
        assert found, f"the terminal does not show {part!r} in {before!r}"


async def expect_cards(page: Page, tools: Sequence[str]) -> None:
    """Expect the cards of calls that are done."""
    cards: Locator = page.locator(".tool-done strong")
    await expect(cards).to_have_text([name.capitalize().replace("_", " ") for name in tools])
    await expect(page.locator(".tool")).to_have_count(len(tools))


# Documents of the pictures


def render_approval(approval: Approval) -> str:
    terminal = render_terminal("palaver chat", approval.terminal, COLUMNS)
    return f'{APPROVAL_STYLE}{terminal}<img src="{data_url(approval.page)}">'


APPROVAL_STYLE = f"""<!doctype html><meta charset="utf-8"><style>
* {{ box-sizing: border-box; margin: 0; }}
body {{
  display: grid; grid-template-columns: auto 1fr; align-items: start; gap: 16px; padding: 16px;
  background: #fff;
}}
img {{ display: block; width: 100%; border: 1px solid #dcd8d0; border-radius: 12px; }}
{TERMINAL_STYLE}</style>"""


def render_takeover(takeover: Takeover) -> str:
    killed, other = takeover.killed_pid, takeover.other_pid
    steps = (
        render_step(
            1,
            f"Two tools have run, then <code>$ kill -9 {killed}</code>",
            "",
            ((killed, "writes"), (other, "waits")),
            takeover.at_kill,
        ),
        render_step(
            2,
            "The other server goes on with the third",
            f"{takeover.continue_seconds:.1f} s later",
            ((killed, "killed"), (other, "writes")),
            takeover.finished,
        ),
    )
    rows = "".join(
        f"<tr><td>{run.tool}</td><td>{takeover.runs.count(run)}</td><td>{run.pid}</td></tr>"
        for run in dict.fromkeys(takeover.runs)
    )
    return STEPS_STYLE + "".join(steps) + TABLE.format(rows=rows)


TABLE = """
<style>
table {{
  grid-column: 1 / 3; justify-self: center; border-collapse: collapse; font: 14px monospace;
}}
th, td {{ padding: 4px 22px; border-bottom: 1px solid #e2dfd8; text-align: start; }}
th {{ color: #62656a; font: 13px system-ui, sans-serif; }}
</style>
<table><tr><th>tool</th><th>times run</th><th>in server</th></tr>{rows}</table>
<footer>Two <code>palaver serve</code> on one Redis. The tools append to a file, which the table
counts. The model is scripted; that of the first server waits in its sentence, so that one can
watch.</footer>"""
