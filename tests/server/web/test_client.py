"""The JavaScript client, under node's own test runner."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_javascript_client() -> None:
    folder = Path(__file__).parent / "client"
    tests = sorted(str(path) for path in folder.glob("*.test.mjs"))
    assert tests
    result = subprocess.run(
        ["node", "--test", *tests], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout
