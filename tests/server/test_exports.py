"""Every type of the project that an exported signature mentions is exported as well."""

import ast
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from typing import Literal

import pytest

import palaver
import palaver.testing
from palaver import errors

EXPORTED = {
    name: getattr(module, name) for module in (palaver, palaver.testing) for name in module.__all__
}
CODE = {
    name: value
    for name, value in EXPORTED.items()
    # The sections of Settings are tables, which `Settings.model_validate` takes.
    if name != "Settings" and (inspect.isclass(value) or inspect.isfunction(value))
}

MADE_BY_THE_SERVER = ("Turn", "ChatClient")
"""Classes of which authors get instances but make none."""


def find_annotations(source: str) -> Iterator[ast.expr]:
    """Yield the annotations of public fields, parameters and results."""
    tree = ast.parse(textwrap.dedent(source)).body[0]
    skipped = "__init__" if getattr(tree, "name", "") in MADE_BY_THE_SERVER else ""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not is_public(node.name) or node.name == skipped:
                continue
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield from (p.annotation for p in parameters if p.annotation is not None)
            if node.returns is not None:
                yield node.returns
        elif isinstance(node, ast.AnnAssign) and is_public(ast.unparse(node.target)):
            yield node.annotation


def is_public(name: str) -> bool:
    return not name.split(".")[-1].startswith("_") or name in ("__init__", "__call__")


def find_names(annotation: ast.expr) -> Iterator[str]:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                yield from find_names(ast.parse(node.value, mode="eval").body)
            except SyntaxError:
                continue  # a value of a Literal


def is_ours(value: object) -> bool:
    """Return True for a class of the project and for a named choice or callable."""
    if inspect.isclass(value):
        return value.__module__.startswith("palaver")
    aliases = (Literal, typing.Union, types.UnionType, Callable)
    return typing.get_origin(value) in aliases


@pytest.mark.parametrize("name", CODE)
def test_what_an_exported_signature_mentions_is_exported(name: str) -> None:
    scope = vars(sys.modules[CODE[name].__module__])
    mentioned = {
        found
        for annotation in find_annotations(inspect.getsource(CODE[name]))
        for found in find_names(annotation)
        if is_ours(scope.get(found))
    }
    assert mentioned <= set(EXPORTED), f"not exported: {sorted(mentioned - set(EXPORTED))}"


def test_every_error_is_exported() -> None:
    classes = filter(inspect.isclass, vars(errors).values())
    raised = {value.__name__ for value in classes if issubclass(value, Exception)}
    assert "PalaverError" in raised
    assert raised <= set(palaver.__all__)
