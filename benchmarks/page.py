"""Measure the page in Chromium: a long conversation that scrolls while a reply is written.

    python -m benchmarks.page [--turns N] [--seconds S] [--rate TOKENS_PER_SECOND]

Prints the figures and writes them to benchmarks/results/page.md. A task's *wall* time contains what
other programs take from the page; its *CPU* time, of Chromium's trace, is the page's own.
"""

import argparse
import asyncio
import datetime
import os
import statistics
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from playwright.async_api import Browser, CDPSession, Page
from tests.live.chromium import CHROMIUM, chromium
from tests.server.web.live_server import LiveServer, open_live_server

from benchmarks.__main__ import RESULTS, describe_machine, print_line
from palaver import Skill, Turn
from palaver.config.settings import LedgerSettings

LONG_TASK = 50.0
"""Milliseconds above which a task delays the answer to a key."""
REPLY = """The {number}th answer has a paragraph with **bold** words, `code` and a [link](https://example.org).

- one item of a list
- another item, which is longer and takes a second line on a narrow screen

```python
def answer(number):
    return number * {number}
```

| name | value |
| --- | ---: |
| answer | {number} |

And a last paragraph, so that the reply is as long as replies are."""
LONG = 20_000
"""Characters that a reply of one long block has before it is measured."""
PARAGRAPHS = (
    "These paragraphs are written a token at a time, with **bold** words and `code`. " * 5 + "\n\n"
)
BLOCKS = {
    "a list": "- an item with **bold** words and `code`, which is followed by another one\n",
    "code": "value = [function(number, name='name') for number in range(100)]  # comment\n",
    "a table": "| a cell | another cell with **bold** words | 1000 |\n",
    "a paragraph": "a line of a paragraph with **bold** words and `code` that does not end\n",
}
"""Lines of which a block is made that does not end."""
BEGINNINGS = {"code": "```python\n", "a table": "| a | b | c |\n| --- | --- | ---: |\n"}
OBSERVE = """() => {
  Object.assign(window, { frames_: [], tasks_: [], on_: true });
  let last = performance.now();
  const tick = (now) => {
    frames_.push(now - last);
    last = now;
    if (on_) requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
  const record = (list) => tasks_.push(...list.getEntries().map(({ duration }) => duration));
  new PerformanceObserver(record).observe({ type: "longtask" });
}"""
BEGINNING_SHOWN = "(length) => document.querySelector('.streaming').textContent.length > length"
COLLECT = "() => { window.on_ = false; return [frames_, tasks_]; }"
SCROLL = """() => {
  const main = document.getElementById("main");
  let step = -120;
  const tick = () => {
    if (!window.on_) return;
    if (main.scrollTop + step <= 0) step = 120;
    main.scrollTop += step;
    requestAnimationFrame(tick);
  };
  main.scrollTop = main.scrollHeight / 2;
  requestAnimationFrame(tick);
}"""


class Writer(Skill):
    """Answer with Markdown."""

    name = "writer"

    async def answer(self, turn: Turn) -> None:
        await turn.say(REPLY.format(number=len(turn.message.text)))


class Measured(NamedTuple):
    """Figures of one part, in milliseconds: frames, long tasks by the clock, and tasks by CPU."""

    name: str
    frames: Sequence[float]
    long_tasks: Sequence[float]
    cpu_tasks: Sequence[float]

    def row(self) -> str:
        frames, median, slow = sorted(self.frames), "", ""
        if frames:
            median = f"{statistics.median(frames):.0f}"
            slow = f"{frames[len(frames) * 95 // 100]:.0f}"
        long_cpu = sum(task > LONG_TASK for task in self.cpu_tasks)
        cpu = f"{long_cpu} | {max(self.cpu_tasks):.0f} | {sum(self.cpu_tasks):.0f}"
        return f"| {self.name} | {median} | {slow} | {len(self.long_tasks)} | {cpu} |"


async def fill(page: Page, thread: str, turns: int) -> None:
    """Give the conversation its turns, as the browser's own person."""
    await page.evaluate(
        """async ([thread, turns]) => {
          for (let number = 0; number < turns; number += 1) {
            const body = JSON.stringify({ text: `/writer question ${number}` });
            const path = `/v1/conversations/${thread}/messages?wait=true`;
            const response = await fetch(path, { method: "POST", body });
            if (!response.ok) throw new Error(await response.text());
          }
        }""",
        [thread, turns],
    )


