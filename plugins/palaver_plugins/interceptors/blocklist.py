"""Interceptor ``blocklist``: refuses messages that match a pattern, before a skill runs."""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pydantic

from palaver import Backend, Interceptor, PluginSettings, Turn, hookimpl


class BlocklistSettings(PluginSettings):
    patterns: tuple[str, ...] = ()
    """Regular expressions, searched in the message, case-insensitive. Keep them simple: one that
    backtracks heavily blocks the whole server."""
    sentence: str = "I cannot help with that."
    """The reply to a message that matches."""

    @pydantic.field_validator("patterns")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"pattern {pattern!r}: {error}") from error
        return patterns


class Blocklist:
    """Interceptor that answers a blocked message itself, so that no skill or engine gets it."""

    def __init__(self, settings: BlocklistSettings) -> None:
        self._patterns = [re.compile(pattern, re.IGNORECASE) for pattern in settings.patterns]
        self._sentence = settings.sentence

    async def intercept(self, turn: Turn[Any], call_next: Callable[[], Awaitable[None]]) -> None:
        if any(pattern.search(turn.message.text) for pattern in self._patterns):
            await turn.say(self._sentence)
        else:
            await call_next()


@hookimpl
def palaver_register_interceptors() -> Iterable[Backend[Interceptor]]:
    return [
        Backend(
            name="blocklist",
            settings=BlocklistSettings,
            build=lambda settings, build_context: Blocklist(settings),
        )
    ]
