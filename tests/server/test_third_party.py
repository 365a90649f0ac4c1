"""A skill in a package of its own: installed, found, routed to, tested with the kit, removed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "third_party_skill"
BIN = Path(sys.executable).parent

Run = Callable[..., str]

pytestmark = pytest.mark.live


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command with the folder ``site`` on the path, as a second site-packages."""
    path = [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}

    def run(*command: str) -> str:
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def install(run: Run, package: Path, site: Path) -> None:
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--python", sys.executable]
    run("uv", "pip", "install", *options, "--target", str(site), str(package))


def test_a_third_party_skill_is_installed_used_and_removed(run: Run, tmp_path: Path) -> None:
    package = shutil.copytree(PACKAGE, tmp_path / "package")
    assert "haiku" not in run("palaver", "skills", "list")
    install(run, package, tmp_path / "site")
    assert "haiku (palaver-haiku 1.2.0)" in run("palaver", "skills", "list")
    assert "skill      haiku" in run("palaver", "skills", "route", "a haiku about the rain please")
    tests = ["-q", "-o", "asyncio_mode=auto", str(package / "tests")]
    assert "1 passed" in run("python", "-m", "pytest", *tests)
    target = ["--python", sys.executable, "--target", str(tmp_path / "site")]
    run("uv", "pip", "uninstall", "--quiet", *target, "palaver-haiku")
    assert "haiku" not in run("palaver", "skills", "list")


def test_a_new_skill_works_unchanged(run: Run, tmp_path: Path) -> None:
    run("palaver", "skills", "new", "tea-time")
    package = tmp_path / "palaver-tea-time"
    install(run, package, tmp_path / "site")
    assert "tea-time" in run("palaver", "skills", "list")
    assert "1 passed" in run("python", "-m", "pytest", "-q", str(package))
