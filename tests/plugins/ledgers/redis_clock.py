"""Redis client with the clock of a test, or with patched scripts.

``now()`` in the scripts reads the server's time; here it reads a key, which the client sets to its
own clock before it runs a script.
"""

from collections.abc import Callable, Mapping

from palaver_plugins.ledgers.redis.client import Argument, RedisClient
from palaver_plugins.ledgers.redis.connection import RedisReply
from palaver_plugins.ledgers.redis.keys import Partition
from palaver_plugins.ledgers.redis.scripts import Script, load_scripts, make_script

SERVER_TIME = """    local time = redis.call('TIME')
    step_time = time[1] * 1000 + math.floor(time[2] / 1000)
"""
TEST_TIME = """    step_time = tonumber(redis.call('GET', 'palaver:clock'))
"""


def patch_scripts(scripts: Mapping[str, Script], changes: Mapping[str, str]) -> dict[str, Script]:
    """Return the scripts with each text of ``changes`` replaced, which must be in one of them."""
    patched = dict(scripts)
    for old, new in changes.items():
        names = [name for name in patched if old in patched[name].source]
        assert names, f"no script contains {old!r}"
        for name in names:
            patched[name] = make_script(name, patched[name].source.replace(old, new))
    return patched


def client_with_clock(
    clock: Callable[[], float], changes: Mapping[str, str] | None = None
) -> type[RedisClient]:
    """Return a client class that uses ``clock`` and patches its scripts with ``changes``."""

    class ClientWithClock(RedisClient):
        sent_time = 0.0

        @staticmethod
        def load_scripts() -> dict[str, Script]:
            return patch_scripts(load_scripts(), {SERVER_TIME: TEST_TIME, **(changes or {})})

        async def run(
            self, name: str, partition: Partition, keys: tuple[str, ...], *arguments: Argument
        ) -> RedisReply:
            if clock() != self.sent_time:
                self.sent_time = clock()
                await self.command(partition, "SET", "palaver:clock", round(self.sent_time * 1000))
            return await super().run(name, partition, keys, *arguments)

    return ClientWithClock
