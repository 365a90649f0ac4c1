"""Translation of prose, part by part; code, links and structure stay as they are."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, ClassVar

import pydantic

from palaver import InvalidInput, PluginSettings, Sampling, Skill, Turn, run_on_text
from palaver_skills import languages, prompts
from palaver_skills.cleaning import clean_reply
from palaver_skills.documents import join_documents, read_documents
from palaver_skills.flaws import count_words, is_in_language
from palaver_skills.instructions import (
    ANY,
    BEFORE,
    KINDLY,
    MAX_INSTRUCTION_LENGTH,
    REFERENCE,
    THANKS,
    build_grammar,
    find_last_reply,
    join_words,
    read_request,
)
from palaver_skills.language_detection import detect_language
from palaver_skills.languages import BY_CODE, MARK, STARTER_LANGUAGES, Language
from palaver_skills.markdown import FIXED, Passage, read_document, split_edges
from palaver_skills.refusals import (
    ask_for_confidence,
    decline,
    has_language,
    is_limited,
    is_usable,
)
from palaver_skills.text_splitting import split_sentences
from palaver_skills.token_budget import TEMPLATE, split_to_tokens

UNCLEAR = "Which text shall I translate? Please send the text alone."
_TO = (
    r"(?:(?:into|to|in|ins|nach|auf|en|vers le|al|a|para|para o|em|naar|naar het|in het|на)\s+"
    r"|vers l['’]|all['’])"
)
_OF = r"(?:(?:from|aus dem|vom|aus|du|del|desde el|dal|do|uit het|de)\s+|de l['’]|dall['’])"
_INTO, _FROM = rf"{_TO}{MARK}", rf"(?:\s+{_OF}{MARK})?"
_CHINESE = r"(?:翻译|翻譯|译)(?:一下)?(?:成|为|到)\s*"
_VERB = join_words(
    r"translate",
    r"übersetz(?:e|en|t)?(?: sie)?|uebersetzen?",
    r"tradui(?:s|sez|re)(?:-moi)?",
    r"trad(?:uce|uzca|ucir|[úu]ceme|[úu]celo)",
    r"trad(?:uci|uca|urre|ucimi)",
    r"traduz(?:a|ir)?",
    r"vertaal|vertaalt",
    r"翻译(?:一下)?|翻譯",
    r"перевед(?:и|ите)",
)
_VERB_AT_END = join_words(r"übersetzen|uebersetzen", r"vertalen")
_PUT = rf"(?:put|say|write|turn|render|convert)\s+{REFERENCE}(?: again)?\s+{_INTO}"
_NEED = (
    rf"(?:i|we) (?:need|want|would like) (?:{REFERENCE} in(?:to)? {MARK}"
    rf"|an? {MARK} (?:version|translation)(?: of {REFERENCE})?)"
    rf"|ich (?:brauche|möchte|will) {REFERENCE} auf {MARK}"
    rf"|(?:necesito|quiero) la traducci[óo]n(?: de {REFERENCE})? al {MARK}"
)
_PLEASE_IN = rf"(?:{_TO})?{MARK},?\s+{KINDLY}"
_PAIR = rf"{MARK}\s*(?:to|into|->|→|–)\s*{MARK}"
_DIRECTION = rf"(?:(?:(?:in)?to|ins|naar het)\s+|vers l['’]){MARK}"
_MANNER = join_words(
    r"\([^()\n]{1,40}\)",
    r",?\s(?:(?:and|but|und|aber|et|mais|y|pero)\s)?(?:keep(?:ing)?|us(?:e|ing)|without|with|ohne|mit"
    rf"|sans|avec|gardez?|sin|con)\s{ANY}",
)
"""How to translate, behind the language."""
_AGAIN = join_words(
    r"(?:and |then |also )?(?:now |again |the same |once more |then )?",
    r"(?:und |dann )?(?:jetzt |nun |noch einmal |das gleiche |dasselbe )?",
    r"(?:et )?(?:maintenant |la même chose )?",
    r"(?:y )?(?:ahora |lo mismo )?",
    r"(?:ed? )?(?:ora |adesso |lo stesso )?",
    r"(?:en )?(?:nu )?",
)
"""Words at the beginning of a follow-up."""
_SAY = join_words(
    r"how (?:do|would|can) (?:you|i|we) say",
    r"wie (?:sagt man|heißt|heisst)|was hei(?:ß|ss)t",
    r"comment (?:dit-on|on dit|dire)",
    r"¿?c[óo]mo se dice",
    r"come si dice",
    r"como se diz",
    r"hoe zeg je",
)
_NAMES = rf"(?:{languages.NAMES})"
GRAMMAR = build_grammar(
    border=(
        rf"{_VERB}(?:\s{ANY})?\s{_INTO}{_FROM}(?:\s?{_MANNER})?|{_VERB}(?:\s+{REFERENCE})?|{_PUT}"
        rf"|{_PLEASE_IN}|(?:{_VERB}\s+)?{_PAIR}|{_DIRECTION}"
        rf"|(?:{ANY}\s)?{_INTO}{_FROM}(?:\s{ANY})?\s{_VERB_AT_END}"
        rf"|请?[^:：\n]{{0,14}}{_CHINESE}{MARK}"
    ),
    bare=(
        rf"{_VERB}(?:\s+{REFERENCE})?{_FROM}(?:\s+{_INTO})?{_FROM}"
        rf"|{_PUT}|{_NEED}|{_PLEASE_IN}|(?:in)?to\s+{MARK}"
        rf"|(?:{REFERENCE}\s+)?(?:{_INTO}{_FROM}\s+)?(?:{REFERENCE}\s+)?{_VERB_AT_END}"
        rf"|请?(?:把|将)?{REFERENCE}?{_CHINESE}{MARK}|{REFERENCE}?用{MARK}(?:怎么|如何)[说讲]"
        rf"|{_SAY}\s+{REFERENCE}\s+{_INTO}|what does(?: {REFERENCE})? mean in {MARK}"
        r"|(?:what is|was (?:bedeutet|ist)|que (?:veut dire|signifie)|¿?qu[ée] significa)"
        rf"\s+{_INTO}"
        rf"|(?:{REFERENCE})?是?什么意思|请?用{MARK}说"
    ),
    alone=(
        rf"{_AGAIN}{_INTO}|(?:再|那就?|现在|{REFERENCE})?{_CHINESE}{MARK}"
        rf"|(?:再|那就?|现在|{REFERENCE}){MARK}呢?"
    ),
    around=(
        rf"(?:{_VERB}|{_SAY})\s+(?P<middle>.+?)(?:\s+{_OF}{_NAMES})?\s+{_TO}{_NAMES}"
        rf"(?:\s+{_OF}{_NAMES})?|请?(?:把|将)(?P<object>.+?){_CHINESE}{_NAMES}"
        rf"|(?P<first>.+?)用{_NAMES}(?:怎么|如何)[说讲]"
        rf"|what(?:'s| is) the {_NAMES} (?:word|term|expression) (?:for|of) (?P<last>[^.!?\n]+?)"
    ),
    opening=r"translate|übersetze|tradui(?:s|sez)|tradu(?:ce|zca|ci|za)|vertaal",
)
_SOURCE = re.compile(
    rf"(?:\b(?:from|aus dem|vom|du|del|desde el|dal|uit het|de)\s+|\bde l['’]|\bdall['’]|从)"
    rf"(?P<source>{_NAMES})\b",
    re.IGNORECASE,
)
_SHOWN = re.compile(r"⟦\d{1,6}⟧")
"""A mark as the model sees it."""
_RUNS = re.compile(rf"{FIXED.pattern}|[^{FIXED.pattern[1:-1]}]+")


def _read_language(value: object) -> object:
    if not isinstance(value, str):
        return value
    language = languages.find_language(value)
    if language is None:
        raise ValueError(f"I do not know the language {value.strip()[:40]!r}")
    return language.code


LanguageCode = Annotated[str, pydantic.BeforeValidator(_read_language)]


class _Unusable(Exception):
    """The model has written what is no translation."""


class Translation(Skill):
    """Translate a text into another language.

    Markdown, code, links, tags and placeholders in the text stay as they are. The source language
    is detected when it is not given; the target is the one the person named, else the one they
    used last, else they are asked.
    """

    name = "translation"
    aliases: ClassVar = ("translate", "tr")
    prompts: ClassVar = ("Translate into French: I can help Tom.",)
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
        'what does "Brot" mean in English?',
        'what is "house" in German?',
        'was bedeutet "bread" auf Deutsch?',
        "que veut dire « house » en français ?",
        '¿qué significa "house" en español?',
        "“Brot”是什么意思？",
        "in German, please",
        "auf Englisch bitte",
        "en anglais, s'il te plaît",
        "en francés, por favor",
        "请用英语说",
    )
    patterns: ClassVar = (
        rf"{BEFORE}(?:{_VERB}|{_SAY})(?:\b|\s).*",
        rf"(?:.+\n)?{BEFORE}[^\n]*{_TO}{_NAMES}\s[^\n]*{_VERB_AT_END}{THANKS}(?:[:：\n].+)?",
        rf".+\n{BEFORE}{_VERB}\b[^\n]*{_TO}{_NAMES}{THANKS}",
        rf"[^\n]*(?:{_CHINESE}|用){_NAMES}.*",
        rf"(?:in)?to\s+{_NAMES}\s*[:：]\s*.+",
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
            default=None,
            description="Language to translate into, by name or code",
            json_schema_extra={"option": "to"},
        )
        source: LanguageCode | None = pydantic.Field(
            default=None,
            description="Language of the text, by name or code; detected if not given",
            json_schema_extra={"option": "from"},
        )
        text: str = pydantic.Field(default="", description="The text to translate")

    async def answer(self, turn: Turn[Arguments]) -> None:
        written = turn.arguments.text or turn.message.text
        self._check_length(written, beside=MAX_INSTRUCTION_LENGTH)
        target, source, text = await self._read_request(turn)
        self._check_length(text)
        if source == target:
            await turn.say(f"This is {target.name} already.")
            return
        if not await _is_in_reach(turn, source, target, text):
            return
        pieces = self._translate(turn, text, _build_instructions(turn, source, target))
        if not is_limited(turn.engine):
            async for piece in pieces:
                await turn.say(piece)
        elif not await self._say_usable(turn, pieces, target):
            return
        await turn.remember("target", target.code)

    async def _say_usable(
        self, turn: Turn[Arguments], pieces: AsyncIterator[str], target: Language
    ) -> bool:
        """Say a translation when the whole of it is usable; else decline it."""
        try:
            written = "".join([piece async for piece in pieces])
        except _Unusable:
            written = ""
        if not written or not await run_on_text(is_in_language, written, target.code):
            await decline(turn, "no_result")
            return False
        await turn.say(written)
        return True

    def _check_length(self, text: str, *, beside: int = 0) -> None:
        """Raise `InvalidInput` for a text that is too long, ``beside`` an instruction."""
        if len(text) > self.settings.max_characters + beside:
            raise InvalidInput(
                f"The text is too long to translate at once: it has {len(text)} characters, "
                f"at most {self.settings.max_characters} are allowed."
            )

    async def _read_request(self, turn: Turn[Arguments]) -> tuple[Language, Language | None, str]:
        """Return target, source and text: from the arguments, else from the message and its
        documents."""
        given = turn.arguments
        documents = [] if given.text else await read_documents(turn)
        if documents:
            instruction, text = turn.message.text, join_documents(documents)
        else:
            message = given.text or turn.message.text
            instruction, text = await read_request(turn, message, GRAMMAR, UNCLEAR)
        text = text if text.strip() else find_last_reply(turn.history)
        text = text if text.strip() else await turn.ask("What shall I translate?")
        source, target = _find_languages(instruction)
        if given.target:
            target = BY_CODE[given.target]
        if given.source:
            source = BY_CODE[given.source]
        target = languages.qualify(await _find_target(turn, target), instruction)
        return target, source or await run_on_text(detect_language, text), text

    async def _translate(
        self, turn: Turn[Arguments], text: str, steps: list[str]
    ) -> AsyncIterator[str]:
        """Yield the translated text part by part, each as soon as it is generated."""
        for part in await run_on_text(read_document, text):
            if isinstance(part, str):
                yield part
                continue
            at = 0
            for piece in await self._split_passage(turn, part, steps[0]):
                yield await self._translate_piece(turn, part, piece, at, steps)
                at += piece.count("\n")

    async def _split_passage(
        self, turn: Turn[Arguments], passage: Passage, system: str
    ) -> list[str]:
        """Split a passage into parts for the model; a demonstration model gets sentences."""
        room = turn.engine.context_window - await turn.count_tokens(system) - TEMPLATE
        limit = max(8, min(self.settings.piece_tokens, room // 3))
        text, sentences = passage.text, turn.engine.demonstration
        parts = await run_on_text(split_sentences, text) if sentences else [text]
        return [cut for part in parts for cut in await split_to_tokens(turn, part, limit)]

    async def _translate_piece(
        self, turn: Turn[Arguments], passage: Passage, text: str, at: int, steps: list[str]
    ) -> str:
        """Return a translated piece of a passage, after ``at`` breaks: all at once if the model
        keeps the marks, else what stands between them, one after the other."""
        head, core, tail = split_edges(text)
        if not core:
            return passage.restore(text, at)
        inner = at + head.count("\n")
        written = await self._translate_marked(turn, core, steps)
        if written is not None:
            written = passage.restore(passage.escape(written), inner)
        else:
            written = ""
            after = inner
            for run in _RUNS.findall(core):
                written += await self._translate_piece(turn, passage, run, after, steps)
                after += run.count("\n")
        return passage.restore(head, at) + written + passage.restore(tail, inner + core.count("\n"))

    async def _translate_marked(
        self, turn: Turn[Arguments], text: str, steps: list[str]
    ) -> str | None:
        """Return the translation with all marks of ``text``; None when the model lost one."""
        marks = FIXED.findall(text)
        if not marks:
            return _SHOWN.sub("", await self._translate_prose(turn, text, steps))
        if turn.engine.demonstration:
            return None
        numbers = {mark: f"⟦{number}⟧" for number, mark in enumerate(marks)}
        shown = FIXED.sub(lambda mark: numbers[mark[0]], text)
        written = await self._translate_prose(turn, shown, steps)
        if sorted(_SHOWN.findall(written)) != sorted(numbers.values()):
            return None
        return _SHOWN.sub(lambda mark: marks[int(mark[0][1:-1])], written)

    async def _translate_prose(self, turn: Turn[Arguments], text: str, steps: list[str]) -> str:
        for system in steps:
            room = turn.engine.context_window - await turn.count_tokens(system) - TEMPLATE
            most = min(2 * len(text.encode()) + 32, 2 * self.settings.piece_tokens, room * 2 // 3)
            sampling = Sampling(max_tokens=max(16, most), temperature=self.settings.temperature)
            written = await turn.generate(
                text, system=system, sampling=ask_for_confidence(turn, sampling), for_reply=True
            )
            if not is_usable(turn, "translation", written, text):
                raise _Unusable
            text = await run_on_text(clean_reply, written, text)
        return text


def _find_languages(instruction: str) -> tuple[Language | None, Language | None]:
    """Return the source and the target that an instruction names, or None."""
    match = _SOURCE.search(instruction)
    source = languages.find_language(match["source"]) if match else None
    others = [found for found in languages.find_languages(instruction) if found != source]
    return source, others[-1] if others else None


async def _is_in_reach(
    turn: Turn[Translation.Arguments], source: Language | None, target: Language, text: str
) -> bool:
    """Return True for what the model was made for; else decline it."""
    reach = turn.engine.find_reach("translation")
    if reach is None:
        await decline(turn, "knowledge")
        return False
    for language in filter(None, (source, target)):
        if not has_language(reach.languages, language):
            await decline(turn, "language", language=language.code, languages=reach.languages)
            return False
    if reach.words:
        sentences = await run_on_text(split_sentences, text)
        if max(map(count_words, sentences), default=0) > reach.words:
            await decline(turn, "long_sentence", words=reach.words)
            return False
    return True


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
