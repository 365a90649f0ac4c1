"""``palaver models add owner/model`` against a fake hub on this machine."""

import asyncio
import contextlib
import dataclasses
import json
import os
import pty
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from aiohttp import web
from tests.plugins.engines.models import write_model
from tests.server.models.copies import copy_starter
from tests.server.models.gguf_files import write_header_file
from tests.server.models.hub_server import COMMIT, FakeHub, Repository

from palaver.errors import ConfigurationError
from palaver.models.hub import announced_file
from palaver.models.registry import ModelRegistry

RepoSibling = pytest.importorskip("huggingface_hub.hf_api").RepoSibling
pytestmark = pytest.mark.live
MAIN = "from palaver.cli import main; main()"
RUN_ALL = """
import json, sys
from click.testing import CliRunner
from palaver.cli import main
for arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(main, arguments)
    print(json.dumps([result.exit_code, result.stdout, result.stderr]))
"""
TIMEOUT_SECONDS = 30.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_model(tmp_path_factory.mktemp("hub") / "tiny")
    (directory / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage:\n- en\n- de\n---\n# T"
    )
    return directory


@dataclasses.dataclass
class Result:
    status: int
    output: str
    errors: str


class Terminal:
    """Runs ``palaver`` in a child process that uses a fake hub."""

    def __init__(self, endpoint: str, directory: Path) -> None:
        self.data = directory / "data"
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PALAVER"))},
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(directory / "hf"),
            "PALAVER__SERVER__DATA": str(self.data),
            "NO_PROXY": "127.0.0.1",
        }

    async def start(
        self,
        *arguments: str,
        script: str = MAIN,
        environment: Mapping[str, str] | None = None,
        stderr: int = asyncio.subprocess.PIPE,
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, *arguments,
            env={**self._environment, **(environment or {})},
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )  # fmt: skip

    async def run(self, *arguments: str, **environment: str) -> Result:
        process = await self.start(*arguments, environment=environment)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            output, errors = await process.communicate()
        return Result(process.returncode or 0, output.decode(), errors.decode())

    async def run_all(self, *commands: list[str]) -> list[Result]:
        """Run several commands in one process, because its start takes a second."""
        process = await self.start(json.dumps(commands), script=RUN_ALL)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return [Result(*json.loads(line)) for line in output.splitlines()]

    async def files(self, name: str) -> dict[str, bytes]:
        """Return the files of an added model; none when it is not registered."""

        def read() -> dict[str, bytes]:
            directory = ModelRegistry(self.data, {}).models().get(name)
            return Repository.of(directory).files if directory else {}

        return await asyncio.to_thread(read)

    async def unfinished(self) -> dict[str, int]:
        return await asyncio.to_thread(ModelRegistry(self.data, {}).unfinished)


@contextlib.asynccontextmanager
async def serving(hub: FakeHub, directory: Path) -> AsyncIterator[Terminal]:
    async with hub.serving() as endpoint:
        yield Terminal(endpoint, directory)


async def test_only_the_files_that_a_model_needs_are_downloaded(tiny: Path, tmp_path: Path) -> None:
    repository = Repository.of(tiny)
    wanted = dict(repository.files)
    repository.files |= {"pytorch_model.bin": b"pickle", "modeling_tiny.py": b"import os"}
    hub = FakeHub(acme__tiny=repository)
    async with serving(hub, tmp_path) as terminal:
        added, used, info = await terminal.run_all(
            ["models", "add", "acme/tiny", "--revision", "v1"],
            ["models", "use", "tiny"],
            ["models", "info", "--verify"],
        )
        assert added.status == 0, added.errors
        assert "Added 'tiny': Qwen2ForCausalLM" in added.output
        assert await terminal.files("tiny") == wanted
        assert used.output.startswith("The current model is 'tiny'")
        for words in (f"hub acme/tiny at {COMMIT}", "en, de", "apache-2.0", "unchanged"):
            assert words in info.output


