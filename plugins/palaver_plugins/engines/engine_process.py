"""A process of an engine that runs beside the server: its log, its environment, its end."""

import asyncio
import contextlib
import logging
import os
import re
import signal
from collections import deque
from collections.abc import AsyncIterator, Sequence

log = logging.getLogger(__name__)
CLOSE_TIMEOUT = 5.0  # seconds between closing the connection and killing the process


class EngineProcess:
    """A running process that leads a process group. ``stream`` is its log."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, stream: asyncio.StreamReader | None
    ) -> None:
        assert stream is not None
        self.log_tail: deque[str] = deque(maxlen=12)
        self.is_closing = False
        self._name = name
        self._process = process
        self._relay = asyncio.create_task(self._relay_log(stream), name=f"{name} log")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log_end(self) -> str:
        return "\n".join(f"    {line}" for line in self.log_tail)

    async def _relay_log(self, stream: asyncio.StreamReader) -> None:
        async for line in read_lines(stream):
            self.log_tail.append(line)
            log.debug("%s", line)
        if not self.is_closing:
            log.error("the %s process has crashed; the end of its log:", self._name)
            for line in self.log_tail:
                log.error("%s: %s", self._name, line)

    async def wait(self) -> None:
        """Wait until the process has ended and its log is complete."""
        await self._process.wait()
        await asyncio.wait([self._relay], timeout=CLOSE_TIMEOUT)

    async def close(self, timeout: float = CLOSE_TIMEOUT) -> None:  # noqa: ASYNC109
        """End the process and those that it started; kill them after ``timeout`` seconds.
        Idempotent."""
        try:
            async with asyncio.timeout(timeout):
                await self._process.wait()
        except TimeoutError:
            self._kill_group()
            await self._process.wait()
        finally:
            self._kill_group()  # its child processes
        await asyncio.wait([self._relay], timeout=CLOSE_TIMEOUT)
        self._relay.cancel()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


async def read_lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yield decoded lines; a very long one comes in parts (progress bars have no line ends)."""
    rest = b""
    while chunk := await stream.read(1 << 16):
        *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        for line in (*whole, rest[: 1 << 16] if len(rest) > 1 << 16 else b""):
            if line.strip():
                yield line.decode("utf-8", "replace").rstrip()


ALLOWED_VARIABLES = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|TZ|LANG|LANGUAGE|TMPDIR|TEMP|TMP|CC|CXX|MAX_JOBS|NO_COLOR"
    r"|HF_HOME|HF_HUB_CACHE|HF_HUB_OFFLINE|TRANSFORMERS_OFFLINE|TOKENIZERS_PARALLELISM"
    r"|(LC|LD|XDG|CUDA|CUDNN|CUBLAS|NVIDIA|NCCL|GLOO|HIP|HSA|ROCR|ROCM|VLLM|TORCH|TORCHINDUCTOR"
    r"|PYTORCH|TRITON|INDUCTOR|GGML|LLAMA|FLASHINFER|OMP|KMP|MKL|GOMP|OPENBLAS|NUMEXPR|MALLOC)_\w+"
)
"""Environment variables that the process gets: those that vLLM, llama.cpp and their libraries
read."""
SECRET_VARIABLES = re.compile(
    r".*(KEY|SECRET|PASS(?!ES)|PWD|CREDENTIAL|AUTH|COOKIE|DSN).*|.*(TOKEN|TOKENS|TOKEN_FILE|UR[IL])"
)


def process_environment(further: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment of the process: ours holds secrets that it does not need."""
    names = {
        name
        for name in os.environ
        if ALLOWED_VARIABLES.fullmatch(name) and not SECRET_VARIABLES.fullmatch(name)
    }
    given = {name: os.environ[name] for name in (*names, *further) if name in os.environ}
    return given | {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
