"""Embeddings, with OpenAI's own client."""

import math
from collections.abc import Sequence
from typing import Any

import numpy
import openai
import pytest
from openai import AsyncOpenAI
from tests.plugins.channels.openai_support import MODEL, NamedEngine, open_openai_server

from palaver.engine import EngineInfo

pytestmark = pytest.mark.slow


class EmbeddingEngine(NamedEngine):
    """An engine whose vectors tell the length of the text."""

    async def start(self) -> EngineInfo:
        info = await super().start()
        self._info = EngineInfo(
            model=info.model,
            context_window=info.context_window,
            capabilities=info.capabilities | {"embed"},
            slots=info.slots,
        )
        return self._info

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[math.cos(len(text)), math.sin(len(text))] for text in texts]


async def test_vectors_come_as_numbers_and_in_base64() -> None:
    async with (
        open_openai_server(engine=EmbeddingEngine()) as (_, strict),
        AsyncOpenAI(base_url=strict.base_url, api_key="none", max_retries=0) as client,
    ):  # the strict client asks for base64, and does not accept it
        for format in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
            fields: Any = format
            found = await client.embeddings.create(model=MODEL, input=["a", "bcd"], **fields)
            vectors: Any = [item.embedding for item in found.data]
            if fields.get("encoding_format") == "base64":
                assert isinstance(vectors[0], str)
                continue
            assert [item.index for item in found.data] == [0, 1]
            expected = [[math.cos(1), math.sin(1)], [math.cos(3), math.sin(3)]]
            assert numpy.allclose(vectors, expected, atol=1e-6)
            assert found.usage.prompt_tokens > 0


async def test_a_single_text_is_one_vector() -> None:
    async with open_openai_server(engine=EmbeddingEngine()) as (_, client):
        found = await client.embeddings.create(
            model="auto", input="a", dimensions=2, encoding_format="float"
        )
    assert len(found.data) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a"] * 257}, "input"),
        ({"dimensions": 1}, "dimensions"),
        ({"model": "parrot"}, "model"),
        ({"encoding_format": "int8"}, "encoding_format"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_by_name(fields: Any, param: str) -> None:
    async with open_openai_server(engine=EmbeddingEngine()) as (_, client):
        with pytest.raises(openai.BadRequestError) as raised:
            await client.embeddings.create(**{"model": MODEL, "input": "a", **fields})
    assert raised.value.param == param


async def test_an_engine_without_embeddings_says_so() -> None:
    async with open_openai_server("x") as (_, client):
        with pytest.raises(openai.BadRequestError, match="makes no embeddings"):
            await client.embeddings.create(model=MODEL, input="a")
