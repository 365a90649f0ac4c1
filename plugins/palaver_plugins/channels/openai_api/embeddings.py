"""Embeddings: vectors of texts, from an engine with the capability ``embed``."""

import array
import asyncio
import base64
import sys
from collections.abc import Iterable, Sequence

import msgspec
from aiohttp import web

from palaver import ChatMessage, described, requires
from palaver_plugins.channels.openai_api.errors import (
    InvalidParameter,
    UnsupportedParameter,
    error_response,
    json_response,
)
from palaver_plugins.channels.openai_api.models import AUTO, Models
from palaver_plugins.channels.openai_api.operations import EMBED
from palaver_plugins.channels.openai_api.reading import EmbeddingRequest, decode_request

MAX_TEXTS = 256
MAX_TOGETHER = 2
"""Requests whose texts are embedded at once: embeddings wait in no queue of the engine."""


def read_texts(body: EmbeddingRequest) -> list[str]:
    """Return the texts of a request. Raises `InvalidParameter`."""
    inputs = (body.input,) if isinstance(body.input, str) else body.input
    texts = [each for each in inputs if isinstance(each, str)]
    if len(texts) != len(inputs):
        raise UnsupportedParameter(
            "input", "tokens are not supported, as they depend on the model; send texts"
        )
    if not 1 <= len(texts) <= MAX_TEXTS or not all(texts):
        raise InvalidParameter("input", f"expected 1 to {MAX_TEXTS} texts, none of them empty")
    return texts


_decode = msgspec.json.Decoder(EmbeddingRequest).decode


class EmbeddingsHandler:
    """The route of embeddings."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._slots = asyncio.Semaphore(MAX_TOGETHER)

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.post("/v1/embeddings", self._embed),)

    @requires("talk", error_response=error_response)
    @described(EMBED)
    async def _embed(self, request: web.Request) -> web.StreamResponse:
        body = decode_request(_decode, await request.read())
        texts = read_texts(body)
        self._check_model(body.model)
        async with self._slots:
            vectors = await self._models.service.embed(texts)
            tokens = await self._models.service.count_tokens(
                [ChatMessage("user", it) for it in texts]
            )
        _check_dimensions(vectors[0], body.dimensions)
        data = [
            {"object": "embedding", "index": index, "embedding": _encode(vector, body)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_response({"object": "list", "data": data, "model": body.model, "usage": usage})

    def _check_model(self, model: str) -> None:
        """Raise `NoSuchModel` and `UnsupportedParameter`."""
        self._models.check(model)
        if model != AUTO and not self._models.is_engine(model):
            raise UnsupportedParameter(
                "model", f"{model[:60]!r} is a skill, which makes no embeddings"
            )
        engine, other = self._models.service.engine_info, self._models.chosen(model)
        if other or "embed" not in engine.capabilities:
            name = other or engine.model
            raise UnsupportedParameter("model", f"the engine's model {name!r} makes no embeddings")


def _check_dimensions(vector: Sequence[float], dimensions: int | None) -> None:
    """Refuse other dimensions than those of the model: cut, its vectors may mean nothing."""
    if dimensions not in (None, len(vector)):
        raise UnsupportedParameter(
            "dimensions", f"the model's vectors have {len(vector)} dimensions; leave it out"
        )


def _encode(vector: Sequence[float], body: EmbeddingRequest) -> Sequence[float] | str:
    if body.encoding_format != "base64":
        return vector
    packed = array.array("f", vector)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()
