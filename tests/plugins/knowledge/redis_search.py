"""A private Redis with the query engine, which Debian's redis-server has not."""

import os
from pathlib import Path

import pytest
from tests.plugins.ledgers.redis_server import RedisServer

FOLDER = os.environ.get("PALAVER_TEST_REDIS_STACK", "")
"""Folder with ``bin/redis-server`` and ``lib/redisearch.so``, see docs/testing.md."""
needs_query_engine = pytest.mark.skipif(
    not FOLDER, reason="PALAVER_TEST_REDIS_STACK names no folder of Redis Stack"
)


class SearchServer(RedisServer):
    """One server with the query engine. It loses nothing when it is killed."""

    def _command(self) -> list[str]:
        folder = Path(FOLDER)
        _, *words = super()._command()
        module = str(folder / "lib" / "redisearch.so")
        return [str(folder / "bin" / "redis-server"), *words, "--loadmodule", module]
