"""Permissions of the user in ``config/redis.conf``: those that the ledger needs, and no others.

The contract tests run as that user. These tests check which permissions it lacks, and the messages
when more are missing.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError
from tests.plugins.ledgers.redis_helpers import (
    loss_limitations,
    make_message,
    needs_redis,
    open_ledger,
    raw_client,
)
from tests.plugins.ledgers.redis_server import (
    CONFIG_FILE,
    RedisServer,
    run_redis,
    write_user_config,
)

from palaver.errors import ConfigurationError
from palaver_plugins.ledgers.redis import permissions
from palaver_plugins.ledgers.redis.scripts import load_scripts

pytestmark = needs_redis


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with run_redis(include=write_user_config(tmp_path)) as made:
        yield made


async def change(server: RedisServer, *rules: str) -> None:
    """Change the permissions of the ledger's user."""
    async with raw_client(server.url) as admin:
        await admin.execute_command("ACL", "SETUSER", "palaver", *rules)


def test_the_user_may_run_exactly_what_the_ledger_runs() -> None:
    (line,) = re.findall(r"^user palaver .*$", CONFIG_FILE.read_text(), re.MULTILINE)
    words = line.split()[3:]
    assert words[:5] == ["resetkeys", "resetchannels", "-@all", "~palaver:*", "&palaver:*"]
    needed = sorted(permissions.required_commands(load_scripts().values()))
    assert words[5:] == [f"+{name}" for name in needed]


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL",
        "KEYS *",
        "CONFIG SET appendonly no",
        "ACL LIST",
        "SHUTDOWN NOSAVE",
        "CLIENT LIST",
        "GET other:1",
        "HGETALL other:1",
        "PUBLISH other:1 x",
        "SUBSCRIBE other:1",
    ],
)
async def test_nothing_else_is_permitted(server: RedisServer, command: str) -> None:
    async with raw_client(server.url_for("palaver")) as client:
        with pytest.raises(NoPermissionError):
            await client.execute_command(*command.split())
        await client.execute_command("HGET", "palaver:{p00}:state", "epoch")


async def test_every_missing_permission_is_named_at_the_start(server: RedisServer) -> None:
    scripts = await asyncio.to_thread(load_scripts)
    needed = permissions.required_commands(scripts.values()) - permissions.OPTIONAL - {"ping"}
    url = server.url_for("palaver")
    for name in sorted(needed):
        await change(server, f"-{name}")
        with pytest.raises(ConfigurationError) as refusal:
            async with open_ledger(url):
                pass
        assert re.search(rf"[+']{re.escape(name)}\b", str(refusal.value)), name
        await change(server, f"+{name}")
    async with open_ledger(url) as ledger:
        await ledger.accept(make_message())


async def test_permissions_that_only_some_deployments_need_are_required_there(
    server: RedisServer,
) -> None:
    url = server.url_for("palaver")
    await change(server, "-wait", "-asking", "-select")
    async with open_ledger(url) as ledger:
        await ledger.accept(make_message())
    with pytest.raises(ConfigurationError, match=r"\+wait"):
        async with open_ledger(url, replicas=1):
            pass
    with pytest.raises(ConfigurationError, match="select"):
        async with open_ledger(url.replace("/0", "/3")):
            pass


@pytest.mark.parametrize("rules", [("resetkeys",), ("resetchannels",)])
async def test_the_pattern_of_keys_and_channels_is_named(
    server: RedisServer, rules: tuple[str, ...]
) -> None:
    await change(server, *rules)
    with pytest.raises(ConfigurationError, match=r"~palaver:\* and &palaver:\*.*config/redis.conf"):
        async with open_ledger(server.url_for("palaver")):
            pass


async def test_a_user_with_more_permissions_is_reported(server: RedisServer) -> None:
    async with open_ledger(server.url_for("palaver")) as ledger:
        guarantee = await ledger.guarantee()
        assert guarantee.limitations == ()
        assert (
            "The user 'palaver' has the permissions that a ledger needs, and no dangerous ones."
            in guarantee.promises
        )
    async with open_ledger(server.url) as ledger:
        guarantee = await ledger.guarantee()
        (sentence,) = guarantee.limitations
        assert (
            "'admin' has more permissions than a ledger needs, such as ACL SETUSER, CONFIG SET"
            in sentence
        )
        assert loss_limitations(guarantee) == []
