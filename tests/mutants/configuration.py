"""The configuration of the mutants: modules, their tests, and the justified survivors."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.mutants.operators import Mutant

CONFIGURATION = Path(__file__).parent / "modules.toml"


class Justified(NamedTuple):
    """A mutant that need not die, named by what stays when lines move."""

    module: str
    line: str
    operators: tuple[str, ...]
    reason: str

    def matches(self, mutant: Mutant) -> bool:
        named = not self.operators or mutant.operator in self.operators
        return named and (self.module, self.line) == (mutant.module, mutant.text)


class Configuration:
    """Modules with the tests that cover them, and what is justified."""

    def __init__(self, tests: Mapping[str, list[str]], justifications: list[Justified]) -> None:
        self.tests = tests
        self._justifications = justifications

    @classmethod
    def load(cls, path: Path) -> "Configuration":
        with path.open("rb") as file:
            found = tomllib.load(file)
        justifications = [
            Justified(
                each["module"], each["line"], tuple(each.get("operators", ())), each["reason"]
            )
            for each in found.get("justified", ())
        ]
        return cls(found["tests"], justifications)

    def justified(self, mutant: Mutant) -> Justified | None:
        return next((each for each in self._justifications if each.matches(mutant)), None)

    def without_mutant(self, mutants: Iterable[Mutant]) -> list[Justified]:
        """Return the justifications, of the modules of ``mutants``, that match none of them."""
        listed = list(mutants)
        modules = {mutant.module for mutant in listed}
        return [
            each
            for each in self._justifications
            if each.module in modules and not any(each.matches(mutant) for mutant in listed)
        ]
