"""``palaver evaluate`` as a process: interrupted, with the starter model, and its page."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.live.chromium import chromium
from tests.server.evaluation.runs import write_suite

pytest.importorskip("sklearn")
pytest.importorskip("rouge_score")
pytestmark = pytest.mark.live

PALAVER = str(Path(sys.executable).with_name("palaver"))
ROUTER = """
description = "Choice"
target = "router"
metrics = ["accuracy", "calibration_error"]
[rows]
files = ["rows.jsonl"]
split = "test"
expected = "chat"
"""
SUMMARIES = """
description = "Summaries"
target = "skill"
skill = "summarization"
metrics = ["rougeL", "perplexity"]
[rows]
files = ["rows.jsonl"]
split = "test"
text = "Summarize: {text}"
expected = "{text}"
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [PALAVER, "evaluate", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def read_cases(output: Path) -> list[str]:
    """Return the ids of the complete cases."""
    path = output / "cases.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line)["example"]["id"] for line in lines]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_goes_on_after_its_process_ended(tmp_path: Path, how: signal.Signals) -> None:
    rows = [{"text": f"good evening number {n}"} for n in range(2_000)]
    suite = write_suite(tmp_path, ROUTER, rows)
    output = tmp_path / "out"
    command = [PALAVER, "evaluate", str(suite), "--output", str(output)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while len(read_cases(output)) < 50 and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(how)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    done = read_cases(output)
    assert 50 <= len(done) < len(rows)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert f"It goes on with --output {output}" in errors
    finished = run(tmp_path, str(suite), "--output", str(output))
    assert finished.returncode == 0, finished.stderr
    cases = read_cases(output)
    assert cases[: len(done)] == done
    assert sorted(cases, key=int) == [str(n) for n in range(len(rows))]


@pytest.mark.openvino
def test_the_starter_model_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("openvino_genai")
    text = "The shop opens at nine. It closes at six. It sells bicycles and lamps."
    suite = write_suite(tmp_path, SUMMARIES, [{"text": f"{text} {n}"} for n in range(3)])
    finished = run(tmp_path, str(suite), "--output", "out", "--completion-price", "2")
    assert finished.returncode == 0, finished.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    scores = {name: score["value"] for name, score in result["scores"].items()}
    assert result["about"]["model"]
    assert scores["failures"] == 0
    assert scores["perplexity"] > 1
    assert scores["completion_tokens"] > 1
    assert scores["cost"] == pytest.approx(scores["completion_tokens"] * 2 / 1_000_000)
    assert 0 < scores["first_token_seconds"] <= scores["seconds"]


@pytest.mark.chromium
async def test_the_page_opens_without_a_network_and_without_an_error(tmp_path: Path) -> None:
    rows = [{"text": f"hello {n} <img src=x onerror=alert(1)>"} for n in range(3)]
    suite = write_suite(tmp_path, ROUTER, rows)
    finished = run(tmp_path, str(suite), "--output", "out")
    assert finished.returncode == 0, finished.stderr
    async with chromium() as browser:
        page = await browser.new_page(viewport={"width": 390, "height": 800})
        messages: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("dialog", lambda dialog: messages.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        await page.goto((tmp_path / "out" / "report.html").as_uri())
        assert await page.locator("h1").inner_text() == "small"
        assert await page.locator("article").count() == 3
        assert await page.locator("svg").count() >= 1
        wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not await page.evaluate(wide), "the page is wider than a phone"
        assert messages == []
        assert len(requests) == 1
