"""Workshop: a plugin with tools of a bicycle workshop, and a scripted engine that calls them.

The tools act on a file outside of the server: each run appends a line to it.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from palaver import Backend, PluginSettings, Tool, hookimpl, tool
from palaver.engine import Engine, GenerationRequest
from palaver.hooks import BuildContext
from palaver.testing import ScriptedEngine, ScriptedReply, tool_call

ROOT = Path(__file__).parents[2]
LOG = "WORKSHOP_LOG"
"""Variable of the environment with the path of the file."""


class ToolRun(NamedTuple):
    """One run of a tool, and the process that it ran in."""

    tool: str
    pid: int


def read_runs(log: Path) -> list[ToolRun]:
    """Return what the tools have done, in its order."""
    rows = (line.split() for line in log.read_text("utf-8").splitlines()) if log.exists() else ()
    return [ToolRun(name, int(pid)) for name, pid in rows]


def install(folder: Path) -> dict[str, str]:
    """Write the metadata by which a server finds this plugin. Return variables for its environment:
    the path, and where the tools write, `log_in(folder)`."""
    metadata = folder / "workshop-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: workshop\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[palaver]\nworkshop = {__name__}\n")
    path = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {LOG: str(log_in(folder)), "PYTHONPATH": os.pathsep.join(path)}


def log_in(folder: Path) -> Path:
    return folder / "log"


def _act(name: str) -> None:
    with Path(os.environ[LOG]).open("a", encoding="utf-8") as log:
        log.write(f"{name} {os.getpid()}\n")


@tool
def reserve_part(part: str) -> str:
    """Reserve a part for a repair."""
    _act("reserve_part")
    return f"1 {part} reserved, 24.90 €"


@tool
def book_repair(day: str, work: str) -> str:
    """Book a time for a repair."""
    _act("book_repair")
    return f"{day}, 14:30, for: {work}"


@tool(needs_approval=True)
def pay_deposit(repair: str, euros: int) -> str:
    """Pay the deposit for a repair from the person's account."""
    _act("pay_deposit")
    return f"{euros} € paid for {repair}"


@tool
def send_text(text: str) -> str:
    """Send a text message to the person's phone."""
    _act("send_text")
    return "sent"


STEPS = {
    "reserve_part": ScriptedReply(
        text="Let me see whether the part is there.",
        tool_calls=(tool_call("reserve_part", part="chain"),),
    ),
    "book_repair": ScriptedReply(
        text="It is, and reserved. Now the time.",
        tool_calls=(tool_call("book_repair", day="Thursday", work="new chain"),),
    ),
    "pay_deposit": ScriptedReply(
        text="There is one on Thursday at 14:30.",
        tool_calls=(tool_call("pay_deposit", repair="new chain on Thursday, 14:30", euros=10),),
    ),
    "send_text": ScriptedReply(
        text="There is one on Thursday at 14:30, and it is yours. I send the time to your phone.",
        tool_calls=(tool_call("send_text", text="New chain: Thursday, 14:30"),),
    ),
}
TITLE = "New chain on Thursday"
ANSWERS = {
    "pay_deposit": "Your new chain is fitted on **Thursday at 14:30**. "
    "The deposit of 10 € is paid.",
    "send_text": "Your new chain is fitted on **Thursday at 14:30**, and your phone knows.",
}
"""By the last tool."""


def _script(request: GenerationRequest) -> ScriptedReply:
    """Return the step of a model that calls each of its tools once."""
    names = [name for name in STEPS if name in {tool.name for tool in request.tools}]
    if not names:
        return ScriptedReply(text=TITLE)
    steps = [STEPS[name] for name in names]
    done = sum(bool(message.tool_calls) for message in request.messages)
    return [*steps, ScriptedReply(text=ANSWERS[names[-1]])][done]


class EngineSettings(PluginSettings):
    pause_after: int | None = None
    """Tokens of the step `send_text` after which the model writes no more."""


def _build_engine(settings: EngineSettings, build_context: BuildContext) -> Engine:
    def script(request: GenerationRequest) -> ScriptedReply:
        reply = _script(request)
        is_paused = reply is STEPS["send_text"]
        return replace(reply, pause_after=settings.pause_after) if is_paused else reply

    return ScriptedEngine(script)


@hookimpl
def palaver_register_tools() -> Iterable[Tool]:
    return [reserve_part, book_repair, pay_deposit, send_text]


@hookimpl
def palaver_register_engines() -> Iterable[Backend[Engine]]:
    return [Backend(name="workshop", settings=EngineSettings, build=_build_engine)]
