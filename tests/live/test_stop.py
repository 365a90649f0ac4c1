"""A stop frees the engine's slot: the whole server, with vLLM in process and over HTTP.

vLLM's own number of running requests must be zero within a second.
"""

import asyncio
import dataclasses
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from tests.plugins.engines.fault_injecting_server import VLLM_CARD, fault_injecting_servers, hang
from tests.plugins.engines.models import ENDING_PROMPT, ENDLESS_PROMPT, write_model
from tests.plugins.engines.serving import KV_CACHE_BYTES, VllmServer, vllm_python
from tests.plugins.engines.support import wait_until
from tests.plugins.ledgers.redis_server import redis_server
from tests.server.web.live_server import Frame, WebSocketClient

from palaver.app import build_server
from palaver.config.settings import Settings
from palaver.server import Server
from palaver.web.listener import listening
from palaver_plugins.engines.openai_wire import request_counts

pytestmark = [pytest.mark.live, pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

SLOT_FREE_SECONDS = 1.0
CONTEXT_TOKENS = 40_000  # the reply is long enough to run until it is stopped
Tree = dict[str, Any]  # Any: TOML values


@dataclasses.dataclass(frozen=True, slots=True)
class Deployment:
    """A server. ``running_count`` returns vLLM's own count of requests; ``other_settings`` are the
    settings of a second replica, on which the turn does not run."""

    server: Server
    address: str
    session: aiohttp.ClientSession
    running_count: Callable[[], Awaitable[int]]
    other_settings: Settings

    @asynccontextmanager
    async def open_websocket(self, thread: str) -> AsyncIterator[WebSocketClient]:
        async with self.session.ws_connect(f"{self.address}/ws") as socket:
            client = WebSocketClient(socket)
            await client.hello(thread)
            yield client

    async def stop(self, thread: str, address: str = "", **body: str) -> Frame:
        """Stop a turn over HTTP and return the answer."""
        url = f"{address or self.address}/v1/conversations/{thread}/stop?person=ada"
        async with self.session.post(url, json=body) as response:
            assert response.status == 200, await response.text()
            answer: Frame = await response.json()
            return answer

    async def wait_generating(self) -> None:
        """Wait until the engine runs one request."""

        async def is_generating() -> bool:
            return await self.running_count() == 1

        await wait_until(is_generating)

    async def wait_idle(self) -> None:
        """Wait until the engine runs no request. Raises `TimeoutError`."""

        async def is_idle() -> bool:
            return await self.running_count() == 0

        await wait_until(is_idle, SLOT_FREE_SECONDS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("stop") / "walker", context=CONTEXT_TOKENS)


def settings(data: Path, redis: str, engine: Tree) -> Settings:
    return Settings.model_validate(
        {
            "server": {"data": data, "port": 0, "drain": 0},
            "engine": engine,
            "ledger": {"use": "redis", "redis": {"url": redis}},
            "routing": {"consult_engine": False},
            "skills": {"chat": {"max_tokens": CONTEXT_TOKENS, "temperature": 0}},
        }
    )


def openai(url: str) -> Tree:
    return {"use": "openai", "openai": {"urls": [url]}}


@asynccontextmanager
async def listening_server(server_settings: Settings) -> AsyncIterator[tuple[Server, str]]:
    server = await asyncio.to_thread(build_server, server_settings)
    async with server, listening(server) as address:
        yield server, address.rstrip("/")


@asynccontextmanager
async def in_process(stack: AsyncExitStack, model: Path, redis: str) -> AsyncIterator[Deployment]:
    engine = {
        "model": str(model),
        "python": vllm_python(),
        "threads": 1,
        "kv_cache_memory_bytes": KV_CACHE_BYTES,
    }
    data = model.parent / "data"
    (idle,) = await stack.enter_async_context(fault_injecting_servers(hang(), card=VLLM_CARD))
    session = await stack.enter_async_context(aiohttp.ClientSession())
    replica_settings = settings(data, redis, {"use": "vllm", "vllm": engine})
    async with listening_server(replica_settings) as (server, address):

        async def running() -> int:
            return (await server.engine.stats()).running

        yield Deployment(server, address, session, running, settings(data, redis, openai(idle.url)))


@asynccontextmanager
async def serving_vllm(model: Path) -> AsyncIterator[tuple[str, Callable[[], Awaitable[int]]]]:
    """Run ``vllm serve``; yield its address, and what returns its own count of requests."""
    serve = VllmServer(model, unix=True)
    try:
        await serve.wait_until_ready()
        connector = aiohttp.UnixConnector(serve.url.removeprefix("unix://"))
        async with aiohttp.ClientSession(connector=connector) as metrics:

            async def running() -> int:
                async with metrics.get("http://localhost/metrics") as response:
                    counts = request_counts(await response.read())
                assert counts is not None
                return sum(counts)

            yield serve.url, running
    finally:
        serve.kill()


@asynccontextmanager
async def over_http(stack: AsyncExitStack, model: Path, redis: str) -> AsyncIterator[Deployment]:
    url, running = await stack.enter_async_context(serving_vllm(model))
    session = await stack.enter_async_context(aiohttp.ClientSession())
    replica_settings = settings(model.parent / "data", redis, openai(url))
    async with listening_server(replica_settings) as (server, address):
        yield Deployment(server, address, session, running, replica_settings)


DEPLOYMENTS = {"in process": in_process, "over HTTP": over_http}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=DEPLOYMENTS)
async def deployment(request: pytest.FixtureRequest, model: Path) -> AsyncIterator[Deployment]:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server())
        yield await stack.enter_async_context(DEPLOYMENTS[request.param](stack, model, redis))


