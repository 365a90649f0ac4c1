"""The settings file is edited in place: comments, order and everything else stay."""

import os
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver.config.editing import (
    Changes,
    edit_settings,
    find_obstacle,
    read_settings_text,
    replace_settings,
)
from palaver.errors import ConfigurationError

CHANGES: Changes = {
    ("engine", "use"): "openai",
    ("engine", "openai", "urls"): ["http://a/v1"],
    ("engine", "openai", "model"): "m",
    ("engine", "openai", "api_key"): None,
}
WANTED = {"use": "openai", "openai": {"urls": ["http://a/v1"], "model": "m"}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        "[server]\nport = 1 # the port\n",
        'engine.use = "x" # dotted\n[server]\nport = 1\n',
        '[engine]\nuse = "x"\n# own\n[engine.openai]\nurls = ["b"] # 1\napi_key = "env:X"\n',
        'engine = {use = "x", openai = {urls = ["b"]}} # inline\n',
        '[engine.openai] # first\nurls = ["b"]\n[server]\nport = 1\n[engine]\nuse = "z"\n',
        "[engine.openai]\nurls = []\n\n[[other]] # a list\nx = 1\n[[other]]\nx = 2\n",
    ],
)
def test_other_values_and_comments_stay(text: str) -> None:
    before = tomllib.loads(text)
    edited = edit_settings(text, CHANGES, "f")
    after = tomllib.loads(edited)
    assert after.pop("engine") == WANTED
    before.pop("engine", None)
    assert after == before
    for line in text.splitlines():
        assert line.partition("#")[2] in edited
    assert edit_settings(edited, CHANGES, "f") == edited


NAMES = st.sampled_from(["engine", "openai", "use", "a", "b c", "ü"])
VALUES = st.one_of(st.text(), st.integers(), st.booleans(), st.lists(st.integers()))
TREES = st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, max_size=4))


def as_toml(tree: dict[str, object], prefix: str = "") -> str:
    """Write a tree as tables in their order."""
    lines = []
    tables = {key: value for key, value in tree.items() if isinstance(value, dict)}
    for key, value in tree.items():
        if key not in tables:
            lines.append(f'"{key}" = {_value(value)}  # about {key}')
    for key, table in tables.items():
        lines += [f'[{prefix}"{key}"]', as_toml(table, f'{prefix}"{key}".')]
    return "\n".join(lines)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(c if c.isalnum() else f"\\U{ord(c):08x}" for c in value)
        return f'"{escaped}"'
    return repr(value)


@given(st.dictionaries(NAMES, TREES, max_size=4))
def test_an_edit_changes_what_it_names_or_is_refused(tree: dict[str, object]) -> None:
    text = as_toml(tree)
    before = tomllib.loads(text)
    try:
        after = tomllib.loads(edit_settings(text, CHANGES, "f"))
    except ConfigurationError as error:
        assert str(error).startswith("f cannot be edited")  # noqa: PT017
        return
    openai = after["engine"]["openai"]
    assert after["engine"]["use"] == "openai"
    assert openai["urls"] == ["http://a/v1"]
    assert "api_key" not in openai
    assert {key: value for key, value in after.items() if key != "engine"} == {
        key: value for key, value in before.items() if key != "engine"
    }


@pytest.mark.parametrize("text", ["engine = 3\n", "[[engine]]\nx = 1\n", "[engine]\nopenai = 1\n"])
def test_a_value_in_the_place_of_a_table_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^f cannot be edited: '\w+' is no table$"):
        edit_settings(text, CHANGES, "f")


def test_a_file_keeps_its_mode_and_a_new_one_is_private(tmp_path: Path) -> None:
    old, new, link = tmp_path / "old.toml", tmp_path / "new.toml", tmp_path / "link.toml"
    old.write_text("x = 1\n")
    old.chmod(0o644)
    link.symlink_to(old)
    replace_settings(link, "x = 2\n")
    replace_settings(new, "x = 3\n")
    assert link.is_symlink()
    assert [file.read_text() for file in (old, new)] == ["x = 2\n", "x = 3\n"]
    assert [stat.S_IMODE(file.stat().st_mode) for file in (old, new)] == [0o644, 0o600]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.toml", "new.toml", "old.toml"]


def test_what_keeps_a_file_from_being_written_is_told(tmp_path: Path) -> None:
    file = tmp_path / "palaver.toml"
    assert find_obstacle(file) == ""
    assert read_settings_text(file) == ""
    file.mkdir()
    assert find_obstacle(file) == f"{file} is not a regular file"
    lost = tmp_path / "missing" / "palaver.toml"
    assert find_obstacle(lost) == (
        f"the server may not write into {lost.parent}, so palaver.toml cannot be changed"
    )
    with pytest.raises(ConfigurationError, match="cannot be written"):
        replace_settings(lost, "")
    if os.geteuid():  # everything is allowed to root
        tmp_path.chmod(0o500)
        assert "may not write into" in find_obstacle(tmp_path / "other.toml")
        tmp_path.chmod(0o700)