async def test_a_gguf_file_is_downloaded_with_all_its_shards(tmp_path: Path) -> None:
    header = write_header_file(tmp_path / "header", split__count=2).read_bytes()
    shards = {f"Q4/big-0000{number}-of-00002.gguf": header for number in (1, 2)}
    whole = {"big.Q8_0.gguf": write_header_file(tmp_path / "header").read_bytes()}
    hub = FakeHub(acme__big=Repository(shards | whole | {"README.md": b"# Big"}))
    hub.busy["Q4/big-00002-of-00002.gguf"] = 1
    async with serving(hub, tmp_path) as terminal:
        unclear, wrong, added, used, info, other = await terminal.run_all(
            ["models", "add", "acme/big"],
            ["models", "add", "acme/big:Q5.gguf"],
            ["models", "add", "acme/big:big-00001-of-00002.gguf"],
            ["models", "use", "big", "--no-trial"],
            ["models", "info", "--verify"],
            ["models", "add", "acme/big:big.Q8_0.gguf"],
        )
        names = "FILE is one of: Q4/big-00001-of-00002.gguf, big.Q8_0.gguf"
        assert (unclear.status, wrong.status) == (78, 78)
        assert names in unclear.errors
        assert names in wrong.errors
        assert added.output.startswith("Added 'big': llama, 1.41 k parameters, GGUF Q4_1")
        assert used.status == 0, used.errors
        assert f"hub acme/big at {COMMIT}" in info.output
        assert "unchanged" in info.output
        stored = await terminal.files("big")
        assert stored.keys() == {name.rpartition("/")[2] for name in shards} | {"README.md"}
        assert other.output.startswith("Added 'big.Q8_0'")


async def test_the_only_gguf_file_of_a_repository_is_chosen(tmp_path: Path) -> None:
    data = write_header_file(tmp_path / "header").read_bytes()
    lacking = {"a-00001-of-00002.gguf": data}
    hub = FakeHub(acme__one=Repository({"one.gguf": data}), acme__lacking=Repository(lacking))
    async with serving(hub, tmp_path) as terminal:
        added, refused = await terminal.run_all(
            ["models", "add", "acme/one"], ["models", "add", "acme/lacking"]
        )
        assert added.output.startswith("Added 'one': llama")
        assert "lacks the shard 'a-00002-of-00002.gguf'" in refused.errors


async def test_a_request_to_a_busy_hub_is_retried(tiny: Path, tmp_path: Path) -> None:
    hub = FakeHub(acme__tiny=Repository.of(tiny))
    hub.busy["model.safetensors"] = 1
    async with serving(hub, tmp_path) as terminal:
        result = await terminal.run("models", "add", "acme/tiny")
        assert result.status == 0, result.errors
        assert "The hub answered with HTTP 503; retrying in 0.5 s." in result.errors
        assert await terminal.files("tiny") == Repository.of(tiny).files


async def test_an_interrupted_download_continues_where_it_stopped(
    tiny: Path, tmp_path: Path
) -> None:
    repository = Repository.of(tiny)
    repository.files["model.safetensors"] = weights_of(
        24_000_000
    )  # more than the client writes at a time
    hub = FakeHub(acme__tiny=repository)
    hub.stall = "model.safetensors"
    async with serving(hub, tmp_path) as terminal:
        process = await terminal.start("models", "add", "acme/tiny")
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await hub.stalled.wait()
                while not downloaded_bytes(terminal.data):  # noqa: ASYNC110  the process sends no event
                    await asyncio.sleep(0.02)
        finally:
            process.kill()
            await process.communicate()
        assert not await terminal.files("tiny")
        hub.stall = ""
        result = await terminal.run("models", "add", "acme/tiny")
        assert result.status == 0, result.errors
        assert [name for name, _ in hub.gets].count("config.json") == 1
        ranges = [wanted for name, wanted in hub.gets if name == "model.safetensors"]
        assert len(ranges) == 2
        assert int(ranges[1].removeprefix("bytes=").rstrip("-")) > 0
        assert await terminal.files("tiny") == repository.files


