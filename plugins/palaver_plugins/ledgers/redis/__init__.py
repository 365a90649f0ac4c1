"""Ledger ``redis``: every conversation in one Redis (>= 7.0), for any number of servers.

`ledger` maps the protocol to scripts, ``lua/`` holds the scripts, `keys` says where everything
lives, `store` and `link` speak with the server, `checks` says what a given server promises.
"""

from collections.abc import Sequence

from palaver import Backend, BuildContext, Ledger, hookimpl
from palaver_plugins.ledgers.redis.ledger import RedisLedger
from palaver_plugins.ledgers.redis.settings import RedisLedgerSettings, RedisUrl

__all__ = ["RedisLedger", "RedisLedgerSettings", "RedisUrl"]


def _build(settings: RedisLedgerSettings, build_context: BuildContext) -> Ledger:
    return RedisLedger(settings)


@hookimpl
def palaver_register_ledgers() -> Sequence[Backend[Ledger]]:
    return [Backend(name="redis", settings=RedisLedgerSettings, build=_build)]
