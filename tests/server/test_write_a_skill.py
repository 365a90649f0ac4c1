"""The example of a skill that acts, in docs/write-a-skill.md, works as the page says."""

import re
import sys
from pathlib import Path

import pytest

from palaver.testing.scenarios import Scenario, load_scenario, run_scenario

PAGE = Path(__file__).parents[2] / "docs" / "write-a-skill.md"
SECTION = PAGE.read_text("utf-8").split("## A skill that acts\n", 1)[1].split("\n## ", 1)[0]
EXAMPLES = re.findall(r"^```(?:python|toml)\n(.*?)^```", SECTION, re.M | re.S)


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """The scenario of the page, whose skill can be imported."""
    skill, scenario = EXAMPLES
    (tmp_path / "librarian.py").write_text(skill, "utf-8")
    (tmp_path / "library.scenario.toml").write_text(scenario, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "librarian", raising=False)
    return load_scenario(tmp_path / "library.scenario.toml")


async def test_the_scenario_of_the_skill_that_acts_passes(
    scenario: Scenario, tmp_path: Path
) -> None:
    await run_scenario(scenario, tmp_path)


async def test_a_call_that_is_denied_instead_of_approved_fails_the_scenario(
    scenario: Scenario, tmp_path: Path
) -> None:
    asked, approved, *others = scenario.turns
    denied = approved.model_copy(update={"approve": False})
    changed = scenario.model_copy(update={"turns": (asked, denied, *others)})
    with pytest.raises(AssertionError) as caught:
        await run_scenario(changed, tmp_path)
    assert str(caught.value).startswith(
        "turn 2, 'Deny':\n  call 1: expected 'done', got reserve_book("
    )
