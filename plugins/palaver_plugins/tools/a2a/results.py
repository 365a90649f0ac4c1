"""Results: what an agent has answered, as text that a model reads."""

from collections.abc import Iterable

import msgspec

from palaver import ToolFailed, encode
from palaver_plugins.tools.a2a.shapes import Part, RemoteMessage, RemoteTask
from palaver_plugins.tools.pinned.texts import clean_line, clean_text

MAX_NOTE_CHARACTERS = 2_000
NOTHING = "The agent sent no text."
_FAILURES = {
    "TASK_STATE_FAILED": "The agent failed",
    "TASK_STATE_REJECTED": "The agent refuses",
    "TASK_STATE_CANCELED": "The agent has cancelled the task",
    "TASK_STATE_AUTH_REQUIRED": "The agent wants credentials, which it does not get",
}
INPUT_REQUIRED = "TASK_STATE_INPUT_REQUIRED"
SETTLED = frozenset({"TASK_STATE_COMPLETED", INPUT_REQUIRED, *_FAILURES})
"""States in which an agent does nothing more by itself."""


def render_message(message: RemoteMessage, limit: int) -> str:
    """Return a message as text of at most ``limit`` characters."""
    return _render(message.parts, limit) or NOTHING


def render_task(task: RemoteTask, limit: int) -> str:
    """Return what a settled task has brought. Raises `ToolFailed` for one that has failed."""
    said = _render(task.status.message.parts, limit) if task.status.message else ""
    made = _render((part for artifact in task.artifacts for part in artifact.parts), limit)
    if failure := _FAILURES.get(task.status.state):
        raise ToolFailed(f"{failure}: {said or made}" if said or made else f"{failure}.")
    if task.status.state == INPUT_REQUIRED:
        return (
            f"The agent asks:\n\n{said or made or NOTHING}\n\n"
            f'To answer, call this tool again with "task": {encode(task.id).decode()}.'
        )
    return made or said or NOTHING


def _render(parts: Iterable[Part], limit: int) -> str:
    texts: list[str] = []
    left = limit
    for part in parts:
        texts.append(_render_part(part))
        left -= len(texts[-1]) + 1
        if left < 0:
            break
    return clean_text("\n\n".join(filter(None, texts)), limit)


def _render_part(part: Part) -> str:
    if part.text is not None:
        return part.text
    if part.data is not msgspec.UNSET:
        return encode(part.data).decode()
    if part.url is not None:
        return _note("file", part.filename, part.url, part.media_type)
    if part.raw is not None:
        size = f"{len(part.raw.rstrip('=')) * 3 // 4} bytes"
        return _note("file", part.filename, part.media_type, size, "not shown")
    return ""


def _note(*words: str) -> str:
    return f"[{', '.join(clean_line(word, MAX_NOTE_CHARACTERS) for word in words if word)}]"
