"""docs/settings.md is written from the models, and the models say what every key does."""

import runpy
from pathlib import Path

import pytest

from palaver.config.loading import plugin_models
from palaver.config.reference import Row, describe, settings_page
from palaver.config.settings import Settings
from palaver.plugins import PluginRegistry

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def registry() -> PluginRegistry:
    script = runpy.run_path(str(ROOT / "scripts" / "settings-reference"))
    found = script["own_plugins"]()
    assert isinstance(found, PluginRegistry)
    return found


def all_rows(registry: PluginRegistry) -> list[Row]:
    rows = describe(Settings)
    for section, models in plugin_models(registry).items():
        for name, model in models.items():
            rows += describe(model, f"{section}.{name}.")
    return rows


def test_the_page_is_what_the_models_say(registry: PluginRegistry) -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page(registry), "run scripts/settings-reference"


def test_every_key_says_what_it_does(registry: PluginRegistry) -> None:
    assert [row.key for row in all_rows(registry) if not row.description] == []


def test_a_row_tells_key_type_default_and_purpose() -> None:
    rows = {row.key: row for row in describe(Settings)}
    assert rows["server.port"] == Row(
        "server.port",
        "whole number",
        "7252",
        "Port to listen on. 0 takes any free port and prints it.",
    )
    assert rows["server.origins"].type == "list of text"
    assert rows["auth.keys.NAME.secret"].default == ""


def test_the_page_names_no_place_of_this_machine(registry: PluginRegistry) -> None:
    assert str(ROOT) not in settings_page(registry)
