"""Exit codes: a supervisor restarts after some of them, and not after others."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from palaver import errors
from palaver.cli import main
from palaver.cli.console import CommandGroup, exit_code
from palaver.errors import PalaverError

DOCS = Path(__file__).parents[3] / "docs" / "cli.md"


def run_and_raise(error: Exception) -> Result:
    @click.group(cls=CommandGroup)
    def group() -> None: ...

    @group.command()
    def fail() -> None:
        raise error

    return CliRunner().invoke(group, ["fail"])


def test_success_is_0() -> None:
    assert CliRunner().invoke(main, ["--version"]).exit_code == 0


def test_an_unexpected_error_is_1_and_keeps_its_traceback() -> None:
    result = run_and_raise(ZeroDivisionError())
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_wrong_usage_is_2() -> None:
    assert CliRunner().invoke(main, ["serve", "--no-such-option"]).exit_code == 2


EXIT_CODES_BY_BRANCH = {
    errors.CallerError: 2,
    errors.ServerError: 69,
    errors.EngineError: 69,
    errors.ConfigurationError: 78,
    errors.PluginError: 78,
}
ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, PalaverError) and value is not PalaverError
]


@pytest.mark.parametrize("kind", ERRORS)
def test_an_expected_error_is_one_line_with_the_exit_code_of_its_branch(
    kind: type[PalaverError],
) -> None:
    (code,) = [code for branch, code in EXIT_CODES_BY_BRANCH.items() if issubclass(kind, branch)]
    result = run_and_raise(kind("it failed"))
    assert (result.exit_code, result.output) == (code, "palaver: it failed\n")


def test_an_error_of_no_branch_is_2() -> None:
    assert exit_code(PalaverError()) == 2


def test_the_exit_codes_are_documented() -> None:
    documented = re.findall(r"^\| (\d+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert documented == ["0", "1", "2", "3", "69", "75", "78", "130"]
