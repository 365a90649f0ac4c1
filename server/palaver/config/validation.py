"""Checking what people wrote against a settings model, and saying what is wrong in words.

No message holds a value that may be a secret: only numbers and switches are shown.
"""

import difflib
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, Union

import pydantic

from palaver.config.settings import Keys, OpenSection, Origin, Secret, Tree
from palaver.config.wording import describe_error, find_keys
from palaver.errors import ConfigurationError

Annotation = Any  # a type as a field's annotation writes it
FindOrigin = Callable[[Keys], Origin | None]
ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)


def validate(
    model: type[ModelT],
    tree: Tree,
    origin: FindOrigin,
    above: Keys = (),
) -> ModelT:
    """``tree`` as a ``model``. Raises `ConfigurationError`, one line per problem, in words."""
    value, problems = inspect(model, tree, origin, above)
    if value is None:
        raise ConfigurationError("\n".join(problems))
    return value


def inspect(
    model: type[ModelT], tree: Tree, origin: FindOrigin, above: Keys = ()
) -> tuple[ModelT | None, list[str]]:
    """``tree`` as a ``model``, or None and the problems."""
    return _Inspection(model, origin, above).run(tree)


class _Inspection(Generic[ModelT]):
    """One reading of a tree: text becomes what its field expects, and problems are gathered."""

    def __init__(self, model: type[ModelT], origin: FindOrigin, above: Keys) -> None:
        self._model = model
        self._origin = origin
        self._above = above
        self._problems: dict[Keys, str] = {}

    def run(self, tree: Tree) -> tuple[ModelT | None, list[str]]:
        if not isinstance(tree, dict):
            return None, [self._sentence(self._above, " must be a table")]
        shaped = self._shape(self._model, tree, self._above)
        value = None
        try:
            value = self._model.model_validate(shaped)
        except pydantic.ValidationError as error:
            for detail in error.errors(include_url=False):
                keys = self._above + find_keys(detail["loc"], shaped)
                self._problems.setdefault(keys, self._sentence(keys, *describe_error(detail)))
        return (None if self._problems else value), list(self._problems.values())

    def _sentence(self, keys: Keys, words: str, value: object = None) -> str:
        instead = "" if value is None else f", not {value!r}"
        return f"{'.'.join(keys)}{words}{instead}{_where(self._origin(keys))}"

    def _shape(self, annotation: Annotation, value: Any, keys: Keys) -> Any:  # Any: TOML values
        origin = self._origin(keys)
        if isinstance(value, str) and origin and origin.raw:
            value = _read(value, annotation)
        if not isinstance(value, dict):
            return value
        for option in options(annotation):
            if isinstance(option, type) and issubclass(option, pydantic.BaseModel):
                return self._shape_model(option, value, keys)
            if outer(option) is dict:
                inner = typing.get_args(option)[1]
                return {key: self._shape(inner, v, (*keys, key)) for key, v in value.items()}
        return value

    def _shape_model(self, model: type[pydantic.BaseModel], tree: Tree, keys: Keys) -> Tree:
        shaped = {}
        for key, value in tree.items():
            path = (*keys, key)
            field = model.model_fields.get(key)
            if field is not None:
                shaped[key] = self._shape(field.annotation, value, path)
            elif _takes(model, value):
                shaped[key] = value
            else:
                self._problems[path] = unknown_key(
                    path, self._origin(path), self._hint(path, model, tree)
                )
        return shaped

    def _hint(self, path: Keys, model: type[pydantic.BaseModel], tree: Tree) -> str:
        if near := nearest(path, model.model_fields) or self._elsewhere(path[-1]):
            return did_you_mean(near)
        if issubclass(model, OpenSection) and "use" in model.model_fields:
            backend = tree.get("use", model.model_fields["use"].default)
            return f"; what belongs to a backend stands in its table, like [{path[0]}.{backend}]"
        return ""

    def _elsewhere(self, key: str) -> Keys:
        """The full way to a key of this name in another section."""
        paths = (tuple(path.split(".")) for path in field_paths(self._model))
        return next((self._above + path for path in paths if path[-1] == key), ())


def _takes(model: type[pydantic.BaseModel], value: object) -> bool:
    """Whether ``value`` may stand under a name that is no field: a backend's table, which its
    plugin checks, or whatever a plugin's own model allows."""
    if issubclass(model, OpenSection):
        return isinstance(value, dict)
    return model.model_config.get("extra") == "allow"


def _where(origin: Origin | None) -> str:
    return f" ({origin.where})" if origin else ""


def unknown_key(keys: Keys, origin: Origin | None, hint: str) -> str:
    return f"unknown key {'.'.join(keys)!r}{_where(origin)}{hint}"


def did_you_mean(keys: Keys) -> str:
    return f"; did you mean {'.'.join(keys)!r}?" if keys else ""


def nearest(keys: Keys, names: Iterable[str]) -> Keys:
    """``keys`` with its last part put right, or () when no name is like it."""
    close = difflib.get_close_matches(keys[-1], list(names), n=1)
    return (*keys[:-1], *close) if close else ()


def field_paths(model: type[pydantic.BaseModel], above: str = "") -> Iterator[str]:
    """Every key of ``model``, dotted, section by section."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, pydantic.BaseModel):
            if not issubclass(inner, pydantic.RootModel):
                yield from field_paths(inner, f"{above}{name}.")
                continue
        yield above + name


def outer(annotation: Annotation) -> Any:  # Any: a type or a special form
    """``tuple`` of ``tuple[str, ...]``; None of a plain type."""
    return typing.get_origin(annotation)


def options(annotation: Annotation) -> list[Annotation]:
    """The alternatives of an annotation, without None and decoration."""
    origin = outer(annotation)
    if origin is Annotated:
        return options(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [o for a in typing.get_args(annotation) for o in options(a) if o is not type(None)]
    return [annotation]


def _read(text: str, annotation: Annotation) -> Any:  # Any: TOML values
    """Text from the environment or a flag as the field's kind of value: TOML where it parses,
    a list by commas, else the text itself."""
    parsed = _toml(text)
    kinds = {outer(option) or option for option in options(annotation)}
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
