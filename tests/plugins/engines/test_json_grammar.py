"""Grammars of compact JSON in xgrammar's notation."""

import asyncio
import json
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
from tests.plugins.engines.conftest import openvino_engine
from tests.plugins.engines.support import TextCollector, request

from palaver.engine import Engine, JsonSchema
from palaver_plugins.engines.json_grammar import build_grammar


class Part(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=6)
    parts: list["Part"] = pydantic.Field(default=[], max_length=1)


class Order(pydantic.BaseModel):
    """Most kinds of fields of pydantic, in one model."""

    kind: Literal["new", 'the "old" one', "größer"]
    count: int = pydantic.Field(ge=1, le=20)
    price: float | None = None
    flags: tuple[bool, ...] = pydantic.Field(default=(), max_length=3)
    part: Part
    code: str = pydantic.Field(min_length=2, max_length=4)
    note: str | None = pydantic.Field(default=None, max_length=5)


@pytest.mark.openvino
@pytest.mark.live
async def test_the_output_is_valid_for_the_pydantic_model(model: Path) -> None:
    schema = Order.model_json_schema()
    assert build_grammar(schema)
    async with openvino_engine(model) as engine:
        await engine.start()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(sample(engine, schema, seed)) for seed in range(12)]
            for task in tasks:
                text = task.result()
                Order.model_validate_json(text)
                spaced = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
                assert len(text) >= len(spaced)
        finally:
            await engine.close()


async def sample(engine: Engine, schema: dict[str, Any], seed: int) -> str:
    options = {"structure": JsonSchema(schema), "seed": seed, "temperature": 1.0}
    generation = await engine.generate(
        request("An order", max_tokens=600, **options), TextCollector()
    )
    assert generation.finish_reason == "stop"
    return generation.text


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^a+$"},
        {"type": "integer", "minimum": 5},
        {"type": "number", "maximum": 1},
        {"oneOf": [{"type": "null"}, {"type": "string"}]},
        {"type": "array", "prefixItems": [{"type": "null"}]},
        {"$ref": "https://example.com/schema"},
        {"type": "no such type"},
        {"enum": []},
        {"type": "object", "required": ["b"], "properties": {"a": {"type": "null"}}},
        False,
    ],
    ids=str,
)
def test_the_rest_of_json_schema_is_left_to_xgrammar(schema: dict[str, Any]) -> None:
    assert build_grammar(schema) is None


def test_optional_members_may_be_left_out() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null"}, "b": {"const": 1}}}
    rules = dict(
        line.split(" ::= ") for line in str(build_grammar(schema)).splitlines() if "members" in line
    )
    assert rules.pop("root") == '"{" members0_0_first "}"'
    assert rules["members0_0_first"] == '"\\"a\\"" ":" null members0_1 | members0_1_first'
    assert rules["members0_1"] == '"," "\\"b\\"" ":" "1" members0_2 | members0_2'
