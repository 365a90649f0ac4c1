"""Summarization: in one step where the text fits, else part by part, then of the summaries."""

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar

import pydantic

from palaver import HistoryEntry, InvalidInput, PluginSettings, Sampling, Skill, Turn, run_on_text
from palaver_skills import prompts
from palaver_skills.instructions import split_request, strip_quotes
from palaver_skills.prompts import Length
from palaver_skills.token_budget import count_prompt_room, limit_reply_tokens, split_to_tokens

NOTHING_TO_SUMMARIZE = "There is nothing to shorten yet: send the text together with the request."

_PLEASE = r"(?:please\s+|(?:can|could) you\s+)?"
_VERB = (
    r"(?:summari[sz]e|summary|sum(?: \w+)? up|tl;?\s?dr|shorten|recap|condense|key points"
    r"|main points|gist|fass\w*|zusammenfass\w*|zusammen|kürze|résum\w*|resum\w*|raccourci\w*"
    r"|总结|概括|摘要|归纳|缩短)"
)
_INSTRUCTION = re.compile(_VERB, re.IGNORECASE)
_CONVERSATION = re.compile(
    r"conversation|chat|discussion|so far|we (?:talked|said|discussed)|thread|gespräch|unterhaltung"
    r"|bisher|conversación|charla|hasta ahora|jusqu'ici|对话|聊天|谈话|到目前为止",
    re.IGNORECASE,
)
_LENGTHS: dict[Length, str] = {
    "three bullet points": r"bullet|points|stichpunkt|liste?\b|puntos|要点|三点",
    "one sentence": r"(?:one|a single|1) sentence|tl;?\s?dr|one[- ]liner|briefly|very short"
    r"|ein(?:em)? satz|une (?:seule )?phrase|una (?:sola )?frase|一句",
    "three sentences": r"sentences|paragraph|sätze|phrases|frases|三句|段",
}
_LENGTH_PATTERNS = {length: re.compile(said, re.IGNORECASE) for length, said in _LENGTHS.items()}
_LONGEST_MENTION = 200
"""Characters of the longest text that means the conversation."""
_READ_CHARACTERS = 4_000
"""Characters of an instruction in which a length is looked for."""
_ROUNDS = 6
"""Rounds of summarizing summaries; each shortens to a third at most."""


def find_length(text: str) -> Length | None:
    """Return the length that ``text`` asks for in one of several languages, or None."""
    found = (n for n, said in _LENGTH_PATTERNS.items() if said.search(text, 0, _READ_CHARACTERS))
    return next(found, None)


def _read_length(value: object) -> object:
    if isinstance(value, str) and value not in prompts.LENGTHS:
        named = find_length(value)
        if named is None:
            known = ", ".join(repr(length) for length in prompts.LENGTHS)
            raise ValueError(f"The length must be one of {known}")
        return named
    return value


