"""The page and its client are built from their sources with npm."""

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
WEB = ROOT / "server" / "palaver" / "web"
OLDEST_NODE = (20, 19)
TIMEOUT_SECONDS = 240


@pytest.fixture(scope="module")
def frontend() -> Path:
    """Return the folder of the sources, with its npm packages installed."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    if tuple(map(int, re.findall(r"\d+", version.stdout)))[:2] < OLDEST_NODE:
        pytest.skip(f"node is older than 20.19: {version.stdout.strip()}")
    if not (WEB / "frontend" / "node_modules" / ".package-lock.json").exists():
        pytest.skip("the npm packages of the page are not installed")
    return WEB / "frontend"


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_new_build_is_the_committed_one_byte_for_byte(frontend: Path, tmp_path: Path) -> None:
    run(ROOT / "scripts" / "frontend", tmp_path, cwd=ROOT)
    built, committed = contents(tmp_path), contents(WEB / "static")
    assert built.keys() == committed.keys()
    assert [name for name in built if built[name] != committed[name]] == []


def test_the_client_is_a_package_that_a_program_can_install(frontend: Path, tmp_path: Path) -> None:
    shutil.copytree(frontend / "client", tmp_path / "client")
    for name in ("package.json", "tsconfig.json"):
        shutil.copy(frontend / name, tmp_path / name)
    os.symlink(frontend / "node_modules", tmp_path / "node_modules")
    packed = run("npm", "pack", "--json", "--silent", cwd=tmp_path / "client")
    (archive,) = (tmp_path / "client").glob("palaver-client-*.tgz")
    assert archive.name in packed
    with tarfile.open(archive) as files:
        names = set(files.getnames())
        files.extractall(tmp_path / "installed")
    assert {"package/package.json", "package/README.md", "package/dist/index.d.ts"} <= names
    assert not [name for name in names if "/test/" in name or "/src/" in name]
    about = json.loads((tmp_path / "installed" / "package" / "package.json").read_text())
    assert "dependencies" not in about
    module = tmp_path / "installed" / "package" / about["exports"]["."]["default"]
    script = f"import({json.dumps(str(module))}).then((m) => console.log(Object.keys(m).sort()))"
    assert "Palaver" in run("node", "-e", script, cwd=tmp_path)
