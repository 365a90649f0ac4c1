"""Embedder: turns texts into vectors, for the routing and for the search by meaning.

Implementations are plugins, which pass the suite in ``tests/plugins/embedders``, and the engines
that can embed. The server sees them through `Embeddings`, which adds a cache.
"""

import asyncio
import dataclasses
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import numpy as np

from palaver.config.settings import Settings
from palaver.engine import Engine
from palaver.errors import (
    ConfigurationError,
    EngineError,
    EngineUnavailable,
    contained,
    describe_error,
    part_name,
)

log = logging.getLogger(__name__)

CACHED_VECTORS = 4_096
"""Vectors in the cache; one of 512 dimensions takes about 16 KB."""
BATCH_SIZE = 32
"""Texts of one call of an embedder."""
CONCURRENT_CALLS = 2
"""Calls of an embedder at once; others wait. One long list of texts so delays no single text."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderInfo:
    """Description of a started embedder. ``model`` changes whenever the vectors do."""

    model: str


class Embedder(Protocol):
    """One embedding model. All methods run in the server's event loop, and do not block it."""

    async def start(self) -> EmbedderInfo:
        """Open the embedder; it may load its model with the first text. Raises
        `ConfigurationError` when it cannot work."""

    async def close(self) -> None:
        """Release all resources. Idempotent; `start` may be called again."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector of unit length per text, in order. The texts are valid Unicode. A text
        that is too long is cut; any text has a vector, the empty one too. Raises `EngineError`."""


class EngineEmbedder:
    """Embedder of an engine that only embeds here: another one than ``engine.use``.

    While its server cannot be reached, each text tries again.
    """

    def __init__(self, name: str, engine: Engine, model: str) -> None:
        self._name, self._engine, self._model = name, engine, model
        self._opening = asyncio.Lock()
        self._is_open = False

    def wrap(self, wrapper: Callable[[Engine], Engine]) -> None:
        """Put the engine, which is not started yet, into another one."""
        self._engine = wrapper(self._engine)

    async def start(self) -> EmbedderInfo:
        try:
            await self._open()
        except EngineUnavailable as error:
            log.warning("no embeddings yet: %s", describe_error(error))
        return EmbedderInfo(model=self._model)

    async def _open(self) -> None:
        async with self._opening:
            if self._is_open:
                return
            info = await self._engine.start()
            if "embed" not in info.capabilities:
                await self._engine.close()
                raise cannot_embed(self._name)
            self._is_open = True

    async def close(self) -> None:
        self._is_open = False
        await self._engine.close()

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if not self._is_open:
            await self._open()
        return await self._engine.embed(texts)


def engine_model(settings: Settings, engine: str) -> str:
    """Return what tells the vectors of an engine's embedding models apart."""
    return f"{engine} {settings.engine.of(engine).get('embedding_model', '')}".strip()


def cannot_embed(engine: str) -> ConfigurationError:
    return ConfigurationError(
        f"embedding.use names the engine {engine!r}, which does not embed as it is configured; "
        "see docs/embeddings.md"
    )


class Embeddings:
    """Vectors of texts, from an embedder's ``embed`` or from a cache by the texts' hashes."""

    def __init__(
        self, model: str, embed: Callable[[Sequence[str]], Awaitable[list[list[float]]]]
    ) -> None:
        self.model = model
        self._embed = embed
        self._cache: OrderedDict[bytes, list[float]] = OrderedDict()
        self._slots = asyncio.Semaphore(CONCURRENT_CALLS)

    async def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector of unit length per text. Raises `EngineError`."""
        keys = [_digest(text) for text in texts]
        found = {key: self._cache[key] for key in keys if key in self._cache}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        wanted = list(missing.items())
        for start in range(0, len(wanted), BATCH_SIZE):
            batch = wanted[start : start + BATCH_SIZE]
            async with self._slots:
                vectors = await self._embed([_make_valid(text) for _, text in batch])
            _check_vectors(vectors, len(batch))
            computed = {key: vector for (key, _), vector in zip(batch, vectors, strict=True)}
            self._remember(computed)  # at once: the caller may be cancelled before the last batch
            found |= computed
        self._remember({key: found[key] for key in keys})
        return [found[key] for key in keys]

    def _remember(self, vectors: dict[bytes, list[float]]) -> None:
        for key, vector in vectors.items():
            self._cache[key] = vector
            self._cache.move_to_end(key)
        while len(self._cache) > CACHED_VECTORS:
            self._cache.popitem(last=False)


async def start_embedder(embedder: Embedder, *, required: bool) -> Embeddings | None:
    """Start an embedder, and return its vectors. Not ``required``: None if it cannot work. Raises
    `ConfigurationError`."""
    try:
        with contained(part_name("embedder", embedder)):
            started = await embedder.start()
    except ConfigurationError as error:
        if required:
            raise
        log.info("routing and searching by words alone: %s", describe_error(error))
        return None
    return Embeddings(started.model, embedder.embed)


def _make_valid(text: str) -> str:
    """Replace halves of surrogate pairs, which no tokenizer takes."""
    return text.encode(errors="replace").decode()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _check_vectors(vectors: Sequence[Sequence[float]], count: int) -> None:
    """Raise `EngineError` for what cannot be the vectors of ``count`` texts."""
    if len(vectors) != count:
        raise EngineError(f"{count} texts got {len(vectors)} vectors")
    if len({len(vector) for vector in vectors}) != 1 or not np.isfinite(vectors).all():
        raise EngineError("the vectors are of different lengths, or not of numbers")
