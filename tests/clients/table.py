"""Runs the clients, and writes the table of docs/clients.md:   python -m tests.clients.table"""

import asyncio
import contextlib
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from tests.clients.server import open_server

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
DOCUMENT = ROOT / "docs" / "clients.md"
CLIENTS = {
    "client_openai.py": "openai (Python)",
    "client_openai.mjs": "openai (JavaScript)",
    "client_langchain.py": "langchain-openai",
    "client_langchain.mjs": "@langchain/openai",
    "client_ai.mjs": "ai and @ai-sdk/openai",
    "client_pydantic_ai.py": "pydantic-ai",
    "client_agents.py": "openai-agents",
    "client_litellm.py": "litellm",
    "client_instructor.py": "instructor",
    "client_llm.py": "llm",
    "client_haystack.py": "haystack-ai",
    "client_smolagents.py": "smolagents",
    "client_dspy.py": "dspy",
    "client_lm_eval.py": "lm-eval",
}
"""The scripts, and the packages that they use."""
CHECKS = (
    "Chat Completions",
    "Responses",
    "streams",
    "tools",
    "agent loop",
    "beside a skill's tools",
    "approvals",
    "structured output",
    "embeddings",
    "background",
    "models",
)
TIMEOUT = 300.0
"""Seconds for one script: some packages take long to load."""
_TABLE = re.compile(r"(?<=<!-- table -->\n\n).*?(?=\n\n<!-- end of table -->)", re.DOTALL)


SIDE_BY_SIDE = 2
"""Scripts that run at once: most of their time is that of one processor, which loads packages."""


class ClientRuns:
    """Runs of scripts against one server. While one of them is awaited, the next one runs."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._runs: dict[str, asyncio.Task[list[str]]] = {}

    async def passed(self, script: str) -> list[str]:
        """Return the checks that a client has passed. Raises `AssertionError` with its output."""
        scripts = list(CLIENTS)
        at = scripts.index(script)
        for each in scripts[at : at + SIDE_BY_SIDE]:
            if each not in self._runs:
                self._runs[each] = asyncio.create_task(run_client(each, self._url))
        return await self._runs[script]

    async def close(self) -> None:
        """End the runs that nobody has awaited."""
        for run in self._runs.values():
            run.cancel()
        await asyncio.gather(*self._runs.values(), return_exceptions=True)


@contextlib.asynccontextmanager
async def client_runs() -> AsyncIterator[ClientRuns]:
    """Open a server, and yield the runs against it."""
    async with open_server() as url, contextlib.AsyncExitStack() as stack:
        runs = ClientRuns(url)
        stack.push_async_callback(runs.close)
        yield runs


async def run_client(script: str, url: str) -> list[str]:
    """Return the checks that a client has passed. Raises `AssertionError` with its output."""
    with tempfile.TemporaryDirectory() as home:  # a cache could answer in place of the server
        process = await asyncio.create_subprocess_exec(
            "node" if script.endswith(".mjs") else str(PYTHON),
            script,
            cwd=HERE,
            env={"PATH": os.environ["PATH"], "HOME": home, "PYTHONPATH": str(HERE), **about(url)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(TIMEOUT):
                out, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, f"{script}: {errors.decode()[-3000:]}"
    lines = out.decode().splitlines()  # some packages print a last word of their own
    found: list[str] = json.loads(next(it for it in reversed(lines) if it.startswith("[")))
    assert set(found) <= set(CHECKS), found
    return found


def about(url: str) -> dict[str, str]:
    """Return what the environment tells the clients: the server, and to call no other one."""
    return {
        "OPENAI_BASE_URL": url,
        "OPENAI_API_BASE": url,
        "OPENAI_API_KEY": "none",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


def row_of(script: str, passed: Collection[str]) -> str:
    """Return the row of a client, in Markdown."""
    marks = ["✓" if check in passed else "" for check in CHECKS]
    return f"| [{CLIENTS[script]}](../tests/clients/{script}) | {' | '.join(marks)} |"


def table_of(passed: dict[str, list[str]]) -> str:
    """Return the table, in Markdown."""
    head = [f"| client | {' | '.join(CHECKS)} |", f"| --- |{' :-: |' * len(CHECKS)}"]
    return "\n".join([*head, *(row_of(script, passed[script]) for script in CLIENTS)])


def written_table() -> str:
    """Return the table of the document."""
    found = _TABLE.search(DOCUMENT.read_text(encoding="utf-8"))
    assert found is not None
    return found[0]


def examples() -> dict[str, str]:
    """Return the beginning of each script, which the document shows."""
    found = {}
    for script in CLIENTS:
        text = (HERE / script).read_text(encoding="utf-8")
        shown = re.search(
            r"^(?:#|//) \[docs\n(.*?)^(?:#|//) docs\]", text, re.DOTALL | re.MULTILINE
        )
        assert shown is not None, script
        found[script] = shown[1].strip()
    return found


async def _write() -> None:
    async with client_runs() as runs:
        passed = {script: await runs.passed(script) for script in CLIENTS}
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(_TABLE.sub(lambda _: table_of(passed), text), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(_write())
