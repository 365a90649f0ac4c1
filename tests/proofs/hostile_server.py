"""A server with every built-in skill and an engine of known speed, in a process of its own.

    python -m tests.proofs.hostile_server FOLDER [--quadratic]

It prints its address. The process may open `DESCRIPTORS` files. At the end it writes the longest
stall of its event loop, in seconds, to ``FOLDER/stall``. ``--quadratic``: a mutant, whose default
skill searches messages with a pattern that takes quadratic time.
"""

import asyncio
import re
import resource
import signal
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.proofs.engine_skill import EngineSkill
from tests.proofs.paced_engine import PacedEngine
from tests.server.busy_time import BusyTimeSelector

import palaver_plugins
from palaver import Turn
from palaver.app import BackendBuilder
from palaver.cli.serve import tune_interpreter
from palaver.config.settings import Settings
from palaver.engine import ChatMessage, Generation, GenerationRequest, OnText, ToolDefinition
from palaver.plugins import load_plugins
from palaver.server import Server
from palaver.web.listener import listening
from palaver_plugins.engines.tokenization import ChatTokenizer

DESCRIPTORS = 1024
"""Open files of the process at most, as on most systems."""
TENANTS = ("calm", "hostile")
STARTER = Path(palaver_plugins.__file__).with_name("starter")
OPERATOR_KEY = "KEY_OPERATOR"
KEYS = {f"KEY_{name.upper()}": f"secret-key-of-{name}" for name in (*TENANTS, "operator")}
"""The secrets, by environment variable."""
SETTINGS: dict[str, Any] = {
    "routing": {"default": EngineSkill.name, "consult_engine": False},
    "channels": {"enabled": ["openai_api"]},
    "auth": {
        "keys": {
            name: {
                "secret": f"env:KEY_{name.upper()}",
                "tenant": name,
                "rights": ["talk", "read", "export", "erase", "impersonate"],
            }
            for name in TENANTS
        }
        | {
            "operator": {
                "secret": f"env:{OPERATOR_KEY}",
                "tenant": "operator",
                "rights": ["operate", "metrics"],
            }
        }
    },
}


class TokenizingEngine(PacedEngine):
    """Engine that reads prompts with a real tokenizer. Its words do not contain the prompt."""

    def __init__(self, **speed: Any) -> None:
        super().__init__(**speed)
        self._tokenizer = ChatTokenizer.load(STARTER)

    def _words(self, prompt: str) -> list[str]:
        return super()._words(str(zlib.crc32(prompt.encode("utf-8", "replace"))))

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        await self.count_tokens(request.messages)
        return await super().generate(request, on_text)

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        return await asyncio.to_thread(self._tokenizer.count_prompt, messages)


def make_engine() -> PacedEngine:
    return TokenizingEngine(slots=64, first_word_seconds=0.15, word_seconds=0.02, mean_words=8)


class QuadraticSkill(EngineSkill):
    """Mutant: search the message with a pattern that begins again at each punctuation mark."""

    async def answer(self, turn: Turn) -> None:
        re.search(r"[.!?]+[ \t]+", turn.message.text[:10_000])
        await super().answer(turn)


def make_settings(folder: Path) -> Settings:
    return Settings.model_validate(SETTINGS | {"server": {"port": 0, "data": str(folder)}})


async def serve(folder: Path, skill: EngineSkill, selector: BusyTimeSelector) -> None:
    """Serve until SIGTERM."""
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    settings = make_settings(folder)
    builder = BackendBuilder(settings, load_plugins())
    server = Server(
        settings,
        ledger=builder.ledger(),
        engine=make_engine(),
        knowledge=builder.knowledge(),
        skills=builder.skills() | {skill.name: skill},
        channels=builder.channels(),
    )
    async with server, listening(server) as address:
        sys.stdout.write(address + "\n")
        sys.stdout.flush()
        tune_interpreter()
        await asyncio.sleep(0)
        selector.longest = 0.0  # the start does not count
        await terminated.wait()
        (folder / "stall").write_text(f"{selector.longest:.4f}")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    selector = BusyTimeSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        skill = QuadraticSkill() if "--quadratic" in sys.argv else EngineSkill()
        runner.run(serve(Path(sys.argv[1]), skill, selector))
