"""JSON schemas of others: what they refuse, and what they must not do."""

from pathlib import Path
from typing import Any

import pytest

from palaver.schemas import MAX_PROBLEMS, SchemaValidator, validator_of

DIE: dict[str, Any] = {
    "type": "object",
    "properties": {"sides": {"type": "integer", "minimum": 2}},
    "required": ["sides"],
    "additionalProperties": False,
}


def test_a_value_is_valid_or_its_problems_are_named() -> None:
    validator = SchemaValidator(DIE)
    assert validator.problem({"sides": 6}) == ""
    assert "sides: 1 is less than the minimum of 2" in validator.problem({"sides": 1})
    assert '"sides" is a required property' in validator.problem({})
    assert "Additional properties" in validator.problem({"sides": 6, "colour": "red"})


def test_a_description_is_short() -> None:
    validator = SchemaValidator({"type": "array", "items": {"type": "integer"}})
    problem = validator.problem(["x" * 1_000] * 100)
    assert len(problem) < 1_000
    assert problem.count("; ") == MAX_PROBLEMS


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "no such type"},
        {"properties": []},
        {"required": "sides"},
        {"pattern": "(unclosed"},
        {"pattern": "(?=ahead)"},
        {"pattern": "(a{1000}){1000}"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "#anchor"},
        {"$dynamicRef": "#tree"},
        {"properties": {"a": {"$id": "other", "$ref": "#/b"}}},
        {"type": object()},
    ],
)
def test_what_is_no_schema_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        validator_of(schema)


def test_nothing_is_loaded_from_another_place(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text("{}")
    for address in (file.as_uri(), "http://127.0.0.1:9/schema.json", "other.json"):
        with pytest.raises(ValueError, match="a schema may refer only to itself"):
            validator_of({"$ref": address})


def test_a_schema_may_refer_to_itself() -> None:
    tree = {"$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}
    validator = validator_of(tree | {"$ref": "#/$defs/tree"})
    assert validator.problem([[], [[]]]) == ""
    assert validator.problem([[1]])


def test_a_schema_that_comes_again_is_not_compiled_again() -> None:
    assert validator_of(DIE) is validator_of(dict(DIE))
    large = DIE | {"description": "x" * 20_000}
    assert validator_of(large) is not validator_of(large)


def test_a_hostile_pattern_takes_linear_time() -> None:
    validator = SchemaValidator({"type": "string", "pattern": "^(a+)+$"})
    assert validator.problem("a" * 10_000) == ""
    assert validator.problem("a" * 10_000 + "!")


def doubling(levels: int) -> dict[str, Any]:
    parts = {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": parts | {str(levels): {"type": "integer"}}, "$ref": "#/$defs/0"}


DOUBLY = {"properties": {"x": {"$ref": "#"}}}
LEVELS: Any = 1
for _ in range(60):
    LEVELS = {"x": LEVELS}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (doubling(60), 1),
        ({"anyOf": [DOUBLY, DOUBLY]}, LEVELS),
        ({"allOf": [DOUBLY], "unevaluatedProperties": False} | DOUBLY, LEVELS),
        ({"allOf": [{"$ref": "#"}]}, 1),
        ({"items": {"items": {"type": "integer"}}}, [[1] * 200] * 200),
    ],
)
def test_what_would_take_very_long_is_not_checked(schema: dict[str, Any], value: object) -> None:
    assert "too complex" in validator_of(schema).problem(value)


def test_references_that_meet_again_are_no_problem() -> None:
    assert validator_of(doubling(8)).problem(1) == ""
    assert validator_of(doubling(8)).problem("a")
    assert validator_of({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string"}}}).problem(1)


@pytest.mark.parametrize("value", [LEVELS, {"\ud800": 1}, {"a": "\ud800"}])
def test_an_unusual_value_has_a_problem_or_none(value: object) -> None:
    assert isinstance(validator_of({"type": "object"}).problem(value), str)
