"""``palaver jobs`` and ``palaver data`` as somebody at a terminal uses them."""

import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.server.data.conversations import rate, say
from tests.server.data.preparing import rows_of, write_rows
from tests.server.jobs import counting_program

from palaver.cli import main
from palaver.cli.console import Console
from palaver.cli.jobs import follow_job, job_store
from palaver.jobs.folder import JobEnd, JobFolder
from palaver.jobs.store import JobStore
from palaver.ledger import Ledger

pytestmark = pytest.mark.slow

PATIENCE = 120.0


class Terminal:
    """Runs commands on a data directory."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder
        self.settings = (f"server.data={folder}", "server.port=0", *settings)
        self.store = JobStore(folder / "jobs", in_background=False)

    def run(self, *arguments: str) -> Result:
        options = [word for setting in self.settings for word in ("--set", setting)]
        result = CliRunner().invoke(main, [*options, *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result

    def output(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.output

    def create(self, name: str, **config: float) -> JobFolder:
        command = [sys.executable, counting_program.__file__]
        return self.store.create("count", command, {"steps": 40} | config, name=name)


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path, "jobs.background=false")


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_a_job_is_watched_halted_stopped_and_removed(terminal: Terminal) -> None:
    job = terminal.create("one", seconds=0.02)
    assert "one" in terminal.output("jobs", "list")
    terminal.output("jobs", "resume", "one")
    wait(lambda: len(job.progress()) >= 3)
    terminal.output("jobs", "pause", "one")
    wait(lambda: job.state() == "paused")
    assert "paused" in terminal.output("jobs", "show", "one")
    terminal.output("jobs", "resume", "one")
    terminal.output("jobs", "stop", "one")
    wait(lambda: job.state() == "stopped")
    terminal.output("jobs", "resume", "one")
    assert "finished" in terminal.output("jobs", "show", "--follow", "one")
    [listed] = json.loads(terminal.output("jobs", "list", "--json"))
    assert (listed["state"], listed["progress"]["step"]) == ("finished", 40)
    terminal.output("jobs", "remove", "one")
    assert terminal.store.jobs() == []


def test_the_data_directory_may_be_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(Path("data"), "jobs.background=false")
    terminal.create("one")
    terminal.output("jobs", "resume", "one")
    assert "finished" in terminal.output("jobs", "show", "--follow", "one")


def test_one_job_runs_at_a_time(tmp_path: Path) -> None:
    for most, code in ((1, 2), (2, 0)):
        terminal = Terminal(
            tmp_path / str(most), "jobs.background=false", f"jobs.max_running={most}"
        )
        for name in ("first", "second"):
            terminal.create(name, seconds=0.05)
        terminal.output("jobs", "resume", "first")
        assert terminal.run("jobs", "resume", "second").exit_code == code
        for job in terminal.store.jobs():
            if job.state() == "running":
                terminal.output("jobs", "stop", "--now", job.name)


@pytest.mark.parametrize(
    ("background", "policy"), [("true", os.SCHED_IDLE), ("false", os.SCHED_OTHER)]
)
def test_the_program_computes_only_when_nobody_else_wants_to(
    tmp_path: Path, background: str, policy: int
) -> None:
    terminal = Terminal(tmp_path, f"jobs.background={background}")
    job = terminal.create("one", seconds=0.05)
    terminal.output("jobs", "resume", "one")
    process = job.process()
    assert process is not None
    wait(lambda: bool(job.progress()) or os.sched_getscheduler(process.pid) == policy)
    assert os.sched_getscheduler(process.pid) == policy
    terminal.output("jobs", "stop", "--now", "one")


@pytest.mark.parametrize(
    ("days", "left"), [(0, ["old", "new"]), (0.5, ["new"]), (2, ["old", "new"])]
)
def test_old_jobs_are_removed_when_another_one_is_created(
    tmp_path: Path, days: float, left: list[str]
) -> None:
    terminal = Terminal(tmp_path, f"jobs.keep_days={days}")
    end = JobEnd("finished", "", {}, time.time() - 86_400)
    terminal.create("old").write("end.json", dataclasses.asdict(end))
    store = job_store(Console(None, terminal.settings))
    store.create("count", [sys.executable], {}, name="new")
    assert [job.name for job in store.jobs()] == left


def test_a_failed_job_fails_the_command_that_follows_it(terminal: Terminal) -> None:
    terminal.create("one", fails_at=2)
    terminal.output("jobs", "resume", "one")
    result = terminal.run("jobs", "show", "--follow", "one")
    assert result.exit_code == 2
    assert "ValueError: the data is damaged" in result.output
    assert "Traceback" in terminal.output("jobs", "log", "one")


def test_watching_may_end_before_the_job(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    job = terminal.create("one", seconds=0.05)
    terminal.output("jobs", "resume", "one")

    def press_ctrl_c(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        follow_job(job, sleep=press_ctrl_c)
    assert ended.value.code == 130
    assert "Job 'one' goes on" in capsys.readouterr().err
    assert job.state() == "running"
    terminal.output("jobs", "stop", "--now", "one")


@pytest.mark.slow
def test_a_preparation_that_somebody_stops_goes_on_later(terminal: Terminal) -> None:
    pytest.importorskip("rensa")
    rows = [{"text": f"row number {number} of them", "label": "x"} for number in range(20_000)]
    write_rows(terminal.folder / "rows.jsonl", rows)
    source = 'kind = "classification"\n[[sources]]\nname = "rows"\nfiles = ["rows.jsonl"]'
    (terminal.folder / "recipe.toml").write_text(source)

    def stop() -> None:
        wait(lambda: any(job.progress() for job in terminal.store.jobs()))
        terminal.store.stop(terminal.store.find("rows"))

    stopping = threading.Thread(target=stop)
    stopping.start()
    recipe = str(terminal.folder / "recipe.toml")
    assert "'rows' is stopped" in terminal.output("data", "prepare", recipe, "--name", "rows")
    stopping.join()
    assert terminal.run("data", "show", "rows").exit_code == 2
    terminal.output("jobs", "resume", "rows")
    terminal.output("jobs", "show", "--follow", "rows")
    assert len(rows_of(terminal.store.find("rows"))) == 1, "they differ in their numbers alone"


FEEDBACK = """
description = "What people liked"
kind = "chat"
[[sources]]
name = "liked"
ledger = "feedback"
rating = "up"
[[sources]]
name = "written"
files = ["rows.jsonl"]
[split]
exclude_suites = ["suite.toml"]
"""
SUITE = """
description = "d"
target = "server"
metrics = ["failures"]
[rows]
files = ["suite.jsonl"]
split = "test"
"""


@pytest.fixture
def shop(terminal: Terminal) -> Terminal:
    """A terminal of an installation with rated replies, and a recipe for them."""
    pytest.importorskip("rensa")
    folder = terminal.folder
    written = [{"prompt": "When do you open on Sunday?", "reply": "At nine."}]
    write_rows(folder / "rows.jsonl", written)
    write_rows(folder / "suite.jsonl", [{"text": "on SUNDAY, when do you open?"}])
    (folder / "suite.toml").write_text(SUITE)
    (folder / "recipe.toml").write_text(FEEDBACK)

    async def talk(ledger: Ledger) -> None:
        for person in ("ada", "bob"):
            for number, rating in enumerate(("up", "down")):
                question = f"question {number} of {person} about parcels?"
                turn = await say(ledger, person, person, question, "an answer to it")
                await rate(ledger, person, person, turn, "up" if rating == "up" else "down")

    Console(None, terminal.settings).run_with_ledger(talk)
    return terminal


@pytest.mark.slow
def test_feedback_becomes_training_data_and_an_erasure_reaches_it(shop: Terminal) -> None:
    recipe = str(shop.folder / "recipe.toml")
    refused = shop.run("data", "prepare", recipe, "--name", "liked")
    assert refused.exit_code == 2
    assert "nobody who has consented" in refused.output
    assert shop.store.jobs() == [], "what could not begin is not kept"

    shop.output("data", "consent", "give", "--person", "ada")
    assert "'ada'" in shop.output("data", "consent", "list")
    printed = shop.output("data", "prepare", recipe, "--name", "liked")
    assert "in a suite" in printed
    job = shop.store.find("liked")
    [row] = rows_of(job)
    assert row["messages"][0]["content"] == "question 0 of ada about parcels?"
    assert "without leaks" in shop.output("data", "check", "liked")
    assert "1 rows" in shop.output("data", "show", "liked")

    erased = shop.output("erase", "--yes", "--person", "ada")
    assert "1 rows of training data" in erased
    assert "files of job 'liked'" in erased
    assert rows_of(job) == []
    assert "later" in shop.output("data", "show", "liked")
    assert (job.path / "profile.html").exists(), "it is written again"
    assert "ada" not in shop.output("data", "consent", "list")


@pytest.mark.slow
def test_a_withdrawn_consent_removes_rows_and_checks_find_changes(shop: Terminal) -> None:
    shop.output("data", "consent", "give", "--everyone")
    shop.output("data", "prepare", str(shop.folder / "recipe.toml"), "--name", "liked")
    job = shop.store.find("liked")
    assert len(rows_of(job)) == 2
    assert "files of job 'liked'" in shop.output("data", "consent", "withdraw", "--person", "bob")
    assert len(rows_of(job)) == 1
    shop.output("data", "check", "liked", "--suite", str(shop.folder / "suite.toml"))
    write_rows(shop.folder / "suite.jsonl", [{"text": "Question 7 of ada, about parcels"}])
    leaks = shop.run("data", "check", "liked", "--suite", str(shop.folder / "suite.toml"))
    assert leaks.exit_code == 2
    assert "1 texts of suite suite.toml are in" in leaks.output
    for file in (job.path / "data").iterdir():
        file.write_bytes(file.read_bytes() + b'{"messages": []}\n')
    changed = shop.run("data", "check", "liked")
    assert "train.jsonl is not as it was written" in changed.output
    assert "the last message is not the assistant's" in changed.output


DOCUMENTS = """
kind = "retrieval"
[[sources]]
name = "pages"
documents = true
row = { query = "{title}", positives = "{text}" }
"""


@pytest.mark.slow
def test_conversations_and_documents_of_an_installation_are_read(shop: Terminal) -> None:
    shop.output("data", "consent", "give", "--person", "bob")
    recipe = shop.folder / "recipe.toml"
    recipe.write_text('kind = "chat"\n[[sources]]\nname = "all"\nledger = "conversations"')
    shop.output("data", "prepare", str(recipe), "--name", "talks")
    [row] = rows_of(shop.store.find("talks"))
    said = [each["content"] for each in row["messages"] if each["role"] == "user"]
    assert said == [f"question {number} of bob about parcels?" for number in range(2)]

    page = shop.folder / "lamps.md"
    page.write_text("# Lamps\n\nA lamp gives light, and it stands on a table.\n")
    shop.output("knowledge", "add", str(page))
    recipe.write_text(DOCUMENTS)
    shop.output("data", "prepare", str(recipe), "--name", "pages")
    [row] = rows_of(shop.store.find("pages"))
    assert row["query"] == "Lamps"
    assert "A lamp gives light" in row["positives"][0]


def test_commands_name_what_is_wrong(terminal: Terminal) -> None:
    for arguments, words in (
        (("data", "show", "nothing"), "there is no job 'nothing'"),
        (("data", "consent", "give"), "--everyone"),
        (("data", "consent", "give", "--person", "a", "--everyone"), "--everyone"),
    ):
        result = terminal.run(*arguments)
        assert result.exit_code == 2
        assert words in result.output
    terminal.create("count-one")
    assert "prepares no data" in terminal.run("data", "show", "count-one").output
