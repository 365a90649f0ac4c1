"""Each example of docs/hooks.md is a plugin that loads and works."""

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner
from tests.plugins.embedders.suite import check_embedder
from tests.plugins.knowledge.suite import check_knowledge_base
from tests.server.skills_under_test import Parrot
from tests.server.web.live_server import eventually

from palaver import Backend, Console, Document, Embedder, Skill, Turn
from palaver.app import build_server
from palaver.config.settings import Settings
from palaver.hooks import BuildContext
from palaver.plugins import HOOK_PREFIX, KINDS, PluginRegistry, load_plugins
from palaver.server import Server
from palaver.testing import converse
from palaver.web.listener import listening

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginRegistry]:
    monkeypatch.syspath_prepend(tmp_path / "examples")
    (tmp_path / "examples").mkdir()
    names = [f"hook_example_{number}" for number in range(len(EXAMPLES))]
    for name, example in zip(names, EXAMPLES, strict=True):
        (tmp_path / "examples" / f"{name}.py").write_text(example, encoding="utf-8")
    points = [importlib.metadata.EntryPoint(name, name, "palaver") for name in names]
    yield load_plugins(points, strict=True)
    for name in names:
        del sys.modules[name]


@pytest.fixture
def build_context(tmp_path: Path) -> BuildContext:
    return BuildContext(data_directory=tmp_path, resolve_model=Path)


def build(backend: Backend[Any], build_context: BuildContext, **settings: Any) -> Any:
    return backend.build(backend.settings(**settings), build_context)


@pytest.mark.parametrize("kind", KINDS)
def test_every_hook_has_an_example(kind: str, registry: PluginRegistry) -> None:
    assert any(f"def {HOOK_PREFIX}{kind}()" in example for example in EXAMPLES)
    assert getattr(registry, kind)


async def test_the_skills_answer(registry: PluginRegistry) -> None:
    async with converse(*registry.skills.values()) as chat:
        reply = await chat.say("what about parking?")
        assert (reply, reply.skill) == ("Parking is free after 18:00.", "parking")


