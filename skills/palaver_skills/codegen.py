"""Code generation: one fenced block, and one sentence about it."""

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar

import pydantic

from palaver import HistoryEntry, PluginSettings, Sampling, Skill, Turn, run_on_text
from palaver_skills import prompts
from palaver_skills.code_check import (
    close_fence,
    defines_function,
    find_python_error,
    read_fences,
)
from palaver_skills.refusals import ask_for_confidence, decline, is_limited, is_usable, understands
from palaver_skills.token_budget import limit_reply_tokens

LANGUAGES: dict[str, tuple[str, ...]] = {
    "Python": ("python", "python3", "py"),
    "JavaScript": ("javascript", "js", "node", "nodejs"),
    "TypeScript": ("typescript", "ts"),
    "Java": ("java",),
    "C++": ("c++", "cpp"),
    "C#": ("c#", "csharp"),
    "C": ("c",),
    "Go": ("golang", "go"),
    "Rust": ("rust",),
    "Ruby": ("ruby",),
    "PHP": ("php",),
    "Kotlin": ("kotlin",),
    "Swift": ("swift",),
    "SQL": ("sql",),
    "Shell": ("shell", "bash", "sh", "zsh"),
    "HTML": ("html",),
    "CSS": ("css",),
    "R": ("r",),
    "Scala": ("scala",),
    "Haskell": ("haskell",),
    "Lua": ("lua",),
    "Perl": ("perl",),
}
"""Programming languages by name, with their other names in requests and at fences."""

_BY_NAME = {alias: name for name, aliases in LANGUAGES.items() for alias in aliases}
_AMBIGUOUS = frozenset({"c", "go", "r", "shell", "swift", "node"})
"""Names that are also words or letters: they count only after "in" or before "code"."""
_NAMES = "|".join(sorted(map(re.escape, _BY_NAME), key=len, reverse=True))
_MENTION = re.compile(
    rf"(?P<clear>\b(?:in|en|auf|mit|用)\s*)?(?<![\w.+#])(?P<name>{_NAMES})(?![\w+#])"
    r"(?P<thing>[- ](?:code|function|script|program|class|query|snippet|one-liner))?",
    re.IGNORECASE | re.ASCII,
)
_READ_CHARACTERS = 2_000
"""Characters of the beginning and of the end of a message in which a language is looked for."""
_LONGEST_EARLIER = 20_000
"""Characters of the end of an earlier message that are read."""
_PLEASE = r"(?:please\s+|(?:can|could) you\s+)?"
_THING = (
    r"(?:code|function|script|program|class|method|query|snippet|regex|regular expression"
    r"|one-liner|unit tests?|algorithm|module|decorator|loop)"
)


def find_programming_language(text: str) -> str | None:
    """Return the usual name of the programming language that ``text`` asks for, or None."""
    if len(text) > 2 * _READ_CHARACTERS:
        text = f"{text[:_READ_CHARACTERS]}\n{text[-_READ_CHARACTERS:]}"
    for match in _MENTION.finditer(text):
        name = match["name"].casefold()
        if name not in _AMBIGUOUS or match["clear"] or match["thing"]:
            return _BY_NAME[name]
    return None


def _read_language(value: object) -> object:
    if not isinstance(value, str):
        return value
    known = _BY_NAME.get(value.strip().casefold())
    if known is None and not re.fullmatch(r"[A-Za-z][\w .+#-]{0,30}", value.strip()):
        raise ValueError(f"{value[:40]!r} is not the name of a programming language")
    return known or value.strip()


