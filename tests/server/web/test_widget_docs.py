"""docs/widget.md names every option, variable, method and event of the widget, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
WIDGET = ROOT / "server" / "palaver" / "web" / "frontend" / "widget"
DOCS = (ROOT / "docs" / "widget.md").read_text("utf-8")


def source(name: str) -> str:
    return (WIDGET / name).read_text("utf-8")


def section(title: str) -> str:
    return DOCS.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_columns(text: str) -> str:
    """Return the first cells of the rows of the tables."""
    return "\n".join(re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE))


def block(text: str, start: str) -> str:
    """Return what stands between the beginning of a block and its end."""
    return text.split(start)[1].split("\n}" if "{" in start else "]")[0]


def test_every_option_is_documented() -> None:
    names = set(re.findall(r'"(\w+)"', block(source("options.ts"), "const NAMES = [")))
    rows = set(re.findall(r"^`(\w+)`$", first_columns(section("Options")), re.MULTILINE))
    assert rows == names


def test_every_variable_is_documented() -> None:
    sources = source("style/widget.css") + source("element.tsx")
    names = set(re.findall(r"--palaver-[\w-]+", sources))
    assert set(re.findall(r"--palaver-[\w-]+", first_columns(section("Options")))) == names


def test_every_method_and_event_is_documented() -> None:
    methods = set(re.findall(r"^  (\w+)\(", block(source("api.ts"), "PalaverApi {"), re.MULTILINE))
    text = first_columns(section("JavaScript"))
    assert set(re.findall(r"`(\w+)\(", text)) == methods - {"push"}
    events = set(re.findall(r"^  (\w+):", block(source("session.ts"), "Events {"), re.MULTILINE))
    assert set(re.findall(r"`palaver:(\w+)`", text)) == events
