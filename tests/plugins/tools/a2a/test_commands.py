"""``palaver a2a``: a card is tested, and approved in the ledger when no server runs."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.plugins.tools.a2a.support import HostileAgent, agent_settings

from palaver.cli.console import Console
from palaver_plugins.tools.a2a import palaver_register_commands

pytestmark = pytest.mark.slow
(a2a,) = palaver_register_commands()


async def run(folder: Path, *arguments: str) -> str:
    result = await asyncio.to_thread(
        CliRunner().invoke, a2a, arguments, obj=Console(folder / "palaver.toml", ())
    )
    assert result.exit_code == 0, result.output
    return result.output


async def test_a_card_is_tested_and_approved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with HostileAgent().serving() as agent:
        settings = agent_settings(agent.url)
        lines = ["[server]", "port = 0", f'data = "{tmp_path / "data"}"', "[tool_sources]"]
        lines += ['enabled = ["a2a"]', "[tool_sources.a2a.agents.a]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        (tmp_path / "palaver.toml").write_text("\n".join(lines))
        tested = await run(tmp_path, "test", "a")
        assert tested.startswith(
            "a: evil\n\nask_a\n  Ask the agent evil: Helps. Skills: S: Does S.\n"
        )
        listed = await run(tmp_path, "list")
        assert listed.startswith("new       ask_a  Ask the agent evil")
        assert "! 1 tools of the agent 'a' are not approved" in listed
        assert (await run(tmp_path, "approve", "a", "--yes")).endswith("Approved 1 tools of a.\n")
        assert (await run(tmp_path, "list")).startswith("ready     ask_a")
