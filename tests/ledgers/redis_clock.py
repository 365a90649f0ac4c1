"""A Redis ledger whose clock is the test's, and one whose scripts a test has changed.

In its scripts stands ``now()``, which asks the server for the time; here it asks a key, in which a
process writes its own clock before each script that it runs.
"""

from collections.abc import Callable, Mapping

from palaver_plugins.ledgers.redis.keys import Partition
from palaver_plugins.ledgers.redis.scripts import Script, load_scripts, make_script
from palaver_plugins.ledgers.redis.store import Store, Word
from palaver_plugins.ledgers.redis.wire import Reply

SERVERS_TIME = """  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
"""
TESTS_TIME = """  return tonumber(redis.call('GET', 'palaver:clock'))
"""


def changed(
    changes: Mapping[str, str], only: str = "", *, base: Mapping[str, Script] | None = None
) -> dict[str, Script]:
    """The scripts (one of them) with each text of ``changes`` replaced, which must be there."""
    scripts = dict(base or load_scripts())
    for old, new in changes.items():
        names = [name for name in scripts if old in scripts[name].source and only in ("", name)]
        assert names, f"no script holds {old!r} any more"
        for name in names:
            scripts[name] = make_script(name, scripts[name].source.replace(old, new))
    return scripts


def clocked(
    clock: Callable[[], float], changes: Mapping[str, str] | None = None, only: str = ""
) -> type[Store]:
    """A store under ``clock``; ``changes`` are made to the scripts, or to one ``only``."""

    class Clocked(Store):
        told = 0.0

        @staticmethod
        def load() -> dict[str, Script]:
            base = changed({SERVERS_TIME: TESTS_TIME})
            return changed(changes or {}, only, base=base)

        async def run(
            self, name: str, partition: Partition, keys: tuple[str, ...], *arguments: Word
        ) -> Reply:
            if clock() != self.told:
                self.told = clock()
                await self.command(partition, "SET", "palaver:clock", round(self.told * 1000))
            return await super().run(name, partition, keys, *arguments)

    return Clocked
