"""Validation of settings against their models, with messages for people.

A message shows a value only when it is a number or a switch: other values may be secrets.
"""

import difflib
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, Union

import pydantic

from palaver.config.settings import BackendsSection, KeyPath, Origin, Secret, Tree
from palaver.config.wording import describe_error, find_keys
from palaver.errors import ConfigurationError

Annotation = Any  # a type as a field's annotation writes it
FindOrigin = Callable[[KeyPath], Origin | None]
ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)


def validate(
    model: type[ModelT],
    tree: Tree,
    origin: FindOrigin,
    prefix: KeyPath = (),
) -> ModelT:
    """Return ``tree`` as a ``model``. Raises `ConfigurationError` with one line per problem."""
    value, problems = validate_or_explain(model, tree, origin, prefix)
    if value is None:
        raise ConfigurationError("\n".join(problems))
    return value


def validate_or_explain(
    model: type[ModelT], tree: Tree, origin: FindOrigin, prefix: KeyPath = ()
) -> tuple[ModelT | None, list[str]]:
    """Return ``tree`` as a ``model`` and no problems, or None and the problems."""
    return _Validation(model, origin, prefix).run(tree)


def find_unknown_keys(
    model: type[pydantic.BaseModel], tree: Tree, origin: FindOrigin, prefix: KeyPath = ()
) -> list[str]:
    """Return a sentence for each key of ``tree`` that ``model`` does not have."""
    return _Validation(model, origin, prefix).unknown_keys(tree)


class _Validation(Generic[ModelT]):
    """One validation of a tree: parses text as its field expects, and collects problems."""

    def __init__(self, model: type[ModelT], origin: FindOrigin, prefix: KeyPath) -> None:
        self._model = model
        self._origin = origin
        self._prefix = prefix
        self._problems: dict[KeyPath, str] = {}

    def run(self, tree: Tree) -> tuple[ModelT | None, list[str]]:
        if not isinstance(tree, dict):
            return None, [self._sentence(self._prefix, " must be a table")]
        shaped = self._shape(self._model, tree, self._prefix)
        value = None
        try:
            value = self._model.model_validate(shaped)
        except pydantic.ValidationError as error:
            for detail in error.errors(include_url=False):
                keys = self._prefix + find_keys(detail["loc"], shaped)
                self._problems.setdefault(keys, self._sentence(keys, *describe_error(detail)))
        return (None if self._problems else value), list(self._problems.values())

    def unknown_keys(self, tree: Tree) -> list[str]:
        self._shape(self._model, tree, self._prefix)
        return list(self._problems.values())

    def _sentence(self, keys: KeyPath, words: str, value: object = None) -> str:
        instead = "" if value is None else f", not {value!r}"
        return f"{'.'.join(keys)}{words}{instead}{_format_origin(self._origin(keys))}"

    def _shape(self, annotation: Annotation, value: Any, keys: KeyPath) -> Any:  # Any: TOML values
        origin = self._origin(keys)
        if isinstance(value, str) and origin and origin.is_text:
            value = _parse_text(value, annotation)
        if not isinstance(value, dict):
            return value
        for option in union_members(annotation):
            if isinstance(option, type) and issubclass(option, pydantic.BaseModel):
                return self._shape_model(option, value, keys)
            if generic_type(option) is dict:
                inner = typing.get_args(option)[1]
                return {key: self._shape(inner, v, (*keys, key)) for key, v in value.items()}
        return value

    def _shape_model(self, model: type[pydantic.BaseModel], tree: Tree, keys: KeyPath) -> Tree:
        shaped = {}
        for key, value in tree.items():
            path = (*keys, key)
            field = model.model_fields.get(key)
            if field is not None:
                shaped[key] = self._shape(field.annotation, value, path)
            elif _allows_unknown(model, value):
                shaped[key] = value
            else:
                self._problems[path] = describe_unknown_key(
                    path, self._origin(path), self._hint(path, model, tree)
                )
        return shaped

    def _hint(self, path: KeyPath, model: type[pydantic.BaseModel], tree: Tree) -> str:
        tables = isinstance(tree[path[-1]], dict)
        names = [
            name
            for name, field in model.model_fields.items()
            if tables or generic_type(field.annotation) is not dict
        ]
        if near := closest_path(path, names) or self._elsewhere(path[-1]):
            return format_suggestion(near)
        if issubclass(model, BackendsSection) and "use" in model.model_fields:
            backend = tree.get("use", model.model_fields["use"].default)
            return f"; settings of a backend go into its own table, such as [{path[0]}.{backend}]"
        return ""

    def _elsewhere(self, key: str) -> KeyPath:
        """Return the full path of a key of this name in another section, or ()."""
        paths = (tuple(path.split(".")) for path in field_paths(self._model))
        return next((self._prefix + path for path in paths if path[-1] == key), ())


def _allows_unknown(model: type[pydantic.BaseModel], value: object) -> bool:
    """Return True when ``model`` allows ``value`` under a name that is no field.

    It may be a backend's table, which its plugin validates, or the model allows extra keys.
    """
    if issubclass(model, BackendsSection):
        return isinstance(value, dict)
    return model.model_config.get("extra") == "allow"


def _format_origin(origin: Origin | None) -> str:
    return f" ({origin.location})" if origin else ""


def describe_unknown_key(keys: KeyPath, origin: Origin | None, hint: str) -> str:
    return f"unknown key {'.'.join(keys)!r}{_format_origin(origin)}{hint}"


def format_suggestion(keys: KeyPath) -> str:
    return f"; did you mean {'.'.join(keys)!r}?" if keys else ""


def closest_path(keys: KeyPath, names: Iterable[str]) -> KeyPath:
    """Return ``keys`` with its last part replaced by the most similar name, or ()."""
    close = difflib.get_close_matches(keys[-1], list(names), n=1)
    return (*keys[:-1], *close) if close else ()


def field_paths(model: type[pydantic.BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every key of ``model``, dotted, section by section."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, pydantic.BaseModel):
            if not issubclass(inner, pydantic.RootModel):
                yield from field_paths(inner, f"{prefix}{name}.")
                continue
        yield prefix + name


def generic_type(annotation: Annotation) -> Any:  # Any: a type or a special form
    """Return the generic type of an annotation (``tuple`` of ``tuple[str, ...]``), or None."""
    return typing.get_origin(annotation)


def union_members(annotation: Annotation) -> list[Annotation]:
    """Return the members of a union, without None and `Annotated`."""
    origin = generic_type(annotation)
    if origin is Annotated:
        return union_members(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [
            o for a in typing.get_args(annotation) for o in union_members(a) if o is not type(None)
        ]
    return [annotation]


def _parse_text(text: str, annotation: Annotation) -> Any:  # Any: TOML values
    """Parse text from the environment or a flag as the field expects.

    TOML where it parses, a list with commas, else the text itself.
    """
    parsed = _toml(text)
    kinds = {generic_type(option) or option for option in union_members(annotation)}
    if kinds & {list, tuple, set, frozenset}:
        if isinstance(parsed, list):
            return parsed
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(parsed, str) or (parsed is not None and not kinds & {str, Path, Secret}):
        return parsed
    return text


def _toml(text: str) -> Any:  # Any: TOML values
    try:
        tree = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return None
    return tree["value"] if len(tree) == 1 else None
