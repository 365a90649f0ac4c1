"""Knowledge base ``qdrant``: documents of all servers in one Qdrant.

It needs qdrant-client, which `pip install 'palaver-server[qdrant]'` brings.
"""

from collections.abc import Iterable

from palaver import (
    Backend,
    BuildContext,
    KnowledgeBase,
    hookimpl,
)
from palaver_plugins.knowledge.qdrant.settings import QdrantSettings
from palaver_plugins.optional_packages import import_packages

NAME = "qdrant"


def _build(settings: QdrantSettings, build_context: BuildContext) -> KnowledgeBase:
    import_packages("knowledge base", NAME, "qdrant_client")
    from palaver_plugins.knowledge.qdrant.store import QdrantKnowledge  # needs the library

    return QdrantKnowledge(settings)


@hookimpl
def palaver_register_knowledge() -> Iterable[Backend[KnowledgeBase]]:
    return [Backend(name=NAME, settings=QdrantSettings, build=_build)]