@pytest.fixture
def server(registry: PluginRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return a server in which every part comes from an example."""
    monkeypatch.setenv("WEBHOOK_TOKEN", "secret")
    settings = Settings.model_validate(
        {
            "server": {"port": 0, "data": tmp_path},
            "engine": {"use": "capitals"},
            "embedding": {"use": "word_hash"},
            "ledger": {"use": "audited"},
            "knowledge": {"use": "words"},
            "interceptors": {"enabled": ["word_limit"]},
            "channels": {"enabled": ["webhook"], "webhook": {"token": "env:WEBHOOK_TOKEN"}},
            "tool_sources": {"enabled": ["folder"], "folder": {"folder": tmp_path / "texts"}},
            "routing": {"default": "opening"},
        }
    )
    return build_server(settings, registry)


async def test_the_channel_replies(server: Server, tmp_path: Path) -> None:
    message = {"id": "1", "person": "ada", "text": "tell me about parking"}
    headers = {"Authorization": "Bearer secret"}
    async with server, listening(server) as address, aiohttp.ClientSession(address) as session:
        for _ in range(2):
            async with session.post("/webhook/lobby", json=message, headers=headers) as response:
                assert await response.json() == {
                    "text": "Parking is free after 18:00.",
                    "skill": "parking",
                }
        async with session.post("/webhook/lobby", json=message) as response:
            assert response.status == 401
    assert (tmp_path / "audit.log").read_text() == "default/webhook/lobby 1\n" * 2


async def test_the_source_offers_tools_that_an_operator_approves(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "rules.txt").write_text("No smoking.")
    async with server, listening(server) as address, aiohttp.ClientSession(address) as session:

        async def list_tools() -> list[dict[str, str]]:
            async with session.get("/v1/tool-sources") as response:
                (source,) = (await response.json())["sources"]
            assert (source["name"], source["problems"]) == ("folder", [])
            tools: list[dict[str, str]] = source["tools"]
            return tools

        await eventually(lambda: bool(server.tool_sources["folder"].offered()))
        (offered,) = await list_tools()
        assert (offered["name"], offered["state"]) == ("rules", "new")

        async def approve(digest: str, name: str = "rules") -> int:
            body = {"digests": {name: digest}}
            async with session.post("/v1/tool-sources/folder/approvals", json=body) as response:
                return response.status

        assert await approve("another") == 409
        assert await approve("another", name="none") == 404
        assert await approve(offered["digest"]) == 200
        assert [tool["state"] for tool in await list_tools()] == ["ready"]


async def test_the_embedder_passes_the_suite(
    registry: PluginRegistry, build_context: BuildContext
) -> None:
    embedder: Embedder = build(registry.embedders["word_hash"], build_context)
    await check_embedder(embedder)
    long, short = await embedder.embed(["the price of parking", "price"])
    assert sum(a * b for a, b in zip(long, short, strict=True)) > 0.4


async def test_the_server_embeds_with_the_one_that_is_chosen(server: Server) -> None:
    async with server:
        assert server.embeddings is not None
        assert server.embeddings.model == "word hashes 256"


async def test_the_engine_generates(registry: PluginRegistry, build_context: BuildContext) -> None:
    engine = build(registry.engines["capitals"], build_context)
    async with converse(Parrot, engine=engine) as chat:
        assert await chat.say("good morning") == "GOOD MORNING"


async def test_the_ledger_stores(registry: PluginRegistry, build_context: BuildContext) -> None:
    ledger = build(registry.ledgers["audited"], build_context, file="accepted.log")
    async with converse(Parrot, ledger=ledger) as chat:
        await chat.say("hello", id="m1")
    log = build_context.data_directory / "accepted.log"
    assert log.read_text() == "default/test/main m1\n"


async def test_the_knowledge_base_finds(
    registry: PluginRegistry, build_context: BuildContext
) -> None:
    knowledge = build(registry.knowledge["words"], build_context)
    lamp = Document(id="lamp.txt", title="Lamp", text="The lamp turns slowly.")
    bell = Document(id="bell.txt", title="Bell", text="The bell rings loudly.")
    await check_knowledge_base(knowledge)
    assert await knowledge.add("t", [lamp, bell]) == 2
    assert [p.document for p in await knowledge.search("t", "which lamp turns", 4)] == ["lamp.txt"]
    assert await knowledge.search("other", "which lamp turns", 4) == ()
    assert await knowledge.remove("t", "lamp.txt")
    assert [info.id for info in await knowledge.documents("t")] == ["bell.txt"]


async def test_the_interceptor_answers_a_long_message(
    registry: PluginRegistry, build_context: BuildContext
) -> None:
    limit = build(registry.interceptors["word_limit"], build_context, words=3)
    async with converse(*registry.skills.values(), interceptors=[limit]) as chat:
        assert await chat.say("what about parking?") == "Parking is free after 18:00."
        assert await chat.say("what about parking here?") == "Please write at most 3 words."


class Caller(Skill):
    """Call the tool that the message names."""

    name = "caller"
    examples = ("call a tool", "run the tool")

    async def answer(self, turn: Turn) -> None:
        name, argument, value = turn.message.text.split()
        await turn.say(await turn.call_tool(name, **{argument: value}))


async def test_the_tools_run(registry: PluginRegistry) -> None:
    async with converse(Caller, tools=list(registry.tools.values())) as chat:
        assert await chat.say("roll sides 6") in list("123456")
        assert await chat.say("miles_to_km value 10") == "16.093"
        refused = await chat.say("roll sides 1")
        assert refused.problem is not None
        assert "argument 'sides' must be at least 2" in refused.problem.message


def test_the_command_prints(registry: PluginRegistry, tmp_path: Path) -> None:
    console = Console(None, (f"server.data={tmp_path / 'data'}",))
    result = CliRunner().invoke(registry.commands["disk"], obj=console)
    assert result.output == f"0 bytes in {tmp_path / 'data'}\n"