def weights_of(size: int) -> bytes:
    """Return weights of about ``size`` bytes, which compress to nothing."""
    header = {"big": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


def downloaded_bytes(data: Path, pattern: str = "model.safetensors.part") -> int:
    """Return the bytes of the weights that a running download has written."""
    return sum(file.stat().st_size for file in data.rglob(pattern) if file.is_file())


REFUSALS = {
    "acme/none": (
        2,
        (
            "palaver: the hub has no model 'acme/none', or it is private: "
            "then set a token in HF_TOKEN"
        ),
    ),
    "acme/gated": (
        2,
        (
            "palaver: model 'acme/gated' is gated: accept its terms on its page at the hub, then "
            "set your token in HF_TOKEN"
        ),
    ),
    "acme/pickled": (
        78,
        (
            "palaver: model 'acme/pickled' has only pickled weights (pytorch_model.bin), which can "
            "execute code when they are loaded; use a copy with .safetensors files"
        ),
    ),
    "acme/remote": (
        78,
        (
            "palaver: model 'acme/remote' has its own code (auto_map in config.json), which "
            "is never executed"
        ),
    ),
    "acme/bert": (
        78,
        "palaver: model 'acme/bert' generates no text: its architecture is BertModel",
    ),
    "tiny": (
        2,
        "palaver: 'tiny' is neither a file, nor a directory, nor of the form 'owner/model'",
    ),
}


async def test_a_missing_or_unusable_model_is_refused_in_one_line(
    tiny: Path, tmp_path: Path
) -> None:
    whole = Repository.of(tiny).files
    config = b'{"architectures": ["TinyForCausalLM"], "auto_map": {"AutoModel": "m.Tiny"}}'
    pickled = {"config.json": whole["config.json"], "pytorch_model.bin": b"\x80\x04"}
    hub = FakeHub(
        acme__gated=Repository(whole, token="secret-token"),
        acme__pickled=Repository(pickled),
        acme__remote=Repository(whole | {"config.json": config}),
        acme__bert=Repository(whole | {"config.json": b'{"architectures": ["BertModel"]}'}),
    )
    async with serving(hub, tmp_path) as terminal:
        results = await terminal.run_all(*(["models", "add", model] for model in REFUSALS))
        for result, (status, sentence) in zip(results, REFUSALS.values(), strict=True):
            assert (result.status, result.errors.strip()) == (status, sentence)
        assert "model.safetensors" not in [name for name, _ in hub.gets]


async def test_a_gated_model_is_downloaded_with_the_token_of_the_settings(
    tiny: Path, tmp_path: Path
) -> None:
    hub = FakeHub(acme__gated=Repository.of(tiny, token="secret-token"))
    async with serving(hub, tmp_path) as terminal:
        # Not HF_TOKEN, which the hub's own library would find by itself.
        given = {"PALAVER__MODELS__HUB_TOKEN": "env:MINE", "MINE": "secret-token"}
        result = await terminal.run("models", "add", "acme/gated", **given)
        assert result.status == 0, result.errors
        assert "secret-token" not in result.output + result.errors


async def test_weights_with_another_sha256_than_the_hub_has_are_refused(
    tiny: Path, tmp_path: Path
) -> None:
    class Lying(FakeHub):
        async def _send(self, request, name, data):  # type: ignore[no-untyped-def]
            flipped = data[:-1] + bytes([data[-1] ^ 1]) if name == "model.safetensors" else data
            return await super()._send(request, name, flipped)

    hub = Lying(acme__tiny=Repository.of(tiny))
    async with serving(hub, tmp_path) as terminal:
        result = await terminal.run("models", "add", "acme/tiny")
        sentence = "palaver: model 'tiny': model.safetensors is not what the hub announced"
        assert sentence in result.errors
        assert result.status == 78
        assert not await terminal.files("tiny")


class Sending(FakeHub):
    """A hub that sends other bytes than it announces."""

    def __init__(self, repository: Repository, change: Callable[[str, bytes], bytes]) -> None:
        super().__init__(acme__tiny=repository)
        self._change = change

    async def _send(self, request: web.Request, name: str, data: bytes) -> web.StreamResponse:
        return await super()._send(request, name, self._change(name, data))


async def test_files_outside_lfs_are_downloaded_and_verified(tiny: Path, tmp_path: Path) -> None:
    repository = Repository.of(tiny)
    repository.plain = frozenset(repository.files) - {"model.safetensors"}
    for changed in ("", "config.json", "tokenizer.json", "README.md"):

        def change(name: str, data: bytes, changed: str = changed) -> bytes:
            return data.replace(b"e", b"a", 1) if name == changed else data

        folder = tmp_path / (changed or "unchanged")
        folder.mkdir()
        async with serving(Sending(repository, change), folder) as terminal:
            result = await terminal.run("models", "add", "acme/tiny")
            if changed:
                assert f"{changed} is not what the hub announced" in result.errors
                assert result.status == 78
                assert not await terminal.files("tiny")
            else:
                assert result.status == 0, result.errors


async def test_a_file_longer_than_announced_is_not_stored(tiny: Path, tmp_path: Path) -> None:
    hub = Sending(Repository.of(tiny), lambda name, data: data + bytes(50_000_000))
    async with serving(hub, tmp_path) as terminal:
        result = await terminal.run("models", "add", "acme/tiny")
        assert result.status in (2, 78)
        assert "announced" in result.errors or "Consistency check failed" in result.errors
        assert downloaded_bytes(terminal.data, "*") < 1_000_000


@pytest.mark.parametrize("sha", ["../../../evil", "", "main"])
async def test_a_hub_must_name_a_commit(tiny: Path, tmp_path: Path, sha: str) -> None:
    repository = Repository.of(tiny)
    repository.sha = sha
    async with serving(FakeHub(acme__tiny=repository), tmp_path) as terminal:
        result = await terminal.run("models", "add", "acme/tiny")
        assert "the hub names no commit of model 'acme/tiny'" in result.errors
        assert result.status == 78


async def test_names_that_lead_out_of_the_folder_are_left_out(tiny: Path, tmp_path: Path) -> None:
    repository = Repository.of(tiny)
    repository.files |= {"../evil.safetensors": b"x", "/evil.safetensors": b"x", "..": b"x"}
    async with serving(FakeHub(acme__tiny=repository), tmp_path) as terminal:
        result = await terminal.run("models", "add", "acme/tiny")
        assert result.status == 0, result.errors
        assert await terminal.files("tiny") == Repository.of(tiny).files


class Redirecting(FakeHub):
    """A hub that sends files from the other host at ``address``, if one is set, and warns."""

    def __init__(self, repository: Repository) -> None:
        super().__init__(acme__tiny=repository)
        self.other = FakeHub(acme__tiny=Repository(repository.files))
        self.address = ""
        self.tokens: list[str | None] = []

    async def _file(self, request: web.Request) -> web.StreamResponse:
        if self.address:
            raise web.HTTPFound(self.address + request.path)
        return await super()._file(request)

    async def _info(self, request: web.Request) -> web.Response:
        response = await super()._info(request)
        response.headers["X-HF-Warning"] = "topic; \x9b2J EVIL \u2028"
        return response


async def test_another_host_gets_no_token(tiny: Path, tmp_path: Path) -> None:
    hub = Redirecting(Repository.of(tiny, token="secret-token"))

    async def record(request: web.Request) -> web.StreamResponse:
        hub.tokens.append(request.headers.get("Authorization"))
        return await FakeHub._file(hub.other, request)

    hub.other._file = record  # type: ignore[method-assign]
    async with hub.other.serving() as hub.address, serving(hub, tmp_path) as terminal:
        result = await terminal.run("models", "add", "acme/tiny", HF_TOKEN="secret-token")
        assert result.status == 0, result.errors
    assert hub.tokens
    assert not any(hub.tokens)


async def test_a_warning_of_the_hub_is_printed_without_control_characters(
    tiny: Path, tmp_path: Path
) -> None:
    async with serving(Redirecting(Repository.of(tiny)), tmp_path) as terminal:
        result = await terminal.run("models", "add", "acme/tiny")
    assert "EVIL" in result.errors
    assert not re.search("[\x80-\x9f\u2028]", result.errors)


def test_a_file_without_size_or_checksum_is_refused() -> None:
    for size, blob in ((None, "0" * 40), (3, None)):
        file = RepoSibling("config.json", size=size, blob_id=blob, lfs=None)
        with pytest.raises(ConfigurationError, match="no size or no checksum of 'config"):
            announced_file("acme/tiny", file)


# Interruptions and full disks


LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from palaver.cli import main; main()
"""
"""Runs ``palaver`` where no file may become larger than a number of bytes."""


async def test_a_full_disk_loses_nothing_of_a_download(tiny: Path, tmp_path: Path) -> None:
    repository = Repository.of(tiny)
    repository.files["model.safetensors"] = weights_of(24_000_000)
    hub = FakeHub(acme__tiny=repository)
    async with serving(hub, tmp_path) as terminal:
        command = ("models", "pull", "acme/tiny")
        process = await terminal.start("15000000", *command, script=LIMITED)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            output, errors = await process.communicate()
        assert process.returncode == 2
        assert errors.decode().splitlines()[-1] == (
            "palaver: the models' directory cannot be changed: File too large; make room, then run "
            "the command again"
        )
        assert "Traceback" not in (output + errors).decode()
        kept = downloaded_bytes(terminal.data)
        assert kept >= 10_000_000
        (listed,) = await terminal.run_all(["models", "list"])
        assert "tiny                             download interrupted after " in listed.output
        result = await terminal.run(*command)
        assert result.status == 0, result.errors
        ranges = [wanted for name, wanted in hub.gets if name == "model.safetensors"]
        assert ranges == ["", f"bytes={kept}-"]
        assert await terminal.files("tiny") == repository.files


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
async def test_a_full_disk_of_its_own_loses_nothing(tiny: Path, tmp_path: Path) -> None:
    repository = Repository.of(tiny)
    repository.files["model.safetensors"] = weights_of(124_000_000)
    hub = FakeHub(acme__tiny=repository)
    async with serving(hub, tmp_path) as terminal, small_disk(terminal.data, "240m"):
        ballast = terminal.data / "ballast"
        hub.reached = lambda: fill(ballast, 180_000_000)
        result = await terminal.run("models", "pull", "acme/tiny")
        assert result.errors.splitlines()[-1] == (
            "palaver: the models' directory cannot be changed: No space left on device; make room, "
            "then run the command again"
        )
        assert result.status == 2
        kept = downloaded_bytes(terminal.data)
        assert kept > 1_000_000
        await asyncio.to_thread(ballast.unlink)
        hub.reached = lambda: None
        result = await terminal.run("models", "pull", "acme/tiny")
        assert result.status == 0, result.errors
        assert hub.gets[-1] == ("model.safetensors", f"bytes={kept}-")
        assert await terminal.files("tiny") == repository.files
        (removed,) = await terminal.run_all(["models", "remove", "tiny"])
        assert removed.output == "Removed 'tiny' and its files, 124 MB.\n"
        usage = await asyncio.to_thread(shutil.disk_usage, terminal.data)
        assert usage.used < 1_000_000


def fill(file: Path, size: int) -> None:
    with file.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, size)


@contextlib.asynccontextmanager
async def small_disk(folder: Path, size: str) -> AsyncIterator[None]:
    await asyncio.to_thread(folder.mkdir, parents=True)
    mount = ("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    process = await asyncio.create_subprocess_exec(*mount)
    if await process.wait():
        pytest.skip("this machine mounts no tmpfs")
    try:
        yield
    finally:
        process = await asyncio.create_subprocess_exec("umount", str(folder))
        assert await process.wait() == 0


async def test_a_full_disk_loses_nothing_of_a_copy(tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "large"
    await asyncio.to_thread(shutil.copytree, tiny, model)
    (model / "model.safetensors").write_bytes(weights_of(24_000_000))
    terminal = Terminal("http://127.0.0.1:9", tmp_path)
    command = ("models", "add", str(model), "--copy")
    process = await terminal.start("15000000", *command, script=LIMITED)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        _, errors = await process.communicate()
    assert errors.decode() == (
        "palaver: the models' directory cannot be changed: File too large; make room, then run the "
        "command again\n"
    )
    assert not downloaded_bytes(terminal.data, "model.safetensors")
    result = await terminal.run(*command)
    assert result.status == 0, result.errors
    assert await terminal.files("large") == Repository.of(model).files


async def test_the_progress_of_a_download_is_written_in_lines(tiny: Path, tmp_path: Path) -> None:
    repository = Repository.of(tiny)
    repository.files["model.safetensors"] = weights_of(24_000_000)
    async with serving(FakeHub(acme__tiny=repository), tmp_path) as terminal:
        result = await terminal.run("models", "pull", "acme/tiny")
        assert result.status == 0, result.errors
        lines = result.errors.splitlines()
        assert 2 <= len(lines) <= 10, result.errors
        assert re.fullmatch(r"100 %  24 MB of 24 MB  [\d.]+ [kMG]B/s  0:00 left", lines[-1]), (
            result.errors
        )


async def test_what_is_wrong_with_a_model_is_known_before_its_weights_come(
    tiny: Path, tmp_path: Path
) -> None:
    repository = Repository.of(tiny)
    repository.files["chat_template.jinja"] = b"{% for m in %}"
    hub = FakeHub(acme__tiny=repository)
    async with serving(hub, tmp_path) as terminal:
        result = await terminal.run("models", "pull", "acme/tiny")
        assert result.status == 78
        assert result.errors.splitlines()[-1].startswith(
            "palaver: model 'acme/tiny': its chat template is not valid: Expected an expression"
        )
        assert "model.safetensors" not in [name for name, _ in hub.gets]
        assert not await terminal.unfinished()


async def test_one_command_at_a_time_downloads_a_model(tiny: Path, tmp_path: Path) -> None:
    hub = FakeHub(acme__tiny=Repository.of(tiny))
    hub.stall = "model.safetensors"
    async with serving(hub, tmp_path) as terminal:
        process = await terminal.start("models", "pull", "acme/tiny")
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await hub.stalled.wait()
            for command in (["pull", "acme/tiny"], ["remove", "tiny"]):
                second = await terminal.run("models", *command)
                assert second.errors == "palaver: another command is adding the model 'tiny'\n"
        finally:
            process.kill()
            await process.communicate()
        (removed,) = await terminal.run_all(["models", "remove", "tiny"])
        assert removed.output.startswith("Removed 'tiny' and its files, ")
        assert not await terminal.unfinished()


async def test_setup_downloads_with_progress_tries_the_model_and_makes_it_current(
    tmp_path: Path,
) -> None:
    starter = await asyncio.to_thread(lambda: Repository.of(copy_starter(tmp_path / "small")))
    hub = FakeHub(acme__small=starter)
    async with serving(hub, tmp_path) as terminal:
        result = await terminal.run("models", "setup", "--hub", "acme/small")
        assert (result.status, result.output.splitlines()[1]) == (0, "Next: palaver serve"), result
        lines = result.errors.splitlines()
        assert lines[0] == "Downloading small …"
        assert lines[-2].startswith("100 % ")
        assert lines[-1] == "Trying small …"
        assert '"current": "small"' in (terminal.data / "models" / "models.json").read_text()
        gets = len(hub.gets)
        again = await terminal.run("models", "setup", "--hub", "acme/small")
        assert (again.status, len(hub.gets)) == (0, gets)
        unknown = await terminal.run("models", "setup", "--hub", "acme/large")
        assert unknown.status == 2
        assert "the hub has no model 'acme/large'" in unknown.errors


async def test_the_progress_of_a_download_is_one_line_of_a_terminal(
    tiny: Path, tmp_path: Path
) -> None:
    repository = Repository.of(tiny)
    repository.files["model.safetensors"] = weights_of(24_000_000)
    terminal_end, process_end = pty.openpty()
    async with serving(FakeHub(acme__tiny=repository), tmp_path) as terminal:
        process = await terminal.start("models", "pull", "acme/tiny", stderr=process_end)
        os.close(process_end)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            shown, _ = await asyncio.gather(
                asyncio.to_thread(read_terminal, terminal_end), process.communicate()
            )
    assert process.returncode == 0, shown
    lines = shown.removesuffix("\r\n").split("\r\x1b[2K")
    assert "\n" not in "".join(lines)
    assert re.fullmatch(r"100 %  24 MB of 24 MB  [\d.]+ [kMG]B/s  0:00 left", lines[-1])


def read_terminal(descriptor: int) -> str:
    """Return all that a process writes to a terminal."""
    pieces = []
    with contextlib.suppress(OSError):  # the other side is closed
        while piece := os.read(descriptor, 65_536):
            pieces.append(piece)
    os.close(descriptor)
    return b"".join(pieces).decode()
