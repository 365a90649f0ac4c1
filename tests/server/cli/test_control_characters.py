"""No text from outside reaches the terminal or the log as it is: tested on every command."""

import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from tests.plugins.engines.models import write_model
from tests.server.web.live_server import LiveServer

from palaver.cli import main
from palaver.cli.console import Console, encode_json
from palaver.cli.logs import FORMAT, LogFormatter, log_loop_error
from palaver.control_characters import escape_controls, escape_json
from palaver.feedback import Feedback
from palaver.ledger import Ledger
from palaver.messages import Conversation, Finished, Message

pytestmark = pytest.mark.slow

FORGED = "2026-01-01 00:00:00,000 ERROR palaver: forged"
HOSTILE = (
    f"EVIL\x1b[2J\x1b]52;c;AAAA\x07\x9b31m\x7f\r\u202e\u2066\u200f\u2028\x85\x0b\x00\n{FORGED}"
)
HOSTILE_NAME = HOSTILE.replace("\x00", "").replace("palaver:", "palaver")
"""The same as the name of a file."""
NOT_UTF8 = os.fsdecode(b"x\xff")
OWN_STYLE = re.compile(r"\x1b\[\d{1,2}m")
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def check_output(output: str, *, forged_lines: bool = False) -> None:
    """Check that the hostile text is there and harmless."""
    plain = OWN_STYLE.sub("", output)
    assert "EVIL" in plain, plain
    assert not OBEYED.search(plain), ascii(plain)
    assert forged_lines or not [line for line in plain.splitlines() if line.startswith(FORGED)]


