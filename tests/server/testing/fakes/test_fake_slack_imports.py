"""The fakes stand on their own: they are tested with the client libraries, and not made of them."""

import ast
from pathlib import Path

import palaver.testing.fakes

SOURCES = sorted(Path(palaver.testing.fakes.__file__).parent.glob("slack/*.py"))


def imported_by(source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_the_fake_slack_imports_no_library_of_slack() -> None:
    assert len(SOURCES) > 20
    imported = set().union(*map(imported_by, SOURCES))
    assert "aiohttp" in imported
    assert not {name for name in imported if name.startswith("slack")}
