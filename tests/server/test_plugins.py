"""Loading of plugins: one that fails is left out, with a cause that says what to correct."""

import importlib.metadata
import inspect
from pathlib import Path

import pytest
from tests.own_plugins import load_own_plugins

from palaver.errors import NameCollision, PluginLoadError
from palaver.hooks import Hooks
from palaver.plugins import KINDS, load_plugins

HERE = "tests.server.plugins_under_test"
DOCS = Path(__file__).parents[2] / "docs"


def entry_points(*names: str) -> list[importlib.metadata.EntryPoint]:
    return [importlib.metadata.EntryPoint(name, f"{HERE}.{name}", "palaver") for name in names]


def test_a_module_with_a_skill_is_a_plugin() -> None:
    registry = load_plugins(entry_points("good"))
    assert list(registry.skills) == ["good"]
    assert not registry.failures


def test_a_skill_class_may_be_named_itself() -> None:
    point = importlib.metadata.EntryPoint("good", f"{HERE}.good:Good", "palaver")
    assert list(load_plugins([point]).skills) == ["good"]


def test_a_module_with_a_tool_is_a_plugin() -> None:
    registry = load_plugins(entry_points("dice"))
    assert list(registry.tools) == ["roll"]
    assert registry.owners["tools", "roll"].name == "dice"


def test_a_tool_may_be_named_itself() -> None:
    point = importlib.metadata.EntryPoint("dice", f"{HERE}.dice:roll", "palaver")
    assert list(load_plugins([point]).tools) == ["roll"]


def test_a_package_may_define_its_parts_in_modules_of_its_own() -> None:
    registry = load_plugins(entry_points("package"))
    assert (list(registry.skills), list(registry.tools)) == (["gambler"], ["roll"])


def test_a_hook_decides_which_of_its_modules_tools_are_registered() -> None:
    assert list(load_plugins(entry_points("chosen")).tools) == ["flip"]


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("misspelt", "there is no hook 'palaver_register_skils'; did you mean"),
        ("undecorated", "palaver_register_skills is not decorated with @palaver.hookimpl"),
        ("asynchronous", "palaver_register_skills is async; hooks are plain functions"),
        ("crashing", "RuntimeError: no licence file"),
        ("empty", "it contributes nothing"),
        ("nameless", "name 'Not A Name' is not 1 to 40 characters"),
        ("unanswering", "it needs `async def answer(self, turn)`"),
        ("badpattern", "fills ['what'], but Arguments has []"),
        ("slowpattern", "pattern '(?!please ).+' does not compile: no linear time: it looks ahead"),
        ("wrongkind", "palaver_register_tools returned 'hammer', not a Tool"),
        ("badtool", "tool 'roll': parameter 'sides' needs a type"),
        ("missing", "ModuleNotFoundError"),
        ("exiting", "SystemExit: 3"),
        ("interrupting", "Impatient: too slow"),
        ("unprintable", "Unprintable: its text cannot be made"),
        ("nameless_command", "palaver_register_commands returned 'serve', which has no name"),
        ("badalias", "alias 'two words' is not 1 to 40 of A-Za-z0-9_-"),
    ],
)
def test_a_broken_plugin_is_left_out_and_the_rest_starts(name: str, cause: str) -> None:
    registry = load_plugins(entry_points(name, "good"))
    assert list(registry.skills) == ["good"]
    (failure,) = registry.failures
    assert failure.plugin.name == name
    assert cause in failure.cause
    with pytest.raises(PluginLoadError, match=name):
        load_plugins(entry_points(name, "good"), strict=True)


def test_a_disabled_plugin_is_not_even_imported() -> None:
    registry = load_plugins(entry_points("crashing", "good"), disabled=["crashing"])
    assert not registry.failures


def test_two_plugins_of_one_name_are_refused_and_both_are_named() -> None:
    with pytest.raises(NameCollision, match=r"'good' .* duplicate .* good "):
        load_plugins(entry_points("duplicate", "good"))


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ("good", "other_words", r"/good names the skill 'good' of good .* 'better' of other_words"),
        ("other_words", "good", r"/good names the skill 'good' of good .* 'better' of other_words"),
        (
            "other_words",
            "same_alias",
            r"/best names the skill 'better' of .* 'finest' of same_alias",
        ),
    ],
)
def test_names_and_aliases_of_skills_are_in_one_namespace(
    first: str, second: str, sentence: str
) -> None:
    with pytest.raises(NameCollision, match=sentence):
        load_plugins(entry_points(first, second))
    registry = load_plugins(entry_points(first, second), disabled=[second])
    assert len(registry.skills) == 1


def test_what_the_person_at_the_keyboard_interrupts_is_interrupted() -> None:
    class Interrupted(importlib.metadata.EntryPoint):
        def load(self) -> object:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_plugins([Interrupted("slow", "slow", "palaver")])


def test_every_installed_entry_point_of_the_project_loads() -> None:
    points = importlib.metadata.entry_points(group="palaver")
    own = [
        point for point in points if point.dist is not None and point.dist.name == "palaver-server"
    ]
    assert own
    registry = load_plugins(own)
    assert not registry.failures, [str(failure) for failure in registry.failures]


@pytest.mark.parametrize("kind", KINDS)
def test_every_hook_is_documented_and_has_a_plugin_of_the_project(kind: str) -> None:
    name = f"palaver_register_{kind}"
    doc = inspect.getdoc(getattr(Hooks, name))
    assert doc is not None
    assert "Returns" in doc or "Return" in doc
    assert f"`{name}" in (DOCS / "hooks.md").read_text(encoding="utf-8")
    assert getattr(load_own_plugins(), kind), f"no plugin of the project contributes {kind}"


def test_the_kinds_are_the_hooks() -> None:
    hooks = [name for name in vars(Hooks) if name.startswith("palaver_register_")]
    assert sorted(hooks) == sorted(f"palaver_register_{kind}" for kind in KINDS)
