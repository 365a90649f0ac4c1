"""The examples of docs/channels/webhooks.md work as they stand."""

import asyncio
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
from tests.ports import free_port
from tests.server.web.live_server import open_live_server

from palaver_plugins.channels.webhooks.channel import WebhookChannel
from palaver_plugins.channels.webhooks.deliveries import RETRY_SECONDS
from palaver_plugins.channels.webhooks.settings import Settings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "channels" / "webhooks.md").read_text("utf-8")


def example(name: str) -> str:
    (code,) = re.findall(rf"<!-- {name} -->\n\n```\w+\n(.*?)\n```", PAGE, re.DOTALL)
    return str(code)


async def run(program: str, *arguments: str, **variables: str) -> str:
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(10):
        output, _ = await process.communicate()
    return output.decode()


async def test_the_round_trip_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = (await run("bash", "-c", example("secret") + '\nprintf %s "$ORDERS_SECRET"')).strip()
    monkeypatch.setenv("ORDERS_SECRET", secret)
    port = str(free_port())
    receiver = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", example("receiver").replace("8000", port)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert receiver.stdout is not None
    assert receiver.stderr is not None
    try:
        tree = tomllib.loads(example("settings").replace(":8000/", f":{port}/"))
        assert tree["channels"]["enabled"] == ["webhooks"]
        channel = WebhookChannel(Settings.model_validate(tree["channels"]["webhooks"]))
        assert await channel.check() == []
        async with open_live_server(channels=(channel,)) as live:
            sending = example("send").replace("http://127.0.0.1:7252", live.address)
            answer = await run("bash", "-euo", "pipefail", "-c", sending)
            assert re.fullmatch(r'{"state":"accepted","turn":"\w+","duplicate":false}', answer)
            async with asyncio.timeout(20):
                assert await receiver.stdout.readline() == b"Where is my order? \n"
            assert b'"POST / HTTP/1.1" 204' in await receiver.stderr.readline()
    finally:
        receiver.kill()
        await receiver.wait()


async def test_the_receiver_of_the_page_refuses_a_wrong_secret() -> None:
    port = str(free_port())
    receiver = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", example("receiver").replace("8000", port)),
        env={**os.environ, "ORDERS_SECRET": "whsec_" + "A" * 40},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert receiver.stderr is not None
    try:
        address = f"--retry 20 --retry-connrefused http://127.0.0.1:{port}/"
        sending = example("send").replace("http://127.0.0.1:7252/webhooks/orders", address)
        await run("bash", "-c", sending, ORDERS_SECRET="whsec_" + "B" * 40)
        async with asyncio.timeout(10):
            while b" 401 " not in await receiver.stderr.readline():
                pass
    finally:
        receiver.kill()
        await receiver.wait()


def test_the_page_tells_the_pauses() -> None:
    words = "5 s, 30 s, 2 min, 10 min, 30 min, 1, 2, 4, 8 and five times 12 hours"
    assert words in PAGE
    minutes, hours = (120, 600, 1_800), (3_600, 7_200, 14_400, 28_800)
    assert RETRY_SECONDS == (5, 30, *minutes, *hours, *(43_200,) * 5)


def test_the_receiver_is_short() -> None:
    assert len(example("receiver").splitlines()) <= 24