class Summarization(Skill):
    """Shorten a text or the conversation to its main points.

    A text beyond the model's context window is shortened part by part, then the summaries
    together: what ties distant parts to each other may be lost. A summary may leave out or
    twist what matters to you.
    """

    name = "summarization"
    aliases: ClassVar = ("summarize", "summarise", "tldr", "sum")
    examples: ClassVar = (
        "summarize this text",
        "give me a summary of our conversation",
        "tl;dr",
        "what are the main points of this article?",
        "Can you shorten this to one sentence?",
        "sum this up in three bullet points",
        "what did we talk about so far?",
        "make the text shorter please",
        "recap the discussion",
        "I don't have time to read this, give me the gist",
        "a brief version of the following report",
        "key takeaways of the meeting",
        "condense the paragraph below",
        "Fasse diesen Text zusammen",
        "Kannst du das in drei Stichpunkten zusammenfassen?",
        "Ich brauche eine kurze Zusammenfassung",
        "Was haben wir bisher besprochen?",
        "Résume ce texte en une phrase",
        "Peux-tu me faire un résumé court ?",
        "Resume este texto",
        "Hazme un resumen en tres puntos",
        "请总结一下这篇文章",
        "用一句话概括",
        "总结我们的对话",
    )
    patterns: ClassVar = (
        rf"{_PLEASE}(?:summari[sz]e|shorten|condense|recap|sum up)\b[^:\n]{{0,100}}(?:[:：]|\n).+",
        rf"{_PLEASE}(?:summari[sz]e|recap|sum up)\s+(?:this|our|the|my)\b[^:\n]{{0,80}}",
        r"tl;?\s?dr\b.*",
        r"(?:bitte\s+)?fass(?:e|en sie)?\s[^\n]{0,80}zusammen\b.*",
        (
            r"(?:résume[rz]?\s|resum(?:e|ir)\s+(?:est|la?s?\b|el\b|nuestr))"
            r"[^:\n]{0,80}(?:(?:[:：]|\n).+)?"
        ),
        r"(?:请)?(?:用[^，,。:：\n]{1,10})?(?:总结|概括)[^:：\n]{0,30}(?:(?:[:：]|\n).+)?",
    )

    class Settings(PluginSettings):
        temperature: float = pydantic.Field(default=0.0, ge=0, le=2)
        """0 always takes the likeliest word."""
        max_tokens: int = pydantic.Field(default=256, ge=1)
        """Longest summary; never more than a third of the model's context window."""
        max_parts: int = pydantic.Field(default=64, ge=1)
        """Parts into which a long text is cut at most; a longer text is refused."""

        max_characters: int = pydantic.Field(default=500_000, ge=1)
        """Longest message; a longer one is refused."""

    class Arguments(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
        length: Annotated[Length, pydantic.BeforeValidator(_read_length)] | None = pydantic.Field(
            default=None, description="How long the summary shall be; three sentences if not given"
        )
        text: str = pydantic.Field(
            default="", description="The text; the conversation so far if not given"
        )

    async def answer(self, turn: Turn[Arguments]) -> None:
        written = turn.arguments.text or turn.message.text
        if len(written) > self.settings.max_characters:
            raise InvalidInput(
                f"The text is too long to shorten here: it has {len(written)} characters, "
                f"at most {self.settings.max_characters} are allowed."
            )
        instruction, text = await run_on_text(split_request, turn.message.text, _INSTRUCTION)
        text = turn.arguments.text or strip_quotes(text)
        if not text.strip() or _is_about_conversation(instruction, text):
            text = format_history(turn.history)
        if not text.strip():
            await turn.say(NOTHING_TO_SUMMARIZE)
            return
        length = turn.arguments.length or find_length(instruction) or "three sentences"
        system = prompts.build_summarization_system(length)
        reply = min(
            limit_reply_tokens(turn, self.settings.max_tokens),
            max(16, turn.engine.context_window // 3),
        )
        room = await count_prompt_room(turn, system, reply)
        await turn.stream(
            await self._reduce(turn, text, room),
            system=system,
            sampling=self._sampling(reply),
        )

    async def _reduce(self, turn: Turn[Arguments], text: str, room: int) -> str:
        """Summarize the text's parts, and their summaries, until it fits into ``room`` tokens."""
        parts = await split_to_tokens(turn, text, room)
        if len(parts) > self.settings.max_parts:
            raise InvalidInput(
                f"The text is too long to shorten here: it takes {len(parts)} parts, "
                f"at most {self.settings.max_parts} are allowed."
            )
        for _ in range(_ROUNDS):
            if len(parts) == 1:
                break
            parts = await split_to_tokens(
                turn, await self._summarize_parts(turn, parts, room), room
            )
        return parts[0]

    async def _summarize_parts(self, turn: Turn[Arguments], parts: Sequence[str], room: int) -> str:
        system = prompts.build_summarization_system("three sentences")
        sampling = self._sampling(max(16, min(self.settings.max_tokens, room // 3)))
        summaries = [
            await turn.generate(part.strip(), system=system, sampling=sampling) for part in parts
        ]
        return "\n".join(summary.strip() for summary in summaries)

    def _sampling(self, tokens: int) -> Sampling:
        return Sampling(max_tokens=tokens, temperature=self.settings.temperature)


def _is_about_conversation(instruction: str, text: str) -> bool:
    """Return True when the conversation is meant, not a text that mentions one."""
    is_short = len(text) <= _LONGEST_MENTION and len(text.split()) < 8
    return is_short and bool(_CONVERSATION.search(f"{instruction} {text}"))


def format_history(history: Sequence[HistoryEntry]) -> str:
    """Return the conversation as a text."""
    names = {"user": "User", "assistant": "Assistant"}
    return "\n".join(
        f"{names[entry.role]}: {entry.text.strip()}" for entry in history if entry.text
    )
