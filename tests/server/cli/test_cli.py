"""The command line: what is expected to fail does so in one line."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import palaver
from palaver.cli import main


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_version() -> None:
    assert invoke("--version").output == f"palaver {palaver.__version__}\n"


def test_help_names_the_built_in_commands_and_those_of_plugins() -> None:
    output = invoke("--help").output
    for command in ("serve", "chat", "skills", "check", "models", "knowledge", "stop"):
        assert f"  {command}" in output


@pytest.mark.parametrize(
    "group", [(), ("skills",), ("models",), ("knowledge",), ("deadletters",), ("channels",)]
)
def test_lists_of_commands_have_whole_sentences(group: tuple[str, ...]) -> None:
    commands = invoke(*group, "--help").output.partition("Commands:\n")[2]
    assert commands
    assert "..." not in commands


def test_skills_list_tells_where_each_comes_from() -> None:
    output = invoke("skills", "list").output
    assert "translation" in output
    assert f"(palaver-server {palaver.__version__})" in output


@pytest.mark.slow
def test_route_shows_the_decision() -> None:
    output = invoke("skills", "route", "/translate to German: hello").output
    assert "skill      translation" in output
    assert "reason     The person typed /translate." in output
    assert "%" in output


@pytest.mark.slow
def test_route_explains_the_evidence() -> None:
    output = invoke("skills", "route", "--explain", "--previous", "qa", "warum ist das so?").output
    for line in ("examples   compared by words", "documents  ", "follows    a reply of qa"):
        assert line in output
    assert "continues what was said before" in output
    assert "there is no skill 'x'" in invoke("skills", "route", "--previous", "x", "hi").output


def test_an_unknown_command_of_a_message_is_one_line() -> None:
    result = invoke("skills", "route", "/nope hello")
    assert result.exit_code == 2
    assert result.output.startswith("palaver: There is no skill 'nope'")
    assert result.output.count("\n") == 1


def test_a_wrong_key_is_one_line_and_78() -> None:
    result = invoke("--set", "server.prot=1", "skills", "list")
    assert result.exit_code == 78
    assert "server.port" in result.output
    assert "Traceback" not in result.output


def test_an_unknown_engine_names_the_installed_ones() -> None:
    result = invoke("--set", "engine.use=warp", "serve")
    assert result.exit_code == 78
    assert "openvino" in result.output


def test_a_disabled_plugin_is_gone() -> None:
    result = invoke("--set", "plugins.disabled=chat", "skills", "list")
    assert "chat  " not in result.output


@pytest.mark.parametrize("name", ["Tea", "1", "a/b", "class"])
def test_a_new_skill_needs_a_usable_name(name: str, tmp_path: Path) -> None:
    result = invoke("skills", "new", name, "--into", str(tmp_path))
    assert result.exit_code == 2
    assert "not usable as a name" in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("qa", "'qa' is the name of an installed skill, from qa (palaver"),
        ("tldr", "'tldr' is the name of an installed skill, from summarization (palaver"),
        ("plugins", "the Python module 'palaver_plugins' exists already"),
    ],
)
def test_a_new_skill_does_not_take_the_name_of_another(
    name: str, problem: str, tmp_path: Path
) -> None:
    result = invoke("skills", "new", name, "--into", str(tmp_path))
    assert result.exit_code == 2
    assert problem in result.output
    assert result.output.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_new_skill_does_not_take_the_name_of_a_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "site" / "Palaver_Tea-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: Palaver_Tea\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    result = invoke("skills", "new", "tea", "--into", str(tmp_path))
    assert result.exit_code == 2
    assert "the distribution 'palaver-tea' is installed already" in result.output


def test_a_new_skill_does_not_overwrite(tmp_path: Path) -> None:
    assert invoke("skills", "new", "tea", "--into", str(tmp_path)).exit_code == 0
    result = invoke("skills", "new", "tea", "--into", str(tmp_path))
    assert result.exit_code == 2
    assert "exists already" in result.output
