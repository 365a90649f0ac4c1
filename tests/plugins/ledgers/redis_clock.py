"""A Redis ledger whose clock is the test's, and one whose scripts a test has changed.

In its scripts stands ``now()``, which asks the server for the time; here it asks a key, in which a
process writes its own clock before each script that it runs.
"""

from collections.abc import Callable, Mapping

from palaver_plugins.ledgers.redis.client import Argument, RedisClient
from palaver_plugins.ledgers.redis.connection import RedisReply
from palaver_plugins.ledgers.redis.keys import Partition
from palaver_plugins.ledgers.redis.scripts import Script, load_scripts, make_script

SERVERS_TIME = """    local time = redis.call('TIME')
    step_time = time[1] * 1000 + math.floor(time[2] / 1000)
"""
TESTS_TIME = """    step_time = tonumber(redis.call('GET', 'palaver:clock'))
"""


def patch_scripts(scripts: Mapping[str, Script], changes: Mapping[str, str]) -> dict[str, Script]:
    """The scripts with each text of ``changes`` replaced, which must be in one of them."""
    made = dict(scripts)
    for old, new in changes.items():
        names = [name for name in made if old in made[name].source]
        assert names, f"no script holds {old!r} any more"
        for name in names:
            made[name] = make_script(name, made[name].source.replace(old, new))
    return made


def client_with_clock(
    clock: Callable[[], float], changes: Mapping[str, str] | None = None
) -> type[RedisClient]:
    """A store under ``clock``; ``changes`` are made to its scripts."""

    class Clocked(RedisClient):
        told = 0.0

        @staticmethod
        def load_scripts() -> dict[str, Script]:
            return patch_scripts(load_scripts(), {SERVERS_TIME: TESTS_TIME, **(changes or {})})

        async def run(
            self, name: str, partition: Partition, keys: tuple[str, ...], *arguments: Argument
        ) -> RedisReply:
            if clock() != self.told:
                self.told = clock()
                await self.command(partition, "SET", "palaver:clock", round(self.told * 1000))
            return await super().run(name, partition, keys, *arguments)

    return Clocked
