"""Interceptor ``blocklist``: refuses messages that match a pattern, before a skill runs."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pydantic

from palaver import (
    Backend,
    Interceptor,
    PluginSettings,
    Turn,
    compile_pattern,
    hookimpl,
    run_on_text,
)


class BlocklistSettings(PluginSettings):
    patterns: tuple[str, ...] = ()
    """Regular expressions, searched in the message, case-insensitive. They take linear time:
    backreferences and lookaround are refused."""
    sentence: str = "I cannot help with that."
    """The reply to a message that matches."""

    @pydantic.field_validator("patterns")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                compile_pattern(pattern)
            except ValueError as error:
                raise ValueError(f"pattern {pattern!r}: {error}") from error
        return patterns


class Blocklist:
    """Interceptor that answers a blocked message itself, so that no skill or engine gets it."""

    def __init__(self, settings: BlocklistSettings) -> None:
        self._patterns = [compile_pattern(pattern) for pattern in settings.patterns]
        self._sentence = settings.sentence

    async def intercept(self, turn: Turn[Any], call_next: Callable[[], Awaitable[None]]) -> None:
        if await run_on_text(self._is_blocked, turn.message.text):
            await turn.say(self._sentence)
        else:
            await call_next()

    def _is_blocked(self, text: str) -> bool:
        return any(pattern.search(text) for pattern in self._patterns)


@hookimpl
def palaver_register_interceptors() -> Iterable[Backend[Interceptor]]:
    return [
        Backend(
            name="blocklist",
            settings=BlocklistSettings,
            build=lambda settings, build_context: Blocklist(settings),
        )
    ]
