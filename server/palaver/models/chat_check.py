"""Check that a model can chat: its tokenizer and its chat template, in a process with limits."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from palaver.errors import ConfigurationError
from palaver.models.chat_probe import ChatProbe
from palaver.models.chat_template import read_chat_template
from palaver.models.checkpoint import Checkpoint, read_checkpoint

CPU_SECONDS = 10
TIMEOUT_SECONDS = 120.0
"""Seconds that the process may take in all, on a busy machine."""


def check_model(directory: Path) -> tuple[Checkpoint, ChatProbe]:
    """Read a model directory, and try its tokenizer and its chat template.

    Raises `ConfigurationError` when the model cannot be used.
    """
    checkpoint = read_checkpoint(directory)
    if not checkpoint.has_chat_template:
        return checkpoint, ChatProbe()
    found = probe_chat(directory)
    rows = checkpoint.embeddings
    if rows and found.highest >= rows:
        raise ConfigurationError(
            f"model {str(directory)!r}: its tokenizer writes the token {found.highest} for a "
            f"conversation, but the weights have {rows} tokens"
        )
    return checkpoint, found


def probe_chat(directory: Path) -> ChatProbe:
    """Try the tokenizer and the chat template. Raises `ConfigurationError` when one fails."""
    read_chat_template(directory)
    label = f"model {str(directory)!r}"
    environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ended = subprocess.run(
            [
                sys.executable,
                "-P",
                "-m",
                "palaver.models.chat_probe",
                str(directory),
                str(CPU_SECONDS),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"{label}: trying its chat template and tokenizer takes more than "
            f"{TIMEOUT_SECONDS:g} seconds"
        ) from None
    *stages, result = ended.stdout.decode(errors="replace").split("\n")
    if ended.returncode or not result:
        stage = stages[-1] if stages else "chat template"
        raise ConfigurationError(
            f"{label}: its {stage} takes more than {CPU_SECONDS} seconds or too much memory"
        )
    found = msgspec.json.decode(result, type=ChatProbe)
    if found.problem:
        raise ConfigurationError(f"{label}: {found.problem}")
    return found
