"""Scenario files are tests, and name what differs."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from palaver import Skill, Turn, tool
from palaver.errors import ConfigurationError
from palaver.testing.scenarios import Scenario, load_scenario, run_scenario

ROOT = Path(__file__).parents[3]
FILE = Path(__file__).parent / "scenarios" / "weather.scenario.toml"


def changed(turn: int, **values: Any) -> Scenario:
    """Return the example with other values in one of its turns, counted from 1."""
    content = tomllib.loads(FILE.read_text("utf-8"))
    content["turns"][turn - 1] |= values
    content["turns"] = content["turns"][:turn] if turn < 3 else content["turns"]
    return Scenario.model_validate(content)


async def run(scenario: Scenario) -> str:
    """Return what differs."""
    with pytest.raises(AssertionError) as caught:
        await run_scenario(scenario, FILE.parent)
    return str(caught.value)


CALL = {"tool": "look_up", "arguments": {"place": "Oslo"}}
DIFFERENCES = [
    (1, {"outcome": "done"}, "outcome: expected 'done', got 'asked'"),
    (1, {"text": "Nothing."}, "text: expected 'Nothing.', got 'There are trains."),
    (1, {"contains": ["planes"]}, "text: expected 'planes' in"),
    (1, {"question": "Shall I fly?"}, "question: expected 'Shall I fly?', got 'Shall I book?'"),
    (1, {"question": None}, "question: expected None, got 'Shall I book?'"),
    (1, {"citations": ["Planes"]}, "citations: expected ['Planes'], got ['Trains']"),
    (1, {"calls": []}, 'calls: not expected: look_up({"place": "Oslo"}) done'),
    (1, {"calls": [CALL, {"tool": "book"}]}, "calls: 'book' was not called"),
    (1, {"calls": [{"tool": "book"}]}, "call 1: expected the tool 'book', got look_up("),
    (1, {"calls": [CALL | {"arguments": {}}]}, "call 1: expected the arguments {}, got look_up("),
    (1, {"calls": [CALL | {"state": "failed"}]}, "call 1: expected 'failed', got look_up("),
    (1, {"calls": [CALL | {"result": "daily"}]}, "call 1: expected 'daily' in the result, got"),
    (
        1,
        {"model": [{"text": "There are trains."}, {"text": "more"}]},
        "1 replies of the model were",
    ),
    (
        1,
        {"approval": {"tool": "book"}},
        "approval: expected one of 'book', got none",
    ),
    (2, {"say": "yes", "text": "x"}, "turn 2, 'yes':"),
    (3, {"outcome": "done"}, "outcome: expected 'done', got 'failed': There is no such place"),
]


class Payer(Skill):
    """Pay, and pay again."""

    name = "payer"

    async def answer(self, turn: Turn) -> None:
        for cents in (100, 200):
            await turn.call_tool("pay", cents=cents)


@tool(needs_approval=True)
def pay(cents: int) -> str:
    """Pay."""
    return f"paid {cents}"


ASKED = {"say": "pay", "approval": {"tool": "pay", "arguments": {"cents": 100}}}
AGAIN = {"approve": True, "calls": [{"tool": "pay"}], "approval": {"tool": "pay"}}
APPROVED = {"approve": True, "calls": [{"tool": "pay", "result": "paid 200"}]}
PAID: list[dict[str, Any]] = [ASKED, AGAIN, APPROVED]


def paying(*turns: dict[str, Any]) -> Scenario:
    return Scenario.model_validate({"skills": [f"{__name__}:Payer"], "turns": turns})


async def test_approvals_are_expected_and_answered() -> None:
    await run_scenario(paying(*PAID), FILE.parent)


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([*PAID, AGAIN], "turn 4, 'Approve': the turn before asks for no approval"),
        ([ASKED | {"approval": {"tool": "buy"}}], "expected one of 'buy', got one of 'pay'"),
        (
            [ASKED | {"approval": {"tool": "pay", "arguments": {}}}],
            'approval: expected the arguments {}, got {"cents": 100}',
        ),
        ([{"say": "pay", "outcome": "asked"}], "question: expected None, got 'May I use"),
        ([ASKED, AGAIN | {"approve": False}], "turn 2, 'Deny':\n  outcome: expected 'asked', got"),
        (
            [ASKED, {"say": "no, 50", "calls": []}],
            'calls: not expected: pay({"cents": 100}) denied',
        ),
    ],
)
async def test_what_differs_about_an_approval_is_named(
    turns: list[dict[str, Any]], problem: str
) -> None:
    assert problem in await run(paying(*turns))


EXAMPLE = load_scenario(FILE)


async def test_the_example_passes() -> None:
    await run_scenario(EXAMPLE, FILE.parent)


def test_the_page_shows_the_example() -> None:
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    assert f"```toml\n{FILE.read_text('utf-8')}```" in page


@pytest.mark.parametrize(("turn", "values", "problem"), DIFFERENCES)
async def test_each_difference_is_named(turn: int, values: dict[str, Any], problem: str) -> None:
    assert problem in await run(changed(turn, **values))


async def test_a_model_that_is_asked_more_often_than_scripted_fails_the_turn() -> None:
    problem = await run(changed(1, model=[]))
    assert "outcome: expected 'asked', got 'failed'" in problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "skills: Field required; turns: Field required"),
        ("skills = [", "a.scenario.toml: "),
        ('skills = ["a:B"]\nturns = []', "turns: Tuple should have at least 1 item"),
        ('skills = ["a:B"]\n[[turns]]\nsay = "x"\nasks = 1', "turns.0.asks: Extra inputs"),
        (
            'skills = ["a:B"]\nrecording = "a.json"\n[[turns]]\nsay = "x"\nmodel = [{text = "y"}]',
            "'recording' and the 'model' of a turn exclude each other",
        ),
        ('skills = ["a:B"]\n[[turns]]\n', "turns.0: Value error, a turn has either 'say' or 'app"),
        (
            'skills = ["a:B"]\n[[turns]]\napprove = true\nsay = "x"',
            "turns.0: Value error, a turn has either 'say' or 'approve'",
        ),
        (
            'skills = ["a:B"]\n[[turns]]\napprove = true\nskill = "x"',
            "turns.0: Value error, 'approve' and 'skill' exclude each other",
        ),
        ("\udcff", "can't decode"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "a.scenario.toml"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigurationError) as caught:
        load_scenario(path)
    assert problem in str(caught.value)
    assert str(caught.value).startswith("a.scenario.toml: ")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no_such_module:Skill", "cannot be imported"),
        ("palaver:NoSuchSkill", "cannot be imported"),
        ("palaver", "is not a type, named as 'module:name'"),
        ("palaver:__version__", "is not a type"),
    ],
)
async def test_an_object_that_is_not_there_is_named(name: str, problem: str) -> None:
    scenario = changed(1).model_copy(update={"skills": (name,)})
    with pytest.raises(ConfigurationError, match=problem):
        await run_scenario(scenario, FILE.parent)


async def test_wrong_settings_are_named() -> None:
    scenario = changed(1).model_copy(update={"settings": {"server": {"prot": 1}}})
    with pytest.raises(ConfigurationError, match=r"server\.prot"):
        await run_scenario(scenario, FILE.parent)


@pytest.mark.slow
def test_pytest_runs_files_and_shows_differences_alone(tmp_path: Path) -> None:
    text = FILE.read_text("utf-8")
    (tmp_path / "good.scenario.toml").write_text(text)
    (tmp_path / "bad.scenario.toml").write_text(text.replace('"every hour"', '"every day"'))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "1 failed, 1 passed" in result.stdout
    assert "call 1: expected 'every day' in the result" in result.stdout
    assert "Traceback" not in result.stdout
