"""Trials: whether a model chooses skills well, kept so that no restart pays for it again."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from palaver.private_files import make_private_directory, write_private_file

log = logging.getLogger(__name__)


class TrialStore:
    """Results of trials in a directory, one file each. ``engine`` tells engines with other settings
    apart. What cannot be read or stored is tried again after the next start."""

    def __init__(self, directory: Path, engine: str) -> None:
        self._directory = directory
        self._engine = engine

    def identify(self, model: str, questions: Sequence[object]) -> str:
        """Return what is the same for trials of one model with the same JSON ``questions``."""
        whole = json.dumps([self._engine, model, questions])
        return hashlib.sha256(whole.encode()).hexdigest()

    async def find(self, trial: str) -> bool | None:
        """Return whether a trial was passed; None where it is not known."""
        try:
            text = await asyncio.to_thread(self._path(trial).read_text, "utf-8")
            passed = json.loads(text)["passed"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the result of a trial cannot be read: %s", error)
            return None
        return passed if isinstance(passed, bool) else None

    async def store(self, trial: str, *, passed: bool) -> None:
        content = json.dumps({"passed": passed}).encode()
        try:
            await asyncio.to_thread(self._write, trial, content)
        except OSError as error:
            log.warning("the result of a trial cannot be stored: %s", error)

    def _write(self, trial: str, content: bytes) -> None:
        make_private_directory(self._directory)
        write_private_file(self._path(trial), content)

    def _path(self, trial: str) -> Path:
        return self._directory / f"{trial}.json"
