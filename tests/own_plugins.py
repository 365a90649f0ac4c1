"""The project's own plugins, those of this source tree, whatever is installed."""

import importlib.metadata
import tomllib
from pathlib import Path

from palaver.plugins import PluginRegistry, load_plugins

ROOT = Path(__file__).parents[1]


def load_own_plugins() -> PluginRegistry:
    """Load what pyproject.toml names. The metadata of an editable installation may be older."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    points = project["entry-points"]["palaver"].items()
    entry_points = [importlib.metadata.EntryPoint(name, value, "palaver") for name, value in points]
    return load_plugins(entry_points, strict=True)
