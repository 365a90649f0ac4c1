"""Knowledge base ``redis``: documents in a Redis with the query engine."""

from collections.abc import Iterable

from palaver import Backend, BuildContext, KnowledgeBase, hookimpl
from palaver_plugins.knowledge.redis.settings import RedisKnowledgeSettings


def _build(settings: RedisKnowledgeSettings, build_context: BuildContext) -> KnowledgeBase:
    from palaver_plugins.knowledge.redis.store import RedisKnowledge  # loads the client

    return RedisKnowledge(settings)


@hookimpl
def palaver_register_knowledge() -> Iterable[Backend[KnowledgeBase]]:
    return [Backend(name="redis", settings=RedisKnowledgeSettings, build=_build)]
