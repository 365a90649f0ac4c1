"""Limits of an agent: how much one run of `Turn.run` may do."""

import dataclasses

from palaver.config.settings import AgentSettings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """Limits of one run of `Turn.run`; None: that of the settings, which none exceeds.

    ``steps`` in which the model may call tools; ``calls`` in all, and ``calls_per_step``;
    ``parallel_calls`` that run side by side; ``seconds`` and ``tokens`` of prompts and replies
    before the last answer; ``result_bytes`` that the model gets of one result;
    ``repeated_calls`` of a tool with the same arguments; ``depth`` of skills in skills.
    """

    steps: int | None = None
    calls: int | None = None
    calls_per_step: int | None = None
    parallel_calls: int | None = None
    seconds: float | None = None
    tokens: int | None = None
    result_bytes: int | None = None
    repeated_calls: int | None = None
    depth: int | None = None


def apply_limits(limits: AgentLimits, settings: AgentSettings) -> AgentSettings:
    """Return the settings, with those of the limits that are lower."""
    lower = {
        field.name: min(limit, getattr(settings, field.name))
        for field in dataclasses.fields(limits)
        if (limit := getattr(limits, field.name)) is not None
    }
    return settings.model_copy(update=lower)