class Installation:
    """A data directory with hostile contents, and the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._settings = (f"server.data={self.data}", "server.port=0")

    def run(self, *arguments: str, text: str = "") -> str:
        """Return what a command prints, as to a terminal with colours."""
        result = self.invoke(*arguments, text=text)
        assert not isinstance(result.exception, Exception), result.exception
        return result.output

    def invoke(self, *arguments: str, text: str = "") -> Result:
        options = [word for setting in self._settings for word in ("--set", setting)]
        return CliRunner().invoke(main, [*options, *arguments], input=text, color=True)

    def add_dead_letter(self) -> str:
        return Console(None, self._settings).run_with_ledger(store_dead_letter)

    def add_feedback(self) -> str:
        return Console(None, self._settings).run_with_ledger(store_feedback)

    def add_suite(self) -> str:
        rows = {"files": ["rows.json"], "split": HOSTILE, "expected": "{text}"}
        tables = [f"{key} = {json.dumps(value)}" for key, value in rows.items()]
        lines = ['description = "d"', 'target = "router"', f"metrics = [{json.dumps(HOSTILE)}]"]
        (self.folder / "hostile.toml").write_text("\n".join([*lines, "[rows]", *tables]))
        (self.folder / "rows.json").write_text(json.dumps([{"text": HOSTILE}]))
        return ""

    def add_recipe(self) -> str:
        text = f'kind = "chat"\n[[sources]]\nname = "x"\nfiles = [{json.dumps(HOSTILE)}]\n'
        (self.folder / "hostile.toml").write_text(text)
        return ""

    def add_data(self) -> str:
        """Add prepared data whose manifest is hostile, and whose rows are gone."""
        self.add_job()
        step = {"in": 1, "out": 0, "dropped": {HOSTILE: 1}, "redactions": {}, "groups": {}}
        manifest = {
            "kind": "chat",
            "steps": {"read": step, "redact": step},
            "outputs": {f"data/{HOSTILE_NAME}.jsonl": {"rows": 0, "bytes": 0, "sha256": ""}},
            "erased_rows": 0,
        }
        folder = self.data / "jobs" / "hostile"
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "profile.html").write_text("")
        return ""

    def add_job(self) -> str:
        """Add a job whose program has failed with a hostile message."""
        folder = self.data / "jobs" / "hostile"
        folder.mkdir(parents=True)
        described = {"kind": "data", "command": [], "config": {}, "inputs": {HOSTILE: HOSTILE}}
        needs = {"disk_bytes": 0, "memory_bytes": 0, "created": 0.0}
        end = {"state": "failed", "error": HOSTILE, "result": {HOSTILE: HOSTILE}, "time": 0.0}
        (folder / "job.json").write_text(json.dumps(described | needs))
        (folder / "end.json").write_text(json.dumps(end))
        (folder / "progress.jsonl").write_text(
            json.dumps({"step": 1, "steps": 2, HOSTILE: HOSTILE})
        )
        (folder / "log.txt").write_text(HOSTILE)
        return ""

    def add_document(self) -> str:
        path = self.folder / f"{HOSTILE_NAME}.md"
        path.write_text(f"# {HOSTILE_NAME}\n\nwords {HOSTILE_NAME}\n")
        return self.run("knowledge", "add", str(path))

    def add_model(self) -> str:
        directory = write_model(self.folder / HOSTILE_NAME)
        card = {"license": HOSTILE, "languages": [HOSTILE], "scores": {HOSTILE: 1.0}}
        (directory / "card.json").write_text(json.dumps(card))
        return self.run("models", "add", str(directory), "--name", "hostile")


async def store_dead_letter(ledger: Ledger) -> str:
    conversation = Conversation("default", "web", "t")
    await ledger.accept(Message(conversation=conversation, id="1", person="ada", text=HOSTILE))
    claim = await ledger.claim("worker", lease=60.0, history=10)
    assert claim is not None
    end = Finished(turn=claim.turn, outcome="failed", length=0)
    await ledger.settle(claim, [end], expect=0, dead_letter_reason=HOSTILE)
    return claim.turn


async def store_feedback(ledger: Ledger) -> str:
    turn = await store_dead_letter(ledger)
    feedback = Feedback(turn=turn, rating="down", comment=HOSTILE)
    await ledger.give_feedback(Conversation("default", "web", "t"), "ada", feedback)
    return turn


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


@pytest.fixture
def hostile_server() -> Iterator[str]:
    """Run a server that answers everything with hostile texts; yield its address."""
    address: list[str] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        application = web.Application()
        application.router.add_get("/ws", speak)
        application.router.add_get("/v1/models", list_models)
        application.router.add_get("/readyz", report_problem)
        application.router.add_route("*", "/{path:.*}", refuse)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address.append(site.name)
        ready.set()
        await asyncio.to_thread(stop.wait)
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(5)
    yield address[0]
    stop.set()
    thread.join(5)


async def list_models(request: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": HOSTILE}, {"id": HOSTILE_NAME}]})


async def refuse(request: web.Request) -> web.Response:
    return web.json_response({"error": {"code": "x", "message": HOSTILE}}, status=400)


async def report_problem(request: web.Request) -> web.Response:
    return web.json_response({"status": "x", "problems": {HOSTILE: HOSTILE}}, status=503)


async def speak(request: web.Request) -> web.WebSocketResponse:
    """Open the conversation, answer one message with every frame that is shown, and end."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.receive_json()
    await socket.send_json({"type": "welcome", "snapshot": {"pending": [], "history": []}})
    sent = await socket.receive_json()
    turn = {"turn": HOSTILE}
    citation = {"number": HOSTILE, "title": HOSTILE, "section": HOSTILE}
    for frame in (
        {"type": "message", "id": sent["id"], "moved": False, "ahead": HOSTILE, **turn},
        {"type": "queued", "ahead": HOSTILE, **turn},
        {"type": "started", "attempt": 2, "position": 0, **turn},
        {"type": "routed", "skill": HOSTILE, **turn},
        {"type": "text", "position": 0, "text": HOSTILE, **turn},
        {"type": "citation", "citation": citation, **turn},
        {"type": "error", "id": "other", "message": HOSTILE},
        {
            "type": "finished",
            "messages": [sent["id"]],
            "outcome": "failed",
            "problem": {"message": HOSTILE},
            **turn,
        },
    ):
        await socket.send_json(frame)
    await socket.receive()
    await socket.close()
    return socket


Scenario = Callable[[Installation, str], str]


def after(prepare: Callable[[Installation], object], *arguments: str) -> Scenario:
    def run(installation: Installation, server: str) -> str:
        prepare(installation)
        return installation.run(*arguments)

    return run


