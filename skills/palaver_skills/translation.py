"""Translation of prose, part by part; code, links and structure stay as they are."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, ClassVar

import pydantic

from palaver import InvalidInput, PluginSettings, Sampling, Skill, Turn, run_on_text
from palaver_skills import languages, prompts
from palaver_skills.instructions import MAX_INSTRUCTION_LENGTH, split_request, strip_quotes
from palaver_skills.language_detection import detect_language
from palaver_skills.languages import BY_CODE, STARTER_LANGUAGES, Language
from palaver_skills.markdown import Segment, split_blocks, split_spans
from palaver_skills.text_splitting import split_sentences
from palaver_skills.token_budget import TEMPLATE, split_to_tokens

_LANGUAGE = rf"(?:{languages.NAMES})"
_VERB = re.compile(
    r"translat|übersetz|uebersetz|tradu|翻译|译成|怎么说|how (?:do|would) (?:you|i) say"
    r"|wie sagt man|comment dit-on|cómo se dice|como se dice",
    re.IGNORECASE,
)
_INTO = rf"(?:\b(?:in|into|to|ins|auf|en|al)\s+|成|为|用){_LANGUAGE}"
_INSTRUCTION = re.compile(rf"{_VERB.pattern}|{_INTO}", re.IGNORECASE)
_TEXT_INTO = re.compile(rf"(?P<text>.+?)\s*{_INTO}\W*", re.IGNORECASE | re.DOTALL)
_SOURCE = re.compile(
    rf"(?:\b(?:from|aus dem|vom|du|del|desde el|de)\s+|\bde l'|从)(?P<source>{_LANGUAGE})",
    re.IGNORECASE,
)
_LEADING_CODE = re.compile(r"(?:to\s+)?([a-z]{2})(?:\s*[:：]\s*|\s+)(?=\S)", re.IGNORECASE)
_REFERENCE = re.compile(
    r"(?:this|that|it|(?:this|that|the)(?: following)? (?:text|sentence|message)"
    r"|your (?:last )?(?:answer|reply)"
    r"|the above|(?:das|dies|es)(?: bitte)?|(?:diesen|den) (?:satz|text)|ça|cela|cette phrase"
    r"|ce texte|esto|eso|esta frase|este texto|这个|这句话|这段话|上面的?|它)?",
    re.IGNORECASE,
)
_SOURCE_AT_END = re.compile(rf"{_SOURCE.pattern}\W*$", re.IGNORECASE)
_SOURCE_LENGTH = 100
"""Characters at the end of a text in which the source language may be named."""
_MARK = "⟦{}⟧"
_MARKS = re.compile(r"⟦(\d+)⟧")
_VERBS = (
    (r"(?:please\s+|(?:can|could) you\s+)?translate\b", r"\b(?:in)?to\s"),
    (r"(?:bitte\s+)?(?:ü|ue)bersetzen?\b(?:\s+sie\b)?(?:\s+bitte\b)?", r"\b(?:ins|in|nach|auf)\s"),
    (r"tradui(?:s|t|sez|re)\b", r"\b(?:en\s|vers l['’]|vers le\s)"),
    (r"trad(?:uce|uzca|ucir|[úu]ceme)\b", r"\b(?:al|en)\s"),
)
"""Per language, the words that ask for a translation, and those before the target."""
_CHINESE = r"请?(?:把|将)?[^:：\n]{0,12}?(?:翻译|译)(?:成|为|到)"
_SAYING = (
    (r"how (?:do|would|can) (?:you|i|we) say\b", r"\bin\s"),
    (r"wie sagt man\b", r"\b(?:auf|in)\s"),
    (r"comment (?:dit-on|on dit|dire)\b", r"\ben\s"),
    (r"¿?c[óo]mo se dice\b", r"\ben\s"),
)


def _pattern_before_text(verb: str, into: str) -> str:
    """Return a pattern for "translate this into German: …"."""
    return (
        rf"{verb}[^:\n]{{0,60}}?{into}\s*(?P<target>{_LANGUAGE})[^:：\n]{{0,20}}(?:[:：]|\n)\s*"
        r"(?P<text>.+)"
    )


def _pattern_around_text(verb: str, into: str) -> str:
    """Return a pattern for "translate … into German"."""
    text = r"\s{0,3}(?P<text>.*?)\s{0,3}"
    return rf"{verb}{text}{into}\s{{0,3}}(?P<target>{_LANGUAGE})(?:,?\s*(?:please|bitte))?\W*"


def _read_language(value: object) -> object:
    if not isinstance(value, str):
        return value
    language = languages.find_language(value)
    if language is None:
        raise ValueError(f"I do not know the language {value.strip()[:40]!r}")
    return language.code


LanguageCode = Annotated[str, pydantic.BeforeValidator(_read_language)]


class Translation(Skill):
    """Translate a text into another language.

    Markdown, code, links, tags and placeholders in the text stay as they are. The source language
    is detected when it is not given; the target is the one the person named, else the one they
    used last, else they are asked.
    """

    name = "translation"
    aliases: ClassVar = ("translate", "tr")
    examples: ClassVar = (
        "translate this into German",
        "Translate 'good morning' to French",
        "how do you say thank you in Spanish?",
        "what is the Chinese word for water",
        "can you put this paragraph into English for me",
        "I need this email in French",
        "please translate the following text from English to Chinese",
        "Übersetze das bitte ins Englische",
        "Wie sagt man Guten Abend auf Spanisch?",
        "Kannst du mir diesen Satz auf Französisch übersetzen?",
        "Traduis cette phrase en anglais",
        "Comment dit-on bonjour en allemand ?",
        "Peux-tu traduire ce texte en espagnol ?",
        "Traduce esto al inglés",
        "¿Cómo se dice gracias en francés?",
        "Necesito la traducción al alemán",
        "把这句话翻译成英文",
        "请翻译成法语",
        "这个用德语怎么说？",
        "say that in Italian",
        "I need an English version of this message",
        "what does this German sentence mean in English",
        "Wie heißt das auf Englisch?",
    )
    patterns: ClassVar = (
        *(_pattern_before_text(verb, into) for verb, into in (*_VERBS, (_CHINESE, ""))),
        *(_pattern_around_text(verb, into) for verb, into in (*_VERBS, *_SAYING)),
        rf"请?(?:把|将)(?P<text>.+?)(?:翻译|译)(?:成|为|到)(?P<target>{_LANGUAGE})[。.!！\s]*",
        rf"(?P<text>.+?)用(?P<target>{_LANGUAGE})(?:怎么说|如何说|怎么讲)[？?。\s]*",
        rf"(?:in)?to\s+(?P<target>{_LANGUAGE})\s*[:：]\s*(?P<text>.+)",
        (
            r"(?:please\s+)?(?:translate(?:\s+this)?|(?:ü|ue)bersetzen?|tradui(?:s|sez|re)"
            r"|trad(?:uce|uzca|ucir)|翻译(?:一下)?)\s*[:：]\s*(?P<text>.+)"
        ),
    )

    class Settings(PluginSettings):
        temperature: float = pydantic.Field(default=0.0, ge=0, le=2)
        """0 always takes the likeliest word."""
        piece_tokens: int = pydantic.Field(default=400, ge=16)
        """Tokens of the longest part that is translated at once."""
        max_characters: int = pydantic.Field(default=50_000, ge=1)
        """Longest text; a longer one is refused."""

    class Arguments(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
        target: LanguageCode | None = pydantic.Field(
            default=None, description="Language to translate into, by name or code"
        )
        source: LanguageCode | None = pydantic.Field(
            default=None, description="Language of the text, by name or code; detected if not given"
        )
        text: str = pydantic.Field(default="", description="The text to translate")

    async def answer(self, turn: Turn[Arguments]) -> None:
        written = turn.message.arguments.get("text", turn.message.text)
        self._check_length(str(written), beside=MAX_INSTRUCTION_LENGTH)
        target, source, text = await self._read_request(turn)
        self._check_length(text)
        if source == target:
            await turn.say(f"This is {target.name} already.")
            return
        unknown = [x.name for x in (source, target) if x is not None and x not in STARTER_LANGUAGES]
        if turn.engine.demonstration and unknown:
            known = ", ".join(language.name for language in STARTER_LANGUAGES)
            await turn.say(f"The demonstration model does not know {unknown[0]}, only {known}.")
            return
        async for piece in self._translate(turn, text, _build_instructions(turn, source, target)):
            await turn.say(piece)
        await turn.remember("target", target.code)

    def _check_length(self, text: str, *, beside: int = 0) -> None:
        """Raise `InvalidInput` for a text that is too long, ``beside`` an instruction."""
        if len(text) > self.settings.max_characters + beside:
            raise InvalidInput(
                f"The text is too long to translate at once: it has {len(text)} characters, "
                f"at most {self.settings.max_characters} are allowed."
            )

    async def _read_request(self, turn: Turn[Arguments]) -> tuple[Language, Language | None, str]:
        """Return target, source and text: from the arguments, else from the message."""
        given = turn.arguments
        instruction, text = await run_on_text(_split_message, turn.message.text)
        if "text" in turn.message.arguments:
            text = given.text
        else:
            text = _find_text(turn, given.text, text)
        text = text if text.strip() else await turn.ask("What shall I translate?")
        source, target = _find_languages(instruction)
        if given.target:
            target = BY_CODE[given.target]
        if given.source:
            source = BY_CODE[given.source]
        target = await _find_target(turn, target)
        return target, source or await run_on_text(detect_language, text), text

    async def _translate(
        self, turn: Turn[Arguments], text: str, steps: list[str]
    ) -> AsyncIterator[str]:
        """Yield the translated text part by part, each as soon as it is generated."""
        for block in await run_on_text(_read_blocks, text):
            if not block.is_prose:
                yield block.text
                continue
            for stretch in await self._split_block(turn, block.text, steps[0]):
                yield await self._translate_part(turn, stretch, steps)

    async def _split_block(self, turn: Turn[Arguments], text: str, system: str) -> list[str]:
        """Split a block into parts for the model; a demonstration model needs single sentences."""
        room = turn.engine.context_window - await turn.count_tokens(system) - TEMPLATE
        limit = max(8, min(self.settings.piece_tokens, room // 3))
        sentences = turn.engine.demonstration
        parts = await run_on_text(split_sentences, text) if sentences else [text]
        return [cut for part in parts for cut in await split_to_tokens(turn, part, limit)]

    async def _translate_part(self, turn: Turn[Arguments], text: str, steps: list[str]) -> str:
        pieces = await run_on_text(split_spans, text)
        if any(not p.is_prose and p.text.strip() for p in pieces) and not turn.engine.demonstration:
            whole = await self._translate_with_marks(turn, pieces, steps)
            if whole is not None:
                return whole
        return "".join(
            [
                await self._translate_prose(turn, p.text, steps) if p.is_prose else p.text
                for p in pieces
            ]
        )

    async def _translate_with_marks(
        self, turn: Turn[Arguments], pieces: list[Segment], steps: list[str]
    ) -> str | None:
        """Translate a part with marks in place of what stays; None when the model lost a mark."""
        start, end = _find_prose_range(pieces)
        if start == end:
            return None
        inner = pieces[start:end]
        fixed = [p.text for p in inner if not p.is_prose and p.text.strip()]
        numbers = iter(range(len(fixed)))
        marked = "".join(
            p.text if p.is_prose or not p.text.strip() else _MARK.format(next(numbers))
            for p in inner
        )
        written = await self._translate_prose(turn, marked, steps)
        if sorted(_MARKS.findall(written)) != sorted(map(str, range(len(fixed)))):
            return None
        head, tail = pieces[:start], pieces[end:]
        whole = _MARKS.sub(lambda mark: fixed[int(mark[1])], written)
        return "".join([*(p.text for p in head), whole, *(p.text for p in tail)])

    async def _translate_prose(self, turn: Turn[Arguments], text: str, steps: list[str]) -> str:
        single = "\n" not in text
        for system in steps:
            room = turn.engine.context_window - await turn.count_tokens(system) - TEMPLATE
            most = min(2 * len(text.encode()) + 32, 2 * self.settings.piece_tokens, room * 2 // 3)
            sampling = Sampling(max_tokens=max(16, most), temperature=self.settings.temperature)
            written = (await turn.generate(text, system=system, sampling=sampling)).strip()
            text = (_join_lines(written) if single else written) or text
        return text


def _split_message(message: str) -> tuple[str, str]:
    """Return instruction and text, also after a command: "de good morning", "hello in German"."""
    code = _LEADING_CODE.match(message)
    if code and languages.find_language(code[1]):
        return code[1], message[code.end() :]
    instruction, text = split_request(message, _INSTRUCTION)
    whole = None if text or _VERB.search(instruction) else _TEXT_INTO.fullmatch(instruction)
    return (instruction, whole["text"]) if whole else (instruction, text)


def _find_languages(instruction: str) -> tuple[Language | None, Language | None]:
    """Return the source and the target that an instruction names, or None."""
    match = _SOURCE.search(instruction)
    source = languages.find_language(match["source"]) if match else None
    others = [found for found in languages.find_languages(instruction) if found != source]
    return source, others[-1] if others else None


async def _find_target(turn: Turn[Translation.Arguments], named: Language | None) -> Language:
    if named is not None:
        return named
    remembered = BY_CODE.get(await turn.recall("target") or "")
    if remembered is not None:
        return remembered
    question = "Into which language?"
    suggestions = [language.name for language in STARTER_LANGUAGES]
    while True:
        answer = await turn.ask(question, suggestions=suggestions)
        found = next(languages.find_languages(answer), None)
        if found is not None:
            return found
        question = f"I do not know the language {answer.strip()[:40]!r}. Into which one?"


def _read_blocks(text: str) -> list[Segment]:
    return list(split_blocks(text))


def _join_lines(text: str) -> str:
    return " ".join(line for line in map(str.strip, text.split("\n")) if line)


def _find_text(turn: Turn[Translation.Arguments], *candidates: str) -> str:
    """Return the text without quotation marks; where it is only "that", the last reply."""
    for candidate in candidates:
        body, end = candidate[:-_SOURCE_LENGTH], candidate[-_SOURCE_LENGTH:]
        text = strip_quotes(body + _SOURCE_AT_END.sub("", end))
        if not _REFERENCE.fullmatch(text.strip()):
            return text
    said = (x for x in reversed(turn.history) if x.role == "assistant" and x.outcome != "asked")
    return next((entry.text for entry in said if entry.text), "")


def _build_instructions(
    turn: Turn[Translation.Arguments], source: Language | None, target: Language
) -> list[str]:
    """Return the system texts to apply in turn: the demonstration model translates only from and
    into English."""
    english = BY_CODE["en"]
    if turn.engine.demonstration and source is not None and english not in (source, target):
        return [_build_instruction(source, english), _build_instruction(english, target)]
    return [_build_instruction(source, target)]


def _build_instruction(source: Language | None, target: Language) -> str:
    return prompts.build_translation_system(source.name if source else "its language", target.name)


def _find_prose_range(pieces: list[Segment]) -> tuple[int, int]:
    """Return the index of the first segment of prose, and the one after the last."""
    places = [place for place, piece in enumerate(pieces) if piece.is_prose]
    return (places[0], places[-1] + 1) if places else (0, 0)