class Trace:
    """Chromium's own record of the tasks of the page's main thread."""

    def __init__(self, session: CDPSession) -> None:
        self._session = session
        self._events: list[dict[str, Any]] = []  # Any: JSON values
        self._complete = asyncio.Event()
        session.on("Tracing.dataCollected", lambda data: self._events.extend(data["value"]))
        session.on("Tracing.tracingComplete", lambda _: self._complete.set())

    async def start(self) -> None:
        self._events.clear()
        self._complete.clear()
        await self._session.send(
            "Tracing.start",
            {"traceConfig": {"includedCategories": ["toplevel", "__metadata"]}},
        )

    async def stop(self) -> list[float]:
        """Return the CPU milliseconds of each task of the page's main thread."""
        await self._session.send("Tracing.end")
        await asyncio.wait_for(self._complete.wait(), 60)
        main_threads = {
            (event["pid"], event["tid"])
            for event in self._events
            if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
        }
        return [
            event.get("tdur", event["dur"]) / 1e3
            for event in self._events
            if event["name"] in ("RunTask", "ThreadControllerImpl::RunTask")
            and event.get("dur")
            and (event["pid"], event["tid"]) in main_threads
        ]


@asynccontextmanager
async def written_reply(
    live_server: LiveServer, page: Page, text: str, rate: float, beginning: str = ""
) -> AsyncIterator[None]:
    """Write a reply that repeats ``text``, with ``rate`` tokens a second after ``beginning``."""

    async def write() -> None:
        words = text.split(" ")
        live_server.scripted.emit(beginning, end=False)
        loop = asyncio.get_running_loop()
        start, count = loop.time(), 0
        while True:
            due = int((loop.time() - start) * rate)
            live_server.scripted.emit(
                *(words[number % len(words)] + " " for number in range(count, due)), end=False
            )
            count = due
            await asyncio.sleep(1 / rate)

    await page.locator("#text").fill("/scripted go")
    await page.keyboard.press("Enter")
    writing = asyncio.create_task(write())
    await page.locator(".streaming").wait_for()
    try:
        yield
    finally:
        writing.cancel()
        live_server.scripted.emit()
        await page.locator("#stop").wait_for(state="detached")


async def measure(page: Page, trace: Trace, name: str, seconds: float, *actions: str) -> Measured:
    await trace.start()
    await page.evaluate(OBSERVE)
    for action in actions:
        await page.evaluate(action)
    await asyncio.sleep(seconds)
    frames, tasks = await page.evaluate(COLLECT)
    return Measured(name, frames, tasks, await trace.stop())


async def measure_page(
    browser: Browser, turns: int, seconds: float, rate: float
) -> AsyncIterator[Measured]:
    ledger = LedgerSettings(history=2 * turns, history_bytes=20_000_000)
    async with open_live_server(skills=(Writer(),), ledger_settings=ledger) as live_server:
        page = await browser.new_page()
        trace = Trace(await page.context.new_cdp_session(page))
        await page.goto(live_server.address)
        await fill(page, "long", turns)
        await trace.start()
        await page.goto(f"{live_server.address}/c/long")
        await page.locator(".turn").nth(turns - 1).wait_for(state="attached", timeout=120_000)
        await asyncio.sleep(2)
        tasks = await trace.stop()
        yield Measured("opening", [], [], tasks)
        yield await measure(page, trace, "scrolling", seconds, SCROLL)
        async with written_reply(live_server, page, PARAGRAPHS, rate):
            yield await measure(page, trace, "writing", seconds)
            yield await measure(page, trace, "writing and scrolling", seconds, SCROLL)
        for name, line in BLOCKS.items():
            beginning = BEGINNINGS.get(name, "") + line * (LONG // len(line))
            async with written_reply(live_server, page, line, rate, beginning):
                await page.wait_for_function(BEGINNING_SHOWN, arg=LONG // 2)
                await asyncio.sleep(1)
                yield await measure(page, trace, f"writing {name}", seconds)
        await page.close()


def conditions(turns: int, seconds: float, rate: float) -> list[str]:
    version = subprocess.run([str(CHROMIUM), "--version"], capture_output=True, text=True).stdout
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return [
        f"Machine: {describe_machine()}; {version.strip()}, headless, drawing in software.",
        f"Load of the machine before: {load}.",
        f"A conversation of {2 * turns:,} messages. The reply that is written has {rate:.0f}",
        f"tokens a second, one of a long block after {LONG:,} characters. {seconds:.0f} s each.",
    ]


async def run(turns: int, seconds: float, rate: float) -> list[str]:
    lines = [
        f"# The page, {datetime.datetime.now(tz=datetime.UTC).date()}",
        "",
        *await asyncio.to_thread(conditions, turns, seconds, rate),
        "Milliseconds; *long* is above 50.",
        "",
        "| | frame, median | 95 % | long tasks, wall | long, CPU | longest, CPU | CPU in all |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    async with chromium() as browser:
        async for measured in measure_page(browser, turns, seconds, rate):
            lines.append(measured.row())
            print_line(lines[-1])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rate", type=float, default=100.0)
    given = parser.parse_args()
    text = "\n".join(asyncio.run(run(given.turns, given.seconds, given.rate))) + "\n"
    Path(RESULTS / "page.md").write_text(text, encoding="utf-8")
    print_line("\n" + text)


if __name__ == "__main__":
    main()
