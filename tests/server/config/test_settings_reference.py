"""docs/settings.md is written from the models, and the models say what every key does."""

import runpy
from pathlib import Path

import pytest

from palaver.checks import plugin_models
from palaver.config.reference import SettingRow, list_settings, render_settings_page
from palaver.config.settings import Settings
from palaver.plugins import PluginRegistry

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def registry() -> PluginRegistry:
    script = runpy.run_path(str(ROOT / "scripts" / "settings-reference"))
    found = script["own_plugins"]()
    assert isinstance(found, PluginRegistry)
    return found


def all_rows(registry: PluginRegistry) -> list[SettingRow]:
    rows = list_settings(Settings)
    for section, models in plugin_models(registry).items():
        for name, model in models.items():
            rows += list_settings(model, f"{section}.{name}.")
    return rows


def test_the_page_matches_the_models(registry: PluginRegistry) -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == render_settings_page(plugin_models(registry)), "run scripts/settings-reference"


def test_every_key_has_a_description(registry: PluginRegistry) -> None:
    assert [row.key for row in all_rows(registry) if not row.description] == []


def test_a_row_has_key_type_default_and_description() -> None:
    rows = {row.key: row for row in list_settings(Settings)}
    assert rows["server.port"] == SettingRow(
        "server.port",
        "whole number",
        "7252",
        "Port to listen on. 0 takes any free port; `palaver serve` prints it.",
    )
    assert rows["server.origins"].type == "list of text"
    assert rows["auth.keys.NAME.secret"].default == ""


def test_the_page_names_no_path_of_this_machine(registry: PluginRegistry) -> None:
    assert str(ROOT) not in render_settings_page(plugin_models(registry))