def with_dead_letter(*arguments: str) -> Scenario:
    """Run a command with the id of a hostile dead letter, and again with a hostile id."""

    def run(installation: Installation, server: str) -> str:
        turn = installation.add_dead_letter()
        output = installation.run("deadletters", *arguments, turn)
        return output + installation.run("deadletters", *arguments, HOSTILE)

    return run


def run_only(*arguments: str) -> Scenario:
    return after(lambda installation: None, *arguments)


def with_server(*arguments: str, text: str = "") -> Scenario:
    def run(installation: Installation, server: str) -> str:
        return installation.run(*arguments, f"--url={server}", text=text)

    return run


SCENARIOS: dict[str, Scenario] = {
    "channels approve": with_server("channels", "approve", "slack", "code"),
    "channels list": with_server("channels", "list"),
    "channels people": with_server("channels", "people", "slack"),
    "channels revoke": with_server("channels", "revoke", "slack", "person"),
    "channels waiting": with_server("channels", "waiting", "slack"),
    "channels slack manifest": run_only(
        "channels", "slack", "manifest", "--url", f"https://{HOSTILE}"
    ),
    "channels test": run_only("channels", "test", HOSTILE),
    "chat": with_server("chat", text="hello\n"),
    "check": run_only("--set", f"server.data={HOSTILE_NAME}", "check"),
    "data check": after(Installation.add_data, "data", "check", "hostile"),
    "data consent give": run_only("data", "consent", "give", f"--person={HOSTILE}"),
    "data consent list": run_only("data", "consent", "list", f"--tenant={HOSTILE}"),
    "data consent withdraw": run_only("data", "consent", "withdraw", f"--person={HOSTILE}"),
    "data prepare": after(Installation.add_recipe, "data", "prepare", "hostile.toml"),
    "data show": after(Installation.add_data, "data", "show", "hostile"),
    "deadletters list": after(Installation.add_dead_letter, "deadletters", "list"),
    "deadletters show": with_dead_letter("show"),
    "deadletters replay": with_dead_letter("replay"),
    "a2a approve": run_only("a2a", "approve", HOSTILE),
    "a2a list": with_server("a2a", "list"),
    "a2a test": run_only("a2a", "test", HOSTILE),
    "deadletters discard": with_dead_letter("discard"),
    "erase": run_only("erase", f"--person={HOSTILE}"),
    "evaluate compare": run_only("evaluate", "compare", HOSTILE_NAME, HOSTILE_NAME),
    "evaluate from-feedback": run_only("evaluate", "from-feedback", HOSTILE_NAME, HOSTILE_NAME),
    "evaluate list": run_only("evaluate", "list", HOSTILE),
    "evaluate run": after(Installation.add_suite, "evaluate", "run", "hostile.toml"),
    "export": after(Installation.add_dead_letter, "export", "--person=ada"),
    "feedback export": after(Installation.add_feedback, "feedback", "export"),
    "healthcheck": with_server("healthcheck"),
    "jobs list": after(Installation.add_job, "jobs", "list"),
    "jobs log": after(Installation.add_job, "jobs", "log", "hostile"),
    "jobs pause": run_only("jobs", "pause", HOSTILE),
    "jobs remove": run_only("jobs", "remove", HOSTILE),
    "jobs resume": run_only("jobs", "resume", HOSTILE),
    "jobs show": after(Installation.add_job, "jobs", "show", "hostile"),
    "jobs stop": run_only("jobs", "stop", HOSTILE),
    "knowledge add": lambda installation, server: installation.run(
        "knowledge", "add", HOSTILE_NAME
    ),
    "knowledge embed": run_only("knowledge", "embed", HOSTILE),
    "knowledge list": after(Installation.add_document, "knowledge", "list"),
    "knowledge remove": run_only("knowledge", "remove", HOSTILE),
    "knowledge search": after(Installation.add_document, "knowledge", "search", "words"),
    "knowledge sync": run_only("knowledge", "sync", HOSTILE_NAME),
    "mcp approve": run_only("mcp", "approve", HOSTILE),
    "mcp list": with_server("mcp", "list"),
    "mcp test": run_only("mcp", "test", HOSTILE),
    "models add": run_only("models", "add", HOSTILE),
    "models info": after(Installation.add_model, "models", "info", "hostile"),
    "models list": after(Installation.add_model, "models", "list"),
    "models pull": run_only("models", "pull", HOSTILE),
    "models remove": after(Installation.add_model, "models", "remove", "hostile"),
    "models setup": with_server("models", "setup", "--model=walker"),
    "models use": run_only("models", "use", HOSTILE),
    "serve": run_only("serve", f"--host={HOSTILE}"),
    "skills list": run_only("skills", "list", HOSTILE),
    "skills new": run_only("skills", "new", HOSTILE),
    "skills route": run_only("skills", "route", f"Translate into German: {HOSTILE}"),
    "stop": with_server("stop", "thread"),
}


