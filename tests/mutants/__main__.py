"""Run mutants:   python -m tests.mutants [--sample N] [--seed N] [MODULE …]

Each mutant of a module of `modules.toml` runs the tests that reach its line, in a copy of the
working tree, until one fails. The exit code is 1 when a mutant survives without a justification,
or a justification has no mutant.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.configuration import CONFIGURATION, Configuration, Justified
from tests.mutants.operators import Mutant, find_mutants, mutate
from tests.mutants.runs import Coverage, Tree

ROOT = Path(__file__).parents[2]


def copy_tree(target: Path) -> None:
    """Copy what git tracks, and what it does not ignore, as it is in the working tree."""
    listed = subprocess.run(
        ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"),
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run_mutant(tree: Tree, mutant: Mutant, coverage: Coverage) -> str:
    """Return ``killed``, ``survived``, or ``invalid`` for what is no Python."""
    path = tree.root / mutant.module
    source = path.read_text("utf-8")
    mutated = mutate(mutant, source)
    if mutated is None:
        return "invalid"
    tests, seconds = coverage.tests_of(mutant.line, mutant.statement)
    if not tests:
        return "survived"
    with tree.replaced(path, mutated):
        return "survived" if tree.passes(tests, seconds) else "killed"


def run_mutants(
    tree: Tree, configuration: Configuration, mutants: list[Mutant]
) -> dict[Mutant, str]:
    results: dict[Mutant, str] = {}
    coverage: dict[str, Coverage] = {}
    modules = list(dict.fromkeys(mutant.module for mutant in mutants))
    for module in modules:
        if module not in coverage:
            tests = configuration.tests[module]
            alike = [other for other in modules if configuration.tests[other] == tests]
            coverage |= tree.measure(alike, tests)
            for test in sorted(coverage[module].failed):
                say(f"fails without a mutant: {test}")
        began = time.monotonic()
        own = [mutant for mutant in mutants if mutant.module == module]
        for mutant in own:
            results[mutant] = run_mutant(tree, mutant, coverage[module])
            if results[mutant] == "survived":
                say(f"survived: {mutant}")
        killed = sum(results[mutant] == "killed" for mutant in own)
        say(f"{module}: killed {killed} of {len(own)} in {time.monotonic() - began:.0f} s")
    return results


def choose(mutants: list[Mutant], count: int | None, seed: int) -> list[Mutant]:
    """Return a sample, in the order of the modules."""
    if count is None or count >= len(mutants):
        return mutants
    chosen = set(random.Random(seed).sample(range(len(mutants)), count))
    return [mutant for number, mutant in enumerate(mutants) if number in chosen]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, metavar="N", help="run N of the mutants")
    parser.add_argument("--seed", type=int, default=1, help="chooses the sample")
    parser.add_argument("--lines", default="", metavar="TEXT", help="only lines that hold TEXT")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="part of a module's path")
    arguments = parser.parse_args()
    configuration = Configuration.load(CONFIGURATION)
    modules = [
        module
        for module in configuration.tests
        if not arguments.modules or any(part in module for part in arguments.modules)
    ]
    with tempfile.TemporaryDirectory(prefix="palaver-mutants-") as folder:
        copy_tree(Path(folder))
        tree = Tree(Path(folder).resolve(), ROOT)
        every = [
            mutant
            for module in modules
            for mutant in find_mutants(module, (ROOT / module).read_text("utf-8"))
        ]
        unused = configuration.without_mutant(every)
        candidates = [
            mutant
            for mutant in every
            if arguments.lines in mutant.text and configuration.justified(mutant) is None
        ]
        chosen = choose(candidates, arguments.sample, arguments.seed)
        say(f"{len(chosen)} of {len(every)} mutants in {len(modules)} modules")
        os.chdir(tree.root)
        results = run_mutants(tree, configuration, chosen)
        os.chdir(ROOT)
    return report(results, unused)


def report(results: dict[Mutant, str], unused: list[Justified]) -> int:
    survivors = [mutant for mutant, result in results.items() if result == "survived"]
    for justified in unused:
        say(f"justified without a mutant: {justified}")
    killed = sum(result == "killed" for result in results.values())
    say(f"{killed} killed, {len(survivors)} survived")
    return 1 if survivors or unused else 0


if __name__ == "__main__":
    sys.exit(main())
