"""The server with its defaults: embedded engine, starter model, SQLite; and the README examples."""

import difflib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openvino_genai")
pytestmark = [pytest.mark.live, pytest.mark.openvino]

ROOT = Path(__file__).parents[2]
PALAVER = str(Path(sys.executable).with_name("palaver"))
EXAMPLE = re.compile(r"^\*\*(?P<question>.+?)\*\*\n\n(?P<reply>(?:>.*\n)+)", re.MULTILINE)
MIN_SIMILARITY = 0.6
"""Of a reply with the README's: floating-point arithmetic differs between processors."""


def examples() -> list[tuple[str, str, str]]:
    """Return the question, the reply and the skill of each example in the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = []
    for match in EXAMPLE.finditer(readme):
        lines = [line.removeprefix(">").removeprefix(" ") for line in match["reply"].splitlines()]
        *reply, _, caption = lines
        skill = re.search(r"\*(\w+)\*", caption)
        assert skill is not None
        found.append((match["question"], "\n".join(reply), skill[1]))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("embedded") / "data"
    handbook = ROOT / "docs" / "example-handbook.md"
    command = [PALAVER, "--set", f"server.data={folder}", "knowledge", "add", str(handbook)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run ``palaver serve``; yield its address and its process."""
    overrides = ("server.port=0", f"server.data={data}", "skills.chat.temperature=0")
    command = [PALAVER, *(word for each in overrides for word in ("--set", each)), "serve"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=data.parent
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    address = re.search(r"http://\S+/", line)
    assert address is not None, line
    yield address[0], process
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=25) == 0
    process.stdout.close()


def ask(address: str, thread: str, text: str) -> dict[str, Any]:  # Any: JSON values
    request = urllib.request.Request(
        f"{address}v1/conversations/{thread}/messages?wait=true",
        data=json.dumps({"text": text, "person": "reader"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        reply: dict[str, Any] = json.load(response)
        return reply


def test_the_readme_shows_an_example_for_every_skill() -> None:
    assert {skill for _, _, skill in examples()} == {
        "chat",
        "qa",
        "translation",
        "summarization",
        "codegen",
    }


@pytest.mark.parametrize("number", range(len(examples())))
def test_the_readme_shows_the_replies_of_the_server(
    server: tuple[str, subprocess.Popen[str]], number: int
) -> None:
    question, shown, skill = examples()[number]
    reply = ask(server[0], f"readme-{number}", question)
    assert (reply["outcome"], reply["skill"]) == ("done", skill)
    similarity = difflib.SequenceMatcher(None, reply["text"].strip(), shown.strip()).ratio()
    assert similarity >= MIN_SIMILARITY, reply["text"]


def test_the_terminal_client_gets_the_same_reply(
    server: tuple[str, subprocess.Popen[str]], data: Path
) -> None:
    question, shown, _ = next(example for example in examples() if example[2] == "qa")
    completed = subprocess.run(
        [PALAVER, "chat", "--url", server[0]],
        input=f"{question}\n",
        capture_output=True,
        text=True,
        timeout=60,
        cwd=data.parent,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert "[qa]" in completed.stdout
    assert shown.split("[")[0].strip() in completed.stdout


def test_a_second_server_on_the_same_data_exits_with_one_line(
    server: tuple[str, subprocess.Popen[str]], data: Path
) -> None:
    command = [PALAVER, "--set", "server.port=0", "--set", f"server.data={data}", "serve"]
    completed = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=data.parent, check=False
    )
    assert completed.returncode == 69
    assert "Traceback" not in completed.stderr
    assert "ledger" in completed.stderr


@pytest.mark.chromium
def test_the_page_shows_the_reply_and_its_source(
    server: tuple[str, subprocess.Popen[str]],
) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        pytest.skip("chromium is not installed")
    question, shown, _ = next(example for example in examples() if example[2] == "qa")
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=str(chromium), args=options)
        page = browser.new_page()
        page.goto(server[0])
        page.get_by_label("Your message").fill(question)
        page.keyboard.press("Enter")
        page.get_by_text(shown.split("[")[0].strip()).first.wait_for(timeout=20_000)
        page.get_by_text("Handbook of Larkspur Bicycles").first.wait_for(timeout=20_000)
        page.get_by_text("demonstration").first.wait_for(timeout=5_000)
        browser.close()


def test_the_version_is_printed_beside_a_broken_configuration(data: Path) -> None:
    (data.parent / "palaver.toml").write_text("[server\n", encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key == "PATH"}
    completed = subprocess.run(
        [PALAVER, "--version"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=data.parent,
        timeout=30,
        check=False,
    )
    (data.parent / "palaver.toml").unlink()
    assert completed.returncode == 0
