"""``palaver channels slack manifest`` prints what Slack takes, and what the channel needs."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.own_plugins import load_own_plugins

from palaver.cli.channels import channels
from palaver.cli.console import Console
from palaver.errors import ConfigurationError
from palaver.plugins import PluginRegistry
from palaver.testing.fakes.slack.objects import BOT_EVENTS, BOT_SCOPES

URL = "https://bot.example.org"


class OwnConsole(Console):
    """A console with the project's own plugins, also where the installed metadata is older."""

    @functools.cached_property
    def registry(self) -> PluginRegistry:
        return load_own_plugins()


def run(tmp_path: Path, *arguments: str, settings: str = "") -> Result:
    path = tmp_path / "palaver.toml"
    path.write_text(settings)
    command = ["slack", "manifest", *arguments]
    return CliRunner().invoke(channels, command, obj=OwnConsole(path, ()), catch_exceptions=False)


def manifest(tmp_path: Path, *arguments: str, settings: str = "") -> dict[str, Any]:
    result = run(tmp_path, *arguments, settings=settings)
    assert result.exit_code == 0, result.output
    printed: dict[str, Any] = json.loads(result.output)
    return printed


def test_the_manifest_has_the_address_of_the_server(tmp_path: Path) -> None:
    made = manifest(tmp_path, "--url", f"{URL}/")
    settings = made["settings"]
    assert settings["event_subscriptions"]["request_url"] == f"{URL}/slack/events"
    assert settings["interactivity"] == {"is_enabled": True, "request_url": f"{URL}/slack/events"}
    assert made["features"]["slash_commands"][0]["url"] == f"{URL}/slack/events"
    assert settings["socket_mode_enabled"] is False
    assert "redirect_urls" not in made["oauth_config"]
    assert settings["token_rotation_enabled"] is False


def test_everything_in_the_manifest_is_known_to_slack(tmp_path: Path) -> None:
    made = manifest(tmp_path, "--url", URL)
    assert set(made["oauth_config"]["scopes"]["bot"]) <= set(BOT_SCOPES)
    assert set(made["settings"]["event_subscriptions"]["bot_events"]) <= set(BOT_EVENTS)
    assert made["features"]["app_home"]["messages_tab_enabled"] is True
    assert made["features"]["app_home"]["messages_tab_read_only_enabled"] is False
    assert len(made["features"]["agent_view"]["agent_description"]) <= 300


def test_socket_mode_needs_no_address(tmp_path: Path) -> None:
    made = manifest(tmp_path, "--mode", "socket")
    assert made["settings"]["socket_mode_enabled"] is True
    assert "request_url" not in json.dumps(made)
    assert "url" not in made["features"]["slash_commands"][0]


def test_the_settings_decide_about_names_and_the_agent(tmp_path: Path) -> None:
    settings = """
        [channels.slack]
        mode = "socket"
        display_name = "Ärger"
        command = "/ask"
        agent = false
    """
    result = run(tmp_path, settings=settings)
    assert '"Ärger"' in result.output
    made = json.loads(result.output)
    assert made["display_information"]["name"] == "Ärger"
    assert made["features"]["slash_commands"][0]["command"] == "/ask"
    assert "agent_view" not in made["features"]
    events = made["settings"]["event_subscriptions"]["bot_events"]
    assert "agent_session_stopped" not in events


def test_several_workspaces_need_a_redirect_url_and_tokens_that_end(tmp_path: Path) -> None:
    settings = f"""
        [channels.slack]
        mode = "socket"
        client_id = "1.2"
        public_url = "{URL}"
    """
    made = manifest(tmp_path, settings=settings)
    assert made["oauth_config"]["redirect_urls"] == [f"{URL}/slack/oauth_redirect"]
    assert made["settings"]["token_rotation_enabled"] is True
    assert made["settings"]["org_deploy_enabled"] is True


@pytest.mark.parametrize("arguments", [(), ("--url", "http://bot.example.org")])
def test_slack_calls_only_an_address_with_https(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run(tmp_path, *arguments)
    assert result.exit_code == 2
    assert "--url https://…" in result.output


def test_wrong_settings_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"channels\.slack\.mode"):
        run(tmp_path, settings='[channels.slack]\nmode = "carrier pigeon"')
