"""Ledger ``redis``: conversations in Redis (>= 7.0), for any number of servers.

`ledger` maps the protocol to scripts, ``lua/`` contains the scripts, `keys` the key space. `client`
sends scripts to the nodes of `node_pool`; a `node_client` keeps one `connection`, which `handshake`
opens. `checks`, `permissions` and `guarantee` describe the server.
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
