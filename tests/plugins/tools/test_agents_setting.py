"""The setting agents.tools names tools of plugins, skills, and tools that sources may offer."""

from contextlib import AbstractAsyncContextManager

import pytest

from palaver.config.settings import AgentSettings, Settings
from palaver.errors import ConfigurationError
from palaver.testing import ChatClient, converse
from palaver_plugins.tools.a2a.settings import A2ASettings
from palaver_plugins.tools.a2a.source import A2ASource
from palaver_plugins.tools.arithmetic import calculate
from palaver_plugins.tools.mcp.settings import McpSettings
from palaver_plugins.tools.mcp.source import McpSource
from palaver_skills.chat import Chat

AWAY = {"url": "http://127.0.0.1:9"}


def run_server(name: str) -> AbstractAsyncContextManager[ChatClient]:
    return converse(
        Chat,
        tools=[calculate],
        tool_sources=[
            McpSource(McpSettings.model_validate({"servers": {"files": AWAY}})),
            A2ASource(A2ASettings.model_validate({"agents": {"desk": AWAY}})),
        ],
        settings=Settings(agents=AgentSettings(tools=(name,))),
    )


@pytest.mark.parametrize("name", ["calculate", "chat", "files__read", "ask_desk"])
async def test_the_server_starts_before_a_source_has_found_its_tools(name: str) -> None:
    async with run_server(name):
        pass


@pytest.mark.parametrize("name", ["calulate", "file__read", "files__", "files_read", "ask_desks"])
async def test_a_name_that_nothing_may_offer_prevents_the_start(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"agents.tools names '{name}'"):
        async with run_server(name):
            pass
