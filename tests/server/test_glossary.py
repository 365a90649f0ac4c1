"""The code's identifiers use the names of docs/glossary.md."""

import ast
import functools
import re
from pathlib import Path

import pytest

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
def definitions(path: Path) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Return the lines and names of all that a module defines (classes, functions, arguments,
    variables), and the lines and docstrings of its functions but properties."""
    identifiers, docstrings = [], []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            identifiers.append((node.lineno, node.name))
        elif isinstance(node, ast.arg):
            identifiers.append((node.lineno, node.arg))
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.id if isinstance(node, ast.Name) else node.attr
            identifiers.append((node.lineno, name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstrings.append((node.lineno, ast.get_docstring(node) or ""))
    return identifiers, docstrings


@functools.cache
def words(identifier: str) -> list[str]:
    """Split snake_case and CamelCase into lower-case words, plurals into singulars."""
    parts = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", identifier)
    return [part.lower().removesuffix("s") for part in parts]


@functools.cache
def parts(identifier: str) -> set[tuple[str, ...]]:
    """Return every run of words in an identifier."""
    split = words(identifier)
    ends = range(1, len(split) + 1)
    return {tuple(split[start:end]) for end in ends for start in range(end)}


@pytest.mark.slow
def test_identifiers_use_the_names_of_the_glossary() -> None:
    replaced = replaced_words()
    assert len(replaced) > 15
    found = []
    for folder in ("server", "plugins", "skills", "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found += [
                f"{path.relative_to(ROOT)}:{line}: {identifier}"
                for line, identifier in definitions(path)[0]
                if replaced & parts(identifier)
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
            found += [
                f"{path.relative_to(ROOT)}:{line}: {docstring[:60]}"
                for line, docstring in definitions(path)[1]
                if NO_VERBS.match(docstring)
            ]
    assert not found, "\n".join(found)
