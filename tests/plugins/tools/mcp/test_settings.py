"""Settings of MCP servers, and the source without its library."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest

from palaver import BuildContext, ConfigurationError
from palaver_plugins.tools import mcp
from palaver_plugins.tools.mcp.settings import McpSettings

OAUTH = {"client_id": "c", "issuer": "https://auth.example"}
URL = "https://mcp.example/mcp"


@pytest.mark.parametrize(
    ("name", "server", "problem"),
    [
        ("s", {}, "set either command or url"),
        ("s", {"command": "x", "url": URL}, "set either command or url"),
        ("s", {"command": "x", "token": "env:T"}, "are for url"),
        ("s", {"url": URL, "args": ["x"]}, "are for command"),
        ("s", {"url": "ftp://mcp.example"}, "url"),
        ("s", {"url": URL, "allowed_networks": ["home"]}, "home"),
        ("s", {"url": URL, "token": "plain"}, "reference"),
        ("s", {"url": URL, "oauth": OAUTH}, "set client_secret, refresh_token or both"),
        ("s", {"url": URL, "token": "env:T", "oauth": {**OAUTH, "client_secret": "env:S"}},
         "set either token or oauth"),
        ("a__b", {"command": "x"}, "no name of a server"),
        ("s_", {"command": "x"}, "no name of a server"),
        ("s" * 25, {"command": "x"}, "no name of a server"),
        ("s p", {"command": "x"}, "no name of a server"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(name: str, server: dict[str, Any], problem: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=problem):
        McpSettings.model_validate({"servers": {name: server}})


def test_names_of_servers() -> None:
    for name in ("a", "time-1", "my_files", "s" * 24):
        McpSettings.model_validate({"servers": {name: {"command": "x"}}})


@pytest.mark.slow
def test_registering_the_source_does_not_import_its_library() -> None:
    script = (
        "import sys\n"
        "from palaver_plugins.tools import mcp\n"
        "mcp.palaver_register_tool_sources(), mcp.palaver_register_commands()\n"
        "print([name for name in ('mcp', 'httpx2', 'anyio') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "[]\n"


def test_building_it_without_the_library_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    [backend] = mcp.palaver_register_tool_sources()
    settings = McpSettings.model_validate({"servers": {"s": {"command": "x"}}})
    with pytest.raises(ConfigurationError, match=r"pip install 'palaver-server\[mcp\]'"):
        backend.build(settings, BuildContext(tmp_path, Path))
