"""docs/architecture.md tells the truth about the code."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import aiohttp
import grimp
import pytest

from palaver import BuildContext, Ledger, Skill, Turn
from palaver.config.settings import RoutingSettings, ServerSettings, Settings
from palaver.plugins import load_plugins
from palaver.server import Server
from palaver.testing import ListKnowledge, ScriptedEngine
from palaver.web.listener import listening

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
MAX_STEPS = 12
BEHAVIOURS = {
    "deciding the skill",
    "refusing at overload",
    "continuing after a crash",
    "stopping a turn",
    "writing events",
    "healing tokens",
    "probing the engine",
    "shutting down",
}


def table(name: str) -> list[list[str]]:
    """Return the cells of the rows between ``<!-- name -->`` and its end."""
    text = ARCHITECTURE.partition(f"<!-- {name} -->")[2].partition(f"<!-- end of {name} -->")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def steps() -> list[tuple[str, str]]:
    """Return file and qualified function of every step of the path."""
    return [(file.strip("`"), function.strip("`")) for _, _, function, file in table("path")]


def test_the_path_has_few_steps() -> None:
    assert 5 <= len(steps()) <= MAX_STEPS


def test_every_behaviour_has_a_file_that_exists() -> None:
    files = {behaviour: file.strip("`") for behaviour, file in table("files")}
    assert files.keys() == BEHAVIOURS
    for file in files.values():
        assert (ROOT / file).is_file(), file


def test_every_module_is_in_the_layout() -> None:
    layout = ARCHITECTURE.partition("## Layout")[2].partition("## Rules")[0]
    package = ROOT / "server" / "palaver"
    modules = [path.name for path in package.glob("*.py")]
    packages = [f"{path.parent.name}/" for path in package.glob("*/__init__.py")]
    assert not [name for name in (*modules, *packages) if name not in layout]


def test_no_module_imports_itself_through_others() -> None:
    graph = grimp.build_graph(
        *("palaver", "palaver_skills", "palaver_plugins"),
        cache_dir=None,
        exclude_type_checking_imports=False,
    )
    left = {
        module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules
    }
    while leaves := {module for module, imported in left.items() if not imported & left.keys()}:
        left = {module: imported for module, imported in left.items() if module not in leaves}
    assert not left, "these import each other in a circle"


class Relay(Skill):
    """Say what the engine says."""

    name = "relay"
    examples = ("relay this",)

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text)


class Other(Skill):
    """Be another skill to choose from."""

    name = "other"
    examples = ("something else",)

    async def answer(self, turn: Turn) -> None:
        await turn.say("other")


class CallOrder:
    """The order in which the functions of the steps are called for the first time."""

    def __init__(self) -> None:
        self._wanted = {(str(ROOT / file), function) for file, function in steps()}
        self.called: list[tuple[str, str]] = []

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        function = (code.co_filename, code.co_qualname)
        if event == "call" and function in self._wanted and function not in self.called:
            self.called.append(function)


@pytest.fixture
def order() -> Iterator[CallOrder]:
    calls = CallOrder()
    previous = sys.getprofile()
    sys.setprofile(calls)
    yield calls
    sys.setprofile(previous)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    backend = load_plugins().ledgers["sqlite"]
    settings = backend.settings.model_validate({"path": str(tmp_path / "ledger.sqlite")})
    return backend.build(settings, BuildContext(data_directory=tmp_path, resolve_model=Path))


async def test_a_message_takes_the_path(tmp_path: Path, ledger: Ledger, order: CallOrder) -> None:
    server = Server(
        Settings(
            server=ServerSettings(port=0, data=tmp_path), routing=RoutingSettings(default="relay")
        ),
        ledger=ledger,
        engine=ScriptedEngine("Over and out."),
        knowledge=ListKnowledge(),
        skills={"relay": Relay(), "other": Other()},
    )
    async with server, listening(server) as address, aiohttp.ClientSession() as session:
        async with session.ws_connect(address + "ws") as socket:
            await socket.send_json({"type": "hello", "thread": "t", "person": "ada"})
            await socket.receive()
            await socket.send_json({"type": "send", "id": "1", "text": "/relay hello"})
            while '"type":"finished"' not in (frame := await socket.receive_str(timeout=5)):
                pass
    assert '"outcome":"done"' in frame
    assert order.called == [(str(ROOT / file), function) for file, function in steps()]
