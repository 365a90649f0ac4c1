"""The code's identifiers use the names of docs/glossary.md."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text("utf-8")


def replaced_words() -> set[tuple[str, ...]]:
    """Return the bold names of the last column, in words."""
    rows = [line for line in GLOSSARY.splitlines() if line.startswith("| ")]
    columns = [row.strip("|").split("|")[-1] for row in rows[1:]]
    return {
        tuple(name.split()) for column in columns for name in re.findall(r"\*\*(.+?)\*\*", column)
    }


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a module's syntax tree."""
    return tuple(ast.walk(ast.parse(path.read_text("utf-8"))))


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every name that a module defines: classes, functions, arguments, variables."""
    for node in nodes(path):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr


def words(identifier: str) -> list[str]:
    """Split snake_case and CamelCase into lower-case words, plurals into singulars."""
    parts = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", identifier)
    return [part.lower().removesuffix("s") for part in parts]


def test_identifiers_use_the_names_of_the_glossary() -> None:
    replaced = replaced_words()
    assert len(replaced) > 15
    found = []
    for folder in ("server", "plugins", "skills", "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, identifier in identifiers(path):
                split = words(identifier)
                found += [
                    f"{path.relative_to(ROOT)}:{line}: {identifier}"
                    for word in replaced
                    for at in range(len(split))
                    if tuple(split[at : at + len(word)]) == word
                ]
    assert not found, "\n".join(found)


def test_a_replaced_word_is_found_in_any_spelling() -> None:
    for identifier in ("TheDoor", "door_keeper", "_doors", "DOOR", "HTTPDoor"):
        assert "door" in words(identifier), identifier
    assert "door" not in words("indoors_only")


NO_VERBS = re.compile(
    r"(What|Whether|How|The|A|An|Whose|Where|When|Who|Which|All|Those|This|It|Every|Each|No|Its)\b"
)


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    found = []
    for folder in ("server", "plugins", "skills"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in nodes(path):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    docstring = ast.get_docstring(node) or ""
                    if NO_VERBS.match(docstring) and not is_property(node):
                        found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {docstring[:60]}")
    assert not found, "\n".join(found)


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function is read as an attribute: a noun phrase describes it."""
    names = {decorator.id for decorator in node.decorator_list if isinstance(decorator, ast.Name)}
    return bool(names & {"property", "cached_property"})
