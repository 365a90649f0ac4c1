"""The wheel and the source distribution: their content, and a reply from an empty environment."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PACKAGES = {
    "palaver": ROOT / "server" / "palaver",
    "palaver_skills": ROOT / "skills" / "palaver_skills",
    "palaver_plugins": ROOT / "plugins" / "palaver_plugins",
}
KIT_SCRIPT = """
import asyncio
from palaver.testing import ScriptedEngine, converse
from palaver_haiku import Haiku

async def main():
    async with converse(Haiku, engine=ScriptedEngine("Old pond.")) as chat:
        print(await chat.say("a haiku about a frog"))

asyncio.run(main())
"""

Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a command outside the checkout, without the checkout on the import path."""
    folder: Path = tmp_path_factory.mktemp("elsewhere")
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)
    if "PIP_FIND_LINKS" in environment:
        environment.setdefault("UV_FIND_LINKS", environment["PIP_FIND_LINKS"])

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def dist(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both distributions as ``make dist`` does."""
    folder: Path = tmp_path_factory.mktemp("dist")
    run(ROOT / "scripts" / "dist", folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("palaver_server-*-py3-none-any.whl")
    return path


def install(run: Run, folder: Path, *requirements: str | Path) -> Path:
    """Make a virtual environment with some requirements. Return its folder of commands."""
    run("uv", "venv", "--quiet", "--python", sys.executable, folder)
    constraint = ("--constraint", ROOT / "requirements" / "server.lock")
    python = ("--python", folder / "bin" / "python")
    run("uv", "pip", "install", "--quiet", *python, *constraint, *requirements)
    return folder / "bin"


def files_of_checkout() -> set[str]:
    """Return the files of the three packages, as paths inside a wheel. The sources of the page are
    not among them."""
    return {
        f"{name}/{path.relative_to(folder)}"
        for name, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and {"__pycache__", "frontend"}.isdisjoint(path.parts)
    }


def test_the_wheel_contains_the_three_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "palaver/py.typed",
        "palaver/web/static/index.html",
        "palaver/web/static/palaver-client.js",
        "palaver_plugins/ledgers/redis/lua/accept.lua",
        "palaver_plugins/starter/model.safetensors",
        "palaver_plugins/starter/tokenizer.json",
        "palaver_skills/trigrams.txt",
    } <= names
    assert {name.partition("/")[0] for name in names} == {
        *PACKAGES,
        f"{'-'.join(wheel.name.split('-')[:2])}.dist-info",
    }
    assert files_of_checkout() <= names
    assert not [name for name in names if "/frontend/" in name or "node_modules" in name]


def test_the_source_distribution_contains_no_tests(dist: Path) -> None:
    (path,) = dist.glob("palaver_server-*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "server/palaver/__init__.py"} <= names
    assert {name.partition("/")[0] for name in names if "/" in name} == {
        "server",
        "skills",
        "plugins",
    }
    assert not [name for name in names if "/frontend/" in name or "node_modules" in name]


def test_the_wheel_and_a_third_party_skill_answer_in_an_empty_environment(
    run: Run, wheel: Path, tmp_path: Path
) -> None:
    commands = install(run, tmp_path / "env", wheel, ROOT / "tests" / "third_party_skill")
    assert "haiku (palaver-haiku 1.2.0)" in run(commands / "palaver", "skills", "list")
    assert run(commands / "python", "-c", KIT_SCRIPT) == "Old pond.\n"


@pytest.fixture
def address(run: Run, wheel: Path, tmp_path: Path) -> Iterator[str]:
    """Start ``palaver serve`` from the wheel with the starter model. Yield its address."""
    pytest.importorskip("openvino_genai")
    commands = install(run, tmp_path / "env", f"palaver-server[openvino] @ {wheel.as_uri()}")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.Popen(
        [commands / "palaver", "--set", "server.port=0", "serve"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+/", line)
    assert found is not None, line
    yield found[0]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=25) == 0
    process.stdout.close()


@pytest.mark.openvino
def test_the_installed_server_answers_a_message(address: str) -> None:
    with urllib.request.urlopen(address, timeout=60) as page:
        assert b"<html" in page.read()
    request = urllib.request.Request(
        f"{address}v1/conversations/first/messages?wait=true",
        data=json.dumps({"text": "Are you a robot or real?", "person": "reader"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        reply = json.load(response)
    assert (reply["outcome"], reply["skill"]) == ("done", "chat")
    assert reply["text"]