def list_commands(group: click.Group, prefix: str = "") -> Iterator[str]:
    """Yield the path of every command, those of plugins included."""
    context = click.Context(group, info_name="palaver", obj=Console(None, ()))
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from list_commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


def test_every_command_has_a_scenario() -> None:
    assert sorted(list_commands(main)) == sorted(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.slow
def test_no_command_prints_a_control_character(
    name: str,
    installation: Installation,
    hostile_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(installation.folder)
    check_output(SCENARIOS[name](installation, hostile_server), forged_lines=name == "chat")


@pytest.mark.parametrize(
    "arguments", [("--set", HOSTILE), (f"--{HOSTILE}",), (HOSTILE,), ("knowledge", HOSTILE)]
)
def test_no_error_of_usage_prints_a_control_character(
    arguments: tuple[str, ...], installation: Installation
) -> None:
    check_output(installation.run(*arguments, "serve"))


def test_a_name_that_is_not_utf8_can_be_printed(installation: Installation) -> None:
    path = installation.folder / os.fsdecode(b"EVIL\xff.md")
    path.write_text("words")
    check_output(installation.run("knowledge", "add", str(path)))


@pytest.mark.parametrize(
    "arguments",
    [
        ("knowledge", "remove", NOT_UTF8),
        ("knowledge", "list", "--tenant", NOT_UTF8),
        ("knowledge", "add", "--tenant", NOT_UTF8, str(Path(__file__).parents[3] / "README.md")),
        ("export", "--person", NOT_UTF8),
        ("erase", "--yes", "--person", NOT_UTF8),
        ("deadletters", "discard", NOT_UTF8),
        ("skills", "route", NOT_UTF8),
    ],
)
@pytest.mark.slow
def test_an_argument_that_is_not_utf8_is_named(
    installation: Installation, arguments: Sequence[str]
) -> None:
    installation.add_document()
    result = installation.invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert "'x\\udcff'" in result.output


def test_an_export_stays_the_same_json(installation: Installation) -> None:
    installation.add_dead_letter()
    printed = installation.run("export", "--person=ada")
    file = installation.folder / "export.json"
    installation.run("export", "--person=ada", "--output", str(file))
    for text in (printed, file.read_text(encoding="utf-8")):
        check_output(text)
        [[entry, *_]] = json.loads(text)["conversations"].values()
        assert entry["text"] == HOSTILE


def test_an_unexpected_error_prints_no_control_character() -> None:
    program = (
        "from palaver.cli import main\nimport click\n"
        "@main.command()\ndef crash():\n"
        f"    raise RuntimeError({HOSTILE!r})\n"
        "main(['crash'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 1
    errors = done.stderr.decode()
    assert "Traceback" in errors
    check_output(errors, forged_lines=True)


@given(st.text())
def test_json_keeps_its_value(text: str) -> None:
    assert json.loads(encode_json({"a": text})) == {"a": text}
    assert json.loads(escape_json(json.dumps(text, ensure_ascii=False))) == text


@given(st.text(st.characters(exclude_categories=())))
def test_every_escaped_text_can_be_printed(text: str) -> None:
    for keep_lines in (False, True):
        escaped = escape_controls(text, keep_lines=keep_lines)
        assert not OBEYED.search(escaped)
        escaped.encode()
        assert keep_lines or "\n" not in escaped


def test_ordinary_text_of_all_writings_stays() -> None:
    text = "Zürich, 漢字, עברית, العربية, हिन्दी, 👩‍👩‍👧, a\\b"
    assert escape_controls(text) == text


# Logs


def format_record(message: str, *arguments: object, error: BaseException | None = None) -> str:
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("palaver", logging.ERROR, "f.py", 1, message, arguments, info)
    return LogFormatter(FORMAT).format(record)


def test_a_record_is_one_line() -> None:
    text = format_record("request %s failed", HOSTILE)
    check_output(text)
    assert len(text.splitlines()) == 1
    assert "its arguments do not fit" in format_record("%d", HOSTILE)
    check_output(format_record(HOSTILE))


def test_a_traceback_is_indented_and_without_the_texts_of_its_errors() -> None:
    try:
        try:
            raise ValueError(HOSTILE)
        except ValueError as error:
            raise type(HOSTILE.replace("\x00", ""), (Exception,), {})(HOSTILE) from error
    except Exception as error:  # noqa: BLE001 - the class is made above
        text = format_record("failed", error=error)
    first, *further = text.splitlines()
    assert first.endswith("ERROR palaver: failed")
    assert all(line.startswith("    ") for line in further)
    assert text.index("ValueError") < text.index("EVIL")
    check_output(text)


class LeavesAnError:
    def __del__(self) -> None:
        raise ValueError(HOSTILE)


def log_with_a_librarys_own_handler() -> None:
    library = logging.getLogger("library")
    library.addHandler(logging.StreamHandler())
    library.propagate = False
    library.warning("the model says %s", HOSTILE)


def fail_in_a_thread() -> None:
    thread = threading.Thread(target=int, args=(HOSTILE,))
    thread.start()
    thread.join()


WRITES: dict[str, Callable[[], object]] = {
    "log": lambda: logging.getLogger("palaver.x").warning("the file %s", HOSTILE),
    "error": lambda: logging.getLogger("x").error("failed", exc_info=ValueError(HOSTILE)),
    "library": log_with_a_librarys_own_handler,
    "warning": lambda: warnings.warn(HOSTILE, stacklevel=1),
    "thread": fail_in_a_thread,
    "finalizer": LeavesAnError,
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WRITES)
@pytest.mark.parametrize("configure", [False, True])
def test_nothing_that_a_library_writes_reaches_the_terminal_as_it_is(
    way: str, configure: bool
) -> None:
    program = f"""
from tests.server.cli import test_control_characters as these
from palaver.cli import main
from palaver.cli.logs import configure_logging

@main.command()
def write():
    {configure} and configure_logging(10)
    these.WRITES[{way!r}]()

main(["write"])
"""
    child = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    assert child.returncode == 0, child.stderr
    assert child.stderr.strip()
    assert not OBEYED.search(child.stderr), ascii(child.stderr)
    assert FORGED not in [line.strip() for line in child.stderr.splitlines()]
    quotes = way in ("log", "library", "warning")  # errors are logged without their text
    assert ("EVIL" in child.stderr) == quotes


async def test_an_error_that_nobody_awaits_is_logged_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ValueError(HOSTILE)

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_loop_error)
    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    del task
    gc.collect()
    loop.set_exception_handler(None)
    (record,) = caplog.records
    assert record.getMessage().startswith("Task exception was never retrieved: ValueError (")
    assert "EVIL" not in record.getMessage()


async def test_a_callback_that_fails_is_logged_without_its_arguments(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_loop_error)
    loop.call_soon(int, HOSTILE)
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    (record,) = caplog.records
    assert record.getMessage().startswith("a callback failed: ValueError")
    assert "EVIL" not in record.getMessage()


async def test_no_request_forges_a_line_of_the_log(
    live_server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    paths = ("/%0A" + FORGED.replace(" ", "%20"), "/v1/conversations/%0A%1B%5B2J/events", "/%00%0d")
    host, _, port = live_server.address.removeprefix("http://").partition(":")
    with caplog.at_level(logging.DEBUG):
        for path in paths:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            )
            async with asyncio.timeout(5):
                answer = await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            assert answer.startswith(b"HTTP/1.1 4")
    formatter = LogFormatter(FORMAT)
    for record in caplog.records:
        assert FORGED not in [line.strip() for line in formatter.format(record).splitlines()]
        assert not OBEYED.search(formatter.format(record))
