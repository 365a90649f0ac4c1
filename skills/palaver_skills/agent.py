"""Agent: does what takes several steps, with the tools that the operator enabled."""

from typing import ClassVar

import pydantic

from palaver import PluginSettings, Sampling, Skill, Turn
from palaver_skills import prompts
from palaver_skills.refusals import decline
from palaver_skills.token_budget import limit_reply_tokens

CANNOT_ACT = (
    "The language model of this server cannot call tools, so I can only do one thing at a time. "
    "Ask for each step by itself."
)


class Agent(Skill):
    """Do a task that takes several steps, with tools and other skills.

    The model plans the steps and calls the tools: those of the setting ``tools``, else of
    ``agents.tools``, else all that only read, and the other skills; and those of the program that
    sent the message.
    """

    name = "agent"
    aliases: ClassVar = ("do", "act")
    sees_images = True
    calls_client_tools = True
    prompts: ClassVar = ("What day is it in 100 days?",)
    task: ClassVar = "tools"
    examples: ClassVar = (
        "do this step by step with your tools",
        "use your tools to find out",
        "summarize this and translate the summary into French",
        "first look it up, then work it out, then write it down",
        "look up the price in the documents and calculate the total with tax",
        "fasse das zusammen und übersetze die Zusammenfassung ins Englische",
        "schlag es nach und rechne es dann aus",
        "résume ce texte puis traduis le résumé en anglais",
        "busca el dato y luego calcula el total",
    )

    class Settings(PluginSettings):
        system: str = prompts.AGENT
        """System text of the model."""
        tools: tuple[str, ...] | None = None
        """Tools and skills that the model may call, by name. Not set: those of ``agents.tools``."""
        temperature: float = pydantic.Field(default=0.0, ge=0, le=2)
        """0 always takes the likeliest word."""
        max_tokens: int = pydantic.Field(default=1024, ge=1)
        """Longest text of one step; never more than half of the model's context window."""

    async def answer(self, turn: Turn) -> None:
        if turn.engine.find_reach("tools") is None:
            await decline(turn, "steps")
            return
        if "tools" not in turn.engine.capabilities:
            await turn.say(CANNOT_ACT)
            return
        settings = self.settings
        reply = limit_reply_tokens(turn, settings.max_tokens)
        await turn.run(
            turn.message.text,
            tools=(*self._choose_tools(turn), *turn.client_tools),
            system=settings.system,
            history=turn.history,
            sampling=Sampling(temperature=settings.temperature, max_tokens=reply),
            images=True,
        )

    def _choose_tools(self, turn: Turn) -> tuple[str, ...]:
        for names in (self.settings.tools, turn.enabled_tools):
            if names is not None:
                return tuple(names)
        return turn.harmless_tools
