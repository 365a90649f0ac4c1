"""The built page in ``static/`` is made of the sources in ``frontend/``, and is small."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

WEB = Path(__file__).parents[3] / "server" / "palaver" / "web"
FRONTEND, STATIC = WEB / "frontend", WEB / "static"
NO_SOURCE = {"node_modules", "dist", "test"}
"""Folders of what is installed or made, and of tests."""
FIRST_LOAD_BYTES = 150_000
"""Limit of what the page loads first, gzipped."""
WIDGET_BYTES = 60_000
"""Limit of the widget, gzipped."""
FIRST_FILE = re.compile(
    r'<(?:script|link rel="(?:stylesheet|modulepreload|manifest|icon)")[^>]*'
    r'(?:src|href)="/static/([^"]+)"'
)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hash_of_sources() -> str:
    """Return the hash that ``frontend/build/record.ts`` makes of the sources."""
    paths = (path for path in FRONTEND.rglob("*") if path.is_file())
    names = (path.relative_to(FRONTEND) for path in paths)
    sources = sorted(str(name) for name in names if NO_SOURCE.isdisjoint(name.parts))
    lines = (f"{name}\0{digest(FRONTEND / name)}\n" for name in sources)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_built_page_is_made_of_these_sources() -> None:
    record = json.loads((STATIC / "build.json").read_text())
    assert record["sources"] == hash_of_sources(), "run scripts/frontend and commit its result"
    files = {path.name: digest(path) for path in STATIC.iterdir() if path.name != "build.json"}
    assert record["files"] == files, "static/ is written by scripts/frontend alone"


@pytest.mark.parametrize("page", ["index.html", "share.html"])
def test_a_page_loads_little_at_first(page: str) -> None:
    html = (STATIC / page).read_text()
    names = {page, *FIRST_FILE.findall(html)}
    assert {Path(name).suffix for name in names} >= {".html", ".js", ".css"}
    sizes = {name: len(gzip.compress((STATIC / name).read_bytes())) for name in names}
    assert sum(sizes.values()) <= FIRST_LOAD_BYTES, sizes
    lazy = {path.name.partition("-")[0] for path in STATIC.glob("*.js") if path.name not in names}
    assert {"highlighter", "katex"} <= lazy


def test_the_widget_is_one_small_script_that_leaves_the_page_around_it_alone() -> None:
    script = (STATIC / "widget.js").read_text()
    size = len(gzip.compress(script.encode()))
    assert size <= WIDGET_BYTES, size
    for loads in ("import(", "import.meta", "importScripts", "sourceMappingURL"):
        assert loads not in script, loads
    for part_of_the_page in ("pushState", "palaver.preferences", "palaver.token", "document.title"):
        assert part_of_the_page not in script, part_of_the_page


@pytest.mark.parametrize("page", ["index.html", "share.html"])
def test_every_script_and_style_of_a_page_has_its_hash(page: str) -> None:
    html = (STATIC / page).read_text()
    elements = re.findall(r'<(?:script|link rel="(?:stylesheet|modulepreload)")[^>]*>', html)
    assert len(elements) >= 3
    assert all('integrity="sha384-' in element for element in elements), elements
    assert not re.search(r"<script[^>]*>[^<]|<style| style=| on\w+=", html)


def test_the_licenses_of_what_the_page_contains_come_with_it() -> None:
    text = (STATIC / "third-party-licenses.md").read_text()
    packages = json.loads((FRONTEND / "package.json").read_text())["dependencies"]
    for name, version in packages.items():
        assert f"## {name} - {version} (" in text
    licenses = set(re.findall(r"^## .* \(([^)]+)\)$", text, re.MULTILINE))
    assert licenses <= {"MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Apache-2.0"}
