"""``palaver models setup`` at a terminal, in a pipe and by its options."""

import asyncio
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.model_servers import model_server
from tests.ports import free_port
from tests.server.cli.terminals import PALAVER, run_in_terminal

from palaver.cli import main

pytestmark = pytest.mark.slow

OTHER_WAYS = [
    "another server with the OpenAI API: address and key",
    "a model of the Hugging Face hub, which is downloaded",
    "a directory or file of this machine",
]


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def options(*ports: int) -> list[str]:
    settings = (
        f"models.server_ports={list(ports or (free_port(),))}",
        f"server.port={free_port()}",
    )
    return [word for setting in settings for word in ("--set", setting)]


async def run(*arguments: str, ports: tuple[int, ...] = (), text: str = "") -> Result:
    command = [*options(*ports), "models", "setup", *arguments]
    return await asyncio.to_thread(lambda: CliRunner().invoke(main, command, input=text))


def written() -> str:
    """Return the settings file of the working directory, empty where there is none."""
    file = Path("palaver.toml")
    return file.read_text() if file.exists() else ""


def engine() -> dict[str, object]:
    """Return what the settings file of the working directory says about the engine."""
    return dict(tomllib.loads(written())["engine"])


async def test_the_list_has_what_is_found_and_the_other_ways() -> None:
    async with model_server("llama3.2:3b", owner="library") as ollama:
        ollama.tags = {"models": [{"name": "llama3.2:3b", "size": 2_019_393_189}]}
        result = await run("--list", ports=(ollama.port,))
    lines = ["Ollama: llama3.2:3b (2.02 GB)", *OTHER_WAYS]
    assert result.stdout == "".join(f"{n:>3}  {line}\n" for n, line in enumerate(lines, 1))
    assert not written()


async def test_a_number_of_the_list_is_connected() -> None:
    async with model_server("walker", "talker") as server:
        result = await run("--choose", "2", ports=(server.port,))
        assert (result.exit_code, result.stdout.splitlines()[1:]) == (0, ["Next: palaver serve"])
        assert engine() == {"use": "openai", "openai": {"urls": [server.url], "model": "talker"}}
        result = await run("--choose", "9", ports=(server.port,))
        assert result.exit_code == 2
        assert "there is no number 9 in the list: it ends at 5" in result.stderr


async def test_an_address_with_a_key_from_a_pipe() -> None:
    async with model_server("walker", "talker", key="sk-1") as server:
        by_name = ("--url", f"127.0.0.1:{server.port}", "--model", "walker", "--key-file", "-")
        result = await run(*by_name, text="sk-1\n")
        assert result.exit_code == 0, result.output
        assert "'walker' answers" in result.stdout
        assert "sk-1" not in result.output + written()
        result = await run("--url", server.url)
        assert (result.exit_code, "asks for a key" in result.stderr) == (2, True)


async def test_questions_are_answered_by_a_pipe() -> None:
    async with model_server("walker", "talker") as server:
        result = await run(text=f"\n{server.url}\n\ntalker\n")
        assert result.exit_code == 0, result.output
        assert engine()["openai"] == {"urls": [server.url], "model": "talker"}
    assert (await run(text="")).exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--url", "a", "--hub", "b"),
        ("--list", "--choose", "1"),
        ("--model", "m"),
        ("--hub", "b", "--key-file", "-"),
        ("--choose", "0"),
    ],
)
async def test_options_that_do_not_fit_together_are_refused(arguments: tuple[str, ...]) -> None:
    result = await run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")


async def test_at_a_terminal_the_key_is_not_shown() -> None:
    async with model_server("walker", key="sk-hidden") as server:
        command = (*PALAVER, *options(server.port), "models", "setup")
        async with run_in_terminal(*command) as session:
            await session.wait_for("1  A model server at")
            await session.wait_for("Which one [1]: ")
            session.type("")
            await session.wait_for("Key (empty: none): ")
            session.type("sk-hidden")
            await session.wait_for("'walker' answers")
            await session.wait_for("Next: palaver serve")
            assert "sk-hidden" not in session.transcript
    assert engine()["use"] == "openai"
