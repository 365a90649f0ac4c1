"""Recorded engine: a real engine's generations, recorded once and replayed in every later test."""

import asyncio
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from palaver.engine import (
    Capability,
    ChatMessage,
    Engine,
    EngineInfo,
    EngineStats,
    Generation,
    GenerationRequest,
    OnText,
    ToolDefinition,
)
from palaver.errors import ConfigurationError, InvalidInput, Unsupported
from palaver.messages import Usage
from palaver.testing.recordings import (
    decode_generation,
    encode_generation,
    encode_prompt,
    encode_request,
    find_difference,
)
from palaver.testing.redaction import Redaction

RECORD_VARIABLE = "PALAVER_RECORD"
FORMAT = 1
_NOT_RECORDED: frozenset[Capability] = frozenset({"embed", "classify", "logprobs", "alternatives"})
"""Capabilities that a recording lacks: vectors and probabilities would fill it."""
_CHARACTERS_PER_TOKEN = 4
"""For a prompt that was not counted: its request was not recorded either, and says so."""
_TOKEN = re.compile(r"\s*\S+|\s+$")
_HEALTH_PROBE = "health-probe-"


class RecordedEngine:
    """An `Engine` that replays the generations of ``path``, by the requests that led to them::

        engine = RecordedEngine(Path("tests/recordings/weather.json"), lambda: my_engine())

    With ``PALAVER_RECORD=1`` in the environment, or ``record=True``, it asks the engine that
    ``make_engine`` returns, and writes the file when it is closed. Else no engine is made, and a
    request without a recording raises `InvalidInput` with its first difference from the nearest
    one; `close` then raises it again as an `AssertionError`, so that no test passes without it.

    Equal requests get their generations in the order in which they were recorded, and further ones
    the last. Ids, times and persons do not count. Embeddings, labels and log-probabilities are not
    recorded: the replayed engine lacks these capabilities. Secrets are replaced before anything is
    stored or compared: those of `Redaction`, and what the regular expressions of ``redact`` match;
    its values are their names. ``requests`` lists all requests.
    """

    def __init__(
        self,
        path: Path,
        make_engine: Callable[[], Engine] | None = None,
        *,
        record: bool | None = None,
        redact: Mapping[str, str] = {},
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        if record is None:
            record = environment.get(RECORD_VARIABLE, "") not in ("", "0")
        self.requests: list[GenerationRequest] = []
        self._path = path
        self._redact = Redaction(redact, environment)
        if record and make_engine is None:
            raise ValueError(f"to record {path.name!r}, an engine is needed: 'make_engine'")
        self._make_engine = make_engine if record else None
        self._engine: Engine | None = None
        self._info: EngineInfo | None = None
        self._generations: list[dict[str, Any]] = []  # Any: JSON values
        self._by_request: defaultdict[str, list[Generation]] = defaultdict(list)
        self._tokens: dict[str, int] = {}
        """Tokens of prompts, by their digests."""
        self._running = 0
        self._missing = ""

    async def start(self) -> EngineInfo:
        if self._make_engine is None:
            self._info = await asyncio.to_thread(self._load)
        else:
            if self._engine is None:
                self._engine = await asyncio.to_thread(self._make_engine)
            info = await self._engine.start()
            self._info = EngineInfo(
                model=info.model,
                context_window=info.context_window,
                capabilities=info.capabilities - _NOT_RECORDED,
                demonstration=info.demonstration,
                slots=info.slots,
                reach=info.reach,
            )
        return self._info

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.close()
            if self._info is not None:
                await asyncio.to_thread(self._save, self._info)
        elif self._missing:
            missing, self._missing = self._missing, ""
            raise AssertionError(missing)

    # The file

    def _load(self) -> EngineInfo:
        try:
            recording = json.loads(self._path.read_text("utf-8"))
            if recording["format"] != FORMAT:
                raise ValueError(f"format {recording['format']!r}")
            self._generations = recording["generations"]
            self._tokens = recording["tokens"]
            for each in self._generations:
                generation = decode_generation(each["generation"])
                self._by_request[_key(each["request"])].append(generation)
            return msgspec.convert(recording["engine"], EngineInfo)
        except FileNotFoundError:
            raise ConfigurationError(
                f"there is no recording {str(self._path)!r}: make it with {RECORD_VARIABLE}=1"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{str(self._path)!r} is not a recording ({error!r}): make it again with "
                f"{RECORD_VARIABLE}=1"
            ) from error

    def _save(self, info: EngineInfo) -> None:
        recording = {
            "format": FORMAT,
            "engine": {
                "model": info.model,
                "context_window": info.context_window,
                "capabilities": sorted(info.capabilities),
                "demonstration": info.demonstration,
                "slots": info.slots,
                "reach": msgspec.to_builtins(info.reach),
            },
            "generations": self._generations,
            "tokens": dict(sorted(self._tokens.items())),
        }
        text = json.dumps(recording, ensure_ascii=False, indent=2) + "\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(text, "utf-8")

    # The engine

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        if request.id.startswith(_HEALTH_PROBE):
            return await self._answer_probe(request, on_text)
        self.requests.append(request)
        encoded = self._redact(encode_request(request))
        self._running += 1
        try:
            if self._engine is None:
                return self._replay(encoded, on_text)
            return await self._record(self._engine, request, encoded, on_text)
        finally:
            self._running -= 1

    async def _answer_probe(self, request: GenerationRequest, on_text: OnText) -> Generation:
        if self._engine is not None:
            return await self._engine.generate(request, on_text)
        return Generation(
            text="", finish_reason="length", usage=Usage(prompt_tokens=1, completion_tokens=1)
        )

    async def _record(
        self, engine: Engine, request: GenerationRequest, encoded: Any, on_text: OnText
    ) -> Generation:
        generation = await engine.generate(request, on_text)
        stored = self._redact(encode_generation(generation))
        self._generations.append({"request": encoded, "generation": stored})
        return generation

    def _replay(self, encoded: Any, on_text: OnText) -> Generation:
        recorded = self._by_request[_key(encoded)]
        if not recorded:
            raise self._not_recorded(encoded)
        generation = recorded.pop(0) if len(recorded) > 1 else recorded[0]
        for token in _TOKEN.findall(generation.text):
            on_text(token)
        return generation

    def _not_recorded(self, encoded: Any) -> InvalidInput:  # Any: a JSON value
        """Return the error for a request that was not recorded."""
        differences = [find_difference(each["request"], encoded) for each in self._generations]
        nearest, _ = max(differences, key=lambda found: found[1], default=("it is empty", 0))
        problem = (
            f"{self._path.name!r} has no recording of a request: {nearest}. If the change is "
            f"intended, record again with {RECORD_VARIABLE}=1"
        )
        self._missing = self._missing or problem
        return InvalidInput(problem)

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        prompt = _key(self._redact(encode_prompt(messages, tools)))
        digest = hashlib.blake2b(prompt.encode(errors="surrogatepass"), digest_size=8).hexdigest()
        if self._engine is not None:
            self._tokens[digest] = await self._engine.count_tokens(messages, tools)
        return self._tokens.get(digest, len(prompt) // _CHARACTERS_PER_TOKEN)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise Unsupported("a recorded engine lacks the capability 'embed'")

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        raise Unsupported("a recorded engine lacks the capability 'classify'")

    async def stats(self) -> EngineStats:
        return EngineStats(running=self._running, waiting=0)


def _key(encoded: Any) -> str:  # Any: a JSON value
    return json.dumps(encoded, sort_keys=True)