class Codegen(Skill):
    """Write code from a description.

    The code is not run. A note names what is surely wrong in Python, such as a bracket that is
    never closed; without one, the code may still be wrong. "Make it shorter" and the like go on
    from the code before.
    """

    name = "codegen"
    aliases: ClassVar = ("code", "program")
    prompts: ClassVar = ("Write a function that returns the sum of the even numbers in a list.",)
    examples: ClassVar = (
        "write a Python function that reverses a string",
        "Can you code a binary search in Java?",
        "give me a bash script that renames all files in a folder",
        "how do I sort a list of dictionaries in Python",
        "SQL query for the ten newest orders",
        "implement quicksort",
        "regex that matches an email address",
        "write a unit test for this function",
        "a JavaScript snippet that debounces a callback",
        "program that prints the first n prime numbers",
        "add type hints to the code",
        "fix the bug in this code: for i in range(10) print(i)",
        "create an HTTP endpoint with a framework",
        "write a config file for the build",
        "Schreibe eine Python-Funktion, die Primzahlen findet",
        "Kannst du mir ein Skript schreiben, das Dateien kopiert?",
        "Programmiere eine Klasse für eine Warteschlange",
        "Écris une fonction qui calcule la factorielle",
        "Donne-moi une requête SQL pour les clients",
        "Escribe un programa que sume dos números",
        "código en JavaScript para ordenar una lista",
        "用Python写一个排序函数",
        "写一段代码读取文件",
        "帮我写一个正则表达式",
    )
    patterns: ClassVar = (
        (
            rf"{_PLEASE}(?:write|create|make|give me|show me|generate"
            rf"|implement|code)\s+(?:me\s+)?(?:a|an|some|the)?\s*(?:(?:short|small|simple)\s+)?"
            rf"(?P<language>{_NAMES})[- ]{_THING}\b.*"
        ),
        (
            rf"{_PLEASE}(?:write|create|generate|implement|code)\s+(?:me\s+)?(?:a|an|some|the)?\s*"
            r"(?:[\w-]+\s+){0,2}(?:function|script|program|class|method|regex|decorator|query)"
            r"(?:\s+(?:that|which|to|in|called|named|taking)\b.*)?"
        ),
        (
            r"(?:bitte\s+)?schreibe?n?\s+(?:mir\s+)?(?:eine?n?\s+)?[\w-]{0,30}\s?[\w-]{0,30}"
            r"(?:funktion|skript|script|programm|klasse)\b.*"
        ),
        r"[ée]cri(?:s|vez)(?:-moi)?\s+(?:une?|du)\s+(?:fonction|script|programme|classe|code)\b.*",
        (
            r"(?:escrib[ea]|haz)(?:me)?\s+(?:una?\s+)?(?:funci[óo]n|script|programa|clase|c[óo]digo)"
            r"\b.*"
        ),
        rf"(?:请|帮我)?用\s*(?P<language>{_NAMES})\s*(?:写|编写|实现).+",
        r"(?:请|帮我)?(?:写|编写)(?:一个|一段|个|段)?[^，,。\n]{0,12}(?:代码|函数|程序|脚本).*",
    )

    class Settings(PluginSettings):
        language: str = "Python"
        """Programming language when neither the message nor the code before names one."""
        temperature: float = pydantic.Field(default=0.0, ge=0, le=2)
        """0 always takes the likeliest word."""
        max_tokens: int = pydantic.Field(default=1024, ge=1)
        """Longest reply; never more than half of the model's context window."""

    class Arguments(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
        language: Annotated[str, pydantic.BeforeValidator(_read_language)] | None = pydantic.Field(
            default=None, description="Programming language; taken from the message if not given"
        )

    async def answer(self, turn: Turn[Arguments]) -> None:
        earlier = _filter_own(turn.history)
        language = (
            turn.arguments.language
            or find_programming_language(turn.message.text)
            or await run_on_text(_find_last_language, _join_ends(earlier))
            or self.settings.language
        )
        sampling = Sampling(
            temperature=self.settings.temperature,
            max_tokens=limit_reply_tokens(turn, self.settings.max_tokens),
        )
        if is_limited(turn.engine):
            await _write_small_function(turn, language, earlier, sampling)
            return
        text = await turn.stream(
            turn.message.text,
            system=prompts.build_codegen_system(language),
            history=earlier,
            sampling=sampling,
        )
        rest = await run_on_text(close_fence, text, is_cut=turn.finish_reason == "length")
        await turn.say(rest)
        problem = "" if rest else await run_on_text(find_python_error, text, LANGUAGES["Python"])
        if problem:
            await turn.say(f"\n\nNote: this is not well-formed Python ({problem}).")


async def _write_small_function(
    turn: Turn[Codegen.Arguments],
    language: str,
    earlier: Sequence[HistoryEntry],
    sampling: Sampling,
) -> None:
    """Say code of a model that was made for small functions, when it defines one; else decline."""
    reach = turn.engine.find_reach("programming")
    if reach is None:
        await decline(turn, "knowledge")
        return
    if reach.languages and language not in reach.languages:
        await decline(turn, "programming_language", language=language, languages=reach.languages)
        return
    if not await understands(turn, reach):
        return
    written = await turn.generate(
        turn.message.text,
        system=prompts.build_codegen_system(language),
        history=earlier,
        sampling=ask_for_confidence(turn, sampling),
        for_reply=True,
    )
    is_right = language != "Python" or await run_on_text(defines_function, written)
    if is_right and is_usable(turn, "programming", written, turn.message.text):
        await turn.say(written)
    else:
        await decline(turn, "no_code")


def _filter_own(history: tuple[HistoryEntry, ...]) -> tuple[HistoryEntry, ...]:
    """Return the requests to this skill, and its answers."""
    turns = {entry.turn for entry in history if entry.skill == Codegen.name}
    return tuple(entry for entry in history if entry.turn in turns)


def _join_ends(history: tuple[HistoryEntry, ...]) -> str:
    return "\n".join(entry.text[-_LONGEST_EARLIER:] for entry in history)


def _find_last_language(text: str) -> str | None:
    """Return the language of the last fence that names one, or None."""
    named = (_BY_NAME.get(fence.language) for fence in reversed(read_fences(text)))
    return next(filter(None, named), None)
