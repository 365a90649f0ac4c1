"""A stop frees the engine's slot: the whole server, with vLLM in process and over HTTP.

What counts is vLLM's own number of running requests, which must be zero again within a second.
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

SLOT_FREE = 1.0  # seconds, by the server's own promise
CONTEXT = 40_000  # tokens: a reply that fills half of it lasts until it is stopped
Tree = dict[str, Any]  # Any: TOML values


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A server that listens. ``running`` is vLLM's own count; ``others`` are the settings of
    another replica, which the turn does not run on."""

    server: Server
    address: str
    session: aiohttp.ClientSession
    running: Callable[[], Awaitable[int]]
    others: Settings

    @asynccontextmanager
    async def open_websocket(self, thread: str) -> AsyncIterator[WebSocketClient]:
        async with self.session.ws_connect(f"{self.address}/ws") as socket:
            client = WebSocketClient(socket)
            await client.hello(thread)
            yield client

    async def stop(self, thread: str, address: str = "", **body: str) -> Frame:
        """Stop over HTTP."""
        url = f"{address or self.address}/v1/conversations/{thread}/stop?person=ada"
        async with self.session.post(url, json=body) as response:
            assert response.status == 200, await response.text()
            answer: Frame = await response.json()
            return answer

    async def is_talking(self) -> None:
        """The engine is at work."""

        async def talks() -> bool:
            return await self.running() == 1

        await wait_until(talks)

    async def is_idle(self) -> None:
        """Return when the engine has a free slot again; `TimeoutError` when that takes long."""

        async def idles() -> bool:
            return await self.running() == 0

        await wait_until(idles, SLOT_FREE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("stop") / "walker", context=CONTEXT)


def settings(data: Path, redis: str, engine: Tree) -> Settings:
    return Settings.model_validate(
        {
            "server": {"data": data, "port": 0, "drain": 0},
            "engine": engine,
            "ledger": {"use": "redis", "redis": {"url": redis}},
            "routing": {"consult_engine": False},
            "skills": {"chat": {"max_tokens": CONTEXT, "temperature": 0}},
        }
    )


def openai(url: str) -> Tree:
    return {"use": "openai", "openai": {"urls": [url]}}


@asynccontextmanager
async def listens(chosen: Settings) -> AsyncIterator[tuple[Server, str]]:
    server = await asyncio.to_thread(build_server, chosen)
    async with server, listening(server) as address:
        yield server, address.rstrip("/")


@asynccontextmanager
async def in_process(stack: AsyncExitStack, model: Path, redis: str) -> AsyncIterator[Place]:
    own = {
        "model": str(model),
        "python": vllm_python(),
        "threads": 1,
        "kv_cache_memory_bytes": KV_CACHE_BYTES,
    }
    data = model.parent / "data"
    (idle,) = await stack.enter_async_context(fault_injecting_servers(hang(), card=VLLM_CARD))
    session = await stack.enter_async_context(aiohttp.ClientSession())
    chosen = settings(data, redis, {"use": "vllm", "vllm": own})
    async with listens(chosen) as (server, address):

        async def running() -> int:
            return (await server.engine.stats()).running

        yield Place(server, address, session, running, settings(data, redis, openai(idle.url)))


@asynccontextmanager
async def over_http(stack: AsyncExitStack, model: Path, redis: str) -> AsyncIterator[Place]:
    serve = VllmServer(model, unix=True)
    stack.callback(serve.kill)
    await serve.wait_until_ready()
    session = await stack.enter_async_context(aiohttp.ClientSession())
    connector = aiohttp.UnixConnector(serve.url.removeprefix("unix://"))
    metrics = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))

    async def running() -> int:
        async with metrics.get("http://localhost/metrics") as response:
            counts = request_counts(await response.read())
        assert counts is not None
        return sum(counts)

    chosen = settings(model.parent / "data", redis, openai(serve.url))
    async with listens(chosen) as (server, address):
        yield Place(server, address, session, running, chosen)


PLACES = {"in process": in_process, "over HTTP": over_http}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=PLACES)
async def place(request: pytest.FixtureRequest, model: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server())
        yield await stack.enter_async_context(PLACES[request.param](stack, model, redis))


@asynccontextmanager
async def talking(place: Place, thread: str) -> AsyncIterator[tuple[WebSocketClient, str]]:
    """A person who has heard the beginning of a reply without end, and its turn."""
    async with place.open_websocket(thread) as client:
        turn = await client.send_message(ENDLESS_PROMPT, skill="chat")
        await client.wait_for_text(turn, " ")
        await place.is_talking()
        yield client, turn


async def kept(place: Place, client: WebSocketClient, turn: str, thread: str) -> None:
    """The turn ended as stopped, with what was said; the conversation goes on."""
    assert (await client.wait_for("finished", turn=turn))["outcome"] == "stopped"
    async with place.open_websocket(thread) as another:
        (line,) = [it for it in another.frames[0]["snapshot"]["history"] if it["turn"] == turn][1:]
    assert (line["role"], line["outcome"]) == ("assistant", "stopped")
    assert line["text"] == client.texts[turn] != ""
    following = await client.send_message(ENDING_PROMPT, skill="chat")
    assert (await client.wait_for("finished", turn=following))["outcome"] == "done"


async def test_a_stop_from_the_page_frees_the_slot(place: Place) -> None:
    async with talking(place, "page") as (client, turn):
        await client.send({"type": "stop", "turn": turn})
        await place.is_idle()
        assert (await client.wait_for("stopped"))["state"] == "stopping"
        await kept(place, client, turn, "page")
        await client.send({"type": "stop", "turn": turn})
        assert (await client.wait_for("stopped"))["state"] == "settled"


async def test_a_stop_over_http_frees_the_slot(place: Place) -> None:
    async with talking(place, "api") as (client, turn):
        answers = await asyncio.gather(*(place.stop("api", turn=turn) for _ in range(3)))
        await place.is_idle()
        assert {it["turn"] for it in answers} == {turn}
        assert answers[0]["state"] == "stopping"
        await kept(place, client, turn, "api")
        assert (await place.stop("api", turn=turn))["state"] == "settled"


async def test_a_stop_from_the_command_line_frees_the_slot(place: Place) -> None:
    async with talking(place, "terminal") as (client, turn):
        palaver = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("palaver"),
            *("stop", "terminal", "--url", place.address, "--person", "ada"),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await asyncio.wait_for(palaver.communicate(), 30)
        await place.is_idle()
        assert said.decode() == f"Stopping turn {turn}.\n"
        await kept(place, client, turn, "terminal")


async def test_a_stop_at_another_replica_frees_the_slot(place: Place) -> None:
    async with talking(place, "elsewhere") as (client, turn):
        async with listens(place.others) as (_, address):
            assert (await place.stop("elsewhere", address))["state"] == "stopping"
            await place.is_idle()
        await kept(place, client, turn, "elsewhere")


async def test_a_stop_frees_no_other_slot(place: Place) -> None:
    async with talking(place, "steady") as (steady, turn), place.open_websocket("fickle") as fickle:
        other = await fickle.send_message(ENDLESS_PROMPT, skill="chat")
        await fickle.wait_for_text(other, " ")
        await place.stop("fickle")

        async def one_is_left() -> bool:
            return await place.running() == 1

        await wait_until(one_is_left, SLOT_FREE)
        assert (await fickle.wait_for("finished", turn=other))["outcome"] == "stopped"
        assert await place.running() == 1
        await place.stop("steady")
        await place.is_idle()
        assert (await steady.wait_for("finished", turn=turn))["outcome"] == "stopped"