@asynccontextmanager
async def generating_turn(
    deployment: Deployment, thread: str
) -> AsyncIterator[tuple[WebSocketClient, str]]:
    """Start a reply without end; yield its connection and turn after the first text."""
    async with deployment.open_websocket(thread) as client:
        turn = await client.send_message(ENDLESS_PROMPT, skill="chat")
        await client.wait_for_text(turn, " ")
        await deployment.wait_generating()
        yield client, turn


async def check_kept(
    deployment: Deployment, client: WebSocketClient, turn: str, thread: str
) -> None:
    """Check that the turn is stopped with its text, and that the conversation continues."""
    assert (await client.wait_for("finished", turn=turn))["outcome"] == "stopped"
    async with deployment.open_websocket(thread) as another:
        (reply,) = [
            entry for entry in another.frames[0]["snapshot"]["history"] if entry["turn"] == turn
        ][1:]
    assert (reply["role"], reply["outcome"]) == ("assistant", "stopped")
    assert reply["text"] == client.texts[turn] != ""
    following = await client.send_message(ENDING_PROMPT, skill="chat")
    assert (await client.wait_for("finished", turn=following))["outcome"] == "done"


async def test_a_stop_from_the_page_frees_the_slot(deployment: Deployment) -> None:
    async with generating_turn(deployment, "page") as (client, turn):
        await client.send({"type": "stop", "turn": turn})
        await deployment.wait_idle()
        assert (await client.wait_for("stopped"))["state"] == "stopping"
        await check_kept(deployment, client, turn, "page")
        await client.send({"type": "stop", "turn": turn})
        assert (await client.wait_for("stopped"))["state"] == "settled"


async def test_a_stop_over_http_frees_the_slot(deployment: Deployment) -> None:
    async with generating_turn(deployment, "api") as (client, turn):
        answers = await asyncio.gather(*(deployment.stop("api", turn=turn) for _ in range(3)))
        await deployment.wait_idle()
        assert {answer["turn"] for answer in answers} == {turn}
        assert answers[0]["state"] == "stopping"
        await check_kept(deployment, client, turn, "api")
        assert (await deployment.stop("api", turn=turn))["state"] == "settled"


async def test_a_stop_from_the_command_line_frees_the_slot(deployment: Deployment) -> None:
    async with generating_turn(deployment, "terminal") as (client, turn):
        palaver = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("palaver"),
            *("stop", "terminal", "--url", deployment.address, "--person", "ada"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(palaver.communicate(), 30)
        await deployment.wait_idle()
        assert output.decode() == f"Stopping turn {turn}.\n"
        await check_kept(deployment, client, turn, "terminal")


async def test_a_stop_at_another_replica_frees_the_slot(deployment: Deployment) -> None:
    async with generating_turn(deployment, "replica") as (client, turn):
        async with listening_server(deployment.other_settings) as (_, address):
            assert (await deployment.stop("replica", address))["state"] == "stopping"
            await deployment.wait_idle()
        await check_kept(deployment, client, turn, "replica")


async def test_a_stop_frees_no_other_slot(deployment: Deployment) -> None:
    async with (
        generating_turn(deployment, "running") as (running, turn),
        deployment.open_websocket("stopped") as stopped,
    ):
        other = await stopped.send_message(ENDLESS_PROMPT, skill="chat")
        await stopped.wait_for_text(other, " ")
        await deployment.stop("stopped")

        async def one_is_running() -> bool:
            return await deployment.running_count() == 1

        await wait_until(one_is_running, SLOT_FREE_SECONDS)
        assert (await stopped.wait_for("finished", turn=other))["outcome"] == "stopped"
        assert await deployment.running_count() == 1
        await deployment.stop("running")
        await deployment.wait_idle()
        assert (await running.wait_for("finished", turn=turn))["outcome"] == "stopped"
