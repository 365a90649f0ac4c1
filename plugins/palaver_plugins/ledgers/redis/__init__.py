"""Ledger ``redis``: every conversation in one Redis (>= 7.0), for any number of servers.

`ledger` maps the protocol to scripts, ``lua/`` holds the scripts, `keys` says where everything
lives, `store` and `link` speak with the server, `checks` says what a given server promises.
"""

from collections.abc import Sequence

from palaver.hooks import Backend, Site, hookimpl
from palaver.ledger import Ledger
from palaver_plugins.ledgers.redis.ledger import RedisLedger
from palaver_plugins.ledgers.redis.settings import RedisLedgerSettings, RedisUrl

__all__ = ["RedisLedger", "RedisLedgerSettings", "RedisUrl"]


def _build(settings: RedisLedgerSettings, site: Site) -> Ledger:
    return RedisLedger(settings)


@hookimpl
def palaver_register_ledgers() -> Sequence[Backend[Ledger]]:
    return [Backend(name="redis", settings=RedisLedgerSettings, build=_build)]
