"""Summarization: in one step where the text fits, else part by part, then of the summaries."""

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar

import pydantic

from palaver import HistoryEntry, InvalidInput, PluginSettings, Sampling, Skill, Turn, run_on_text
from palaver_skills import prompts
from palaver_skills.documents import join_documents, read_documents
from palaver_skills.flaws import count_words, drop_repeats, is_made_of
from palaver_skills.instructions import (
    ANY,
    BEFORE,
    KINDLY,
    REFERENCE,
    build_grammar,
    find_last_reply,
    join_words,
    read_request,
)
from palaver_skills.language_detection import detect_language
from palaver_skills.prompts import Length
from palaver_skills.refusals import decline, has_language, is_limited
from palaver_skills.token_budget import count_prompt_room, limit_reply_tokens, split_to_tokens

NOTHING_TO_SUMMARIZE = "There is nothing to shorten yet: send the text together with the request."

UNCLEAR = "Which text shall I shorten? Please send the text alone."
_SUMMARIZE = join_words(
    r"summari[sz]e",
    r"r[ée]sume[rz]|résume",
    r"riassum(?:i|a|ere)",
)
_SHORTEN = join_words(
    r"shorten|condense|abridge",
    r"kürzen?|verkürzen?",
    r"raccourci[sr]?",
    r"ac[óo]rta(?:lo)?|abrevia",
    r"accorcia",
)
_AMBIGUOUS = join_words(r"recap|sum up", r"resum(?:e|a|ir|en)")
"""Words that ask for a summary only together with what or how long."""
_IN_LENGTH = (
    r"(?:\s+(?:(?:in|into|to|as|with|using|en|auf|mit|a|su|dans|em)\s+[^:：\n.!?…]{1,40}"
    r"|briefly|kurz|brièvement|brevemente))"
)
_NAMED = rf"(?:\s+{REFERENCE}(?: so far)?{_IN_LENGTH}?|{_IN_LENGTH})"
_SUMMARY = join_words(
    r"summary|recap|gist|overview|digest|tl;?dr",
    r"zusammenfassung|kurzfassung",
    r"résumé",
    r"resumen",
    r"riassunto",
    r"resumo",
    r"samenvatting",
)
_OF = rf"(?:\s+(?:of|for|about|von|zu|de|del|der|des|di)\s+{REFERENCE})"
_GIVE = join_words(
    r"(?:give|make|write|show|send)(?: me| us)?|(?:i|we) (?:need|want|would like)|i'd like",
    r"(?:ich (?:brauche|möchte|will)|gib|mach|mache|schreib|schreibe)(?: mir)?",
    r"(?:faire|fais|faites)(?:-moi)?|je veux",
    r"haz(?:me)?|quiero|necesito",
    r"fai|fammi|vorrei",
    r"faça|faz",
    r"maak|geef me",
)
_BOTH = (
    rf"{_AMBIGUOUS}{_NAMED}|sum\s+{REFERENCE}\s+up{_IN_LENGTH}?"
    rf"|tl;?\s?dr(?:\s+{REFERENCE})?{_IN_LENGTH}?"
    rf"|make {REFERENCE} (?:much |a bit )?(?:shorter|short|briefer|brief)"
    rf"|{_GIVE}\s+(?:[\w-]+\s+){{0,3}}{_SUMMARY}(?:\s+\w+)?{_OF}?{_IN_LENGTH}?"
    rf"|{_SUMMARY},?\s+{KINDLY}"
)
_POINTS = join_words(
    r"(?:(?:what (?:are|were)|list|name|give me) )?(?:the )?(?:main|key) "
    rf"(?:points|takeaways|ideas){_OF}?",
    r"(?:(?:nenne?|gib|zeige?)(?: mir)? )?(?:die )?(?:wichtigsten punkte|hauptpunkte|kernaussagen)",
    r"(?:(?:donne|cite)(?:-moi)? |quels sont |quelles sont )?les "
    rf"(?:points (?:essentiels|principaux|clés)|idées principales){_OF}?",
    rf"(?:dame |¿?cu[áa]les son )?(?:los puntos (?:principales|clave)|las ideas principales){_OF}?",
    r"请?(?:列出|给出)(?:[^，,。:：\n]{1,10}的)?(?:重点|要点)",
)
_GIST = join_words(
    rf"(?:in short|in a nutshell),? what (?:does {REFERENCE} say|is {REFERENCE} about)",
    rf"(?:kurz gesagt,? )?was sagt {REFERENCE}(?:,? kurz gesagt)?",
    rf"(?:en bref|en deux mots),? (?:que dit|de quoi parle) {REFERENCE}",
    rf"(?:en resumen|en pocas palabras),? ¿?(?:qu[ée] dice|de qu[ée] trata) {REFERENCE}",
    r"(?:简单说说)?(?:这|那|上面|下面)[^，,。:：\n]{1,6}(?:主要)?讲了?什么",
)
_START = rf"(?:{_SUMMARIZE}|{_SHORTEN}|fass(?:e|en sie)|tl;?\s?dr)"
_SHORTER = r"(?:shorter|briefer|kürzer|plus court|más corto|più breve)"
_IS_SHORTER = re.compile(rf"\b{_SHORTER}\b", re.IGNORECASE)
GRAMMAR = build_grammar(
    border=(
        rf"{_BOTH}|{_SUMMARIZE}(?:\s{ANY})?|{_SHORTEN}{_NAMED}?"
        rf"|fass(?:e|t|en)?\s{ANY}zusammen|(?:{ANY}\s)?zusammenfassen|vat\s{ANY}samen"
        r"|[^:：\n，。]{0,20}(?:总结|概括|归纳|缩短)[^:：\n，。]{0,20}"
        rf"|{_POINTS}|{_GIST}|(?:an?|eine?|une?) {_SUMMARY}"
    ),
    bare=(
        rf"{_BOTH}|(?:{_SUMMARIZE}|{_SHORTEN}|recap){_NAMED}?"
        rf"|fass(?:e|t|en)?(?: sie)?{_NAMED}?\s+zusammen"
        rf"|(?:{REFERENCE})?{_IN_LENGTH}?\s*zusammenfassen|vat{_NAMED}?\s+samen"
        r"|请?(?:帮我)?(?:用[^，,。:：\n]{1,10})?(?:把[^，,。:：\n]{1,10})?(?:总结|概括|归纳|缩短)(?:一下)?"
        r"(?:(?:这|那|我们|上面|下面|以下)[^，,。:：\n]{0,6})?"
        rf"|(?:an?|the) (?:\w+ )?(?:{_SUMMARY}|version){_OF}"
        rf"|{_POINTS}|{_GIST}"
        r"|what (?:did we|have we) (?:talk(?:ed)? about|discuss(?:ed)?|sa(?:y|id))(?: so far)?"
        r"|was haben wir (?:bisher )?(?:besprochen|gesagt)"
        r"|de quoi avons-nous parlé|¿?de qu[ée] hemos hablado"
    ),
    alone=rf"(?:even |much |a bit |noch |encore |aún )?{_SHORTER}",
    around=r"(?:summari[sz]e|shorten)\s+(?P<quoted>…)",
    opening=_START,
)
_LENGTHS: dict[Length, str] = {
    "three bullet points": r"bullet|points|stichpunkt|liste?\b|puntos|要点|三点",
    "one sentence": r"(?:one|a single|1) sentence|tl;?\s?dr|one[- ]liner|briefly|very short"
    r"|ein(?:em)? satz|une (?:seule )?phrase|una (?:sola )?frase|一句",
    "three sentences": r"sentences|paragraph|sätze|phrases|frases|三句|段",
}
_LENGTH_PATTERNS = {length: re.compile(said, re.IGNORECASE) for length, said in _LENGTHS.items()}
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
    prompts: ClassVar = (
        (
            "Summarize in one sentence: The town library moves to the old station in March. The "
            "new rooms are larger and have a lift. Readers can borrow books there from ten in the "
            "morning. The old building will become a school."
        ),
    )
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
        "in short, what does this text say?",
        "list the key points of the following",
        "shorten the text below",
        "give me the main ideas of this article",
        "was sagt dieser Text, kurz gesagt?",
        "nenne mir die Hauptpunkte",
        "die wichtigsten Punkte",
        "ich brauche eine Kurzfassung",
        "je veux un résumé de ce texte",
        "quelles sont les idées principales de ce texte ?",
        "en deux mots, de quoi parle ce texte ?",
        "¿cuáles son las ideas principales de este texto?",
        "en resumen, ¿de qué trata este texto?",
        "los puntos clave",
        "列出这篇文章的重点",
        "这段话主要讲什么？",
        "把这段文字缩短一下",
    )
    patterns: ClassVar = (
        rf"{BEFORE}{_START}\b.*",
        rf"{BEFORE}(?:{_AMBIGUOUS}|make)\s+(?:this|that|the|our|it|est\w|la|el)\b[^:\n]*(?:[:\n].+)?",
        rf"(?:.+\n)?{BEFORE}[^\n]*\bzusammen(?:fassen)?\b[^\w\n]*(?:\n.+)?",
        rf".+\n{BEFORE}{_START}\b[^\n]*",
        r"请?[^，。:：\n]{0,20}(?:总结|概括|归纳)[^:：\n，。]{0,20}(?:(?:[:：]|\n).+)?",
    )

    class Settings(PluginSettings):
        temperature: float = pydantic.Field(default=0.0, ge=0, le=2)
        """0 always takes the likeliest word."""
        max_tokens: int = pydantic.Field(default=256, ge=1)
        """Longest summary; never more than a third of the model's context window."""
        max_parts: int = pydantic.Field(default=64, ge=1)
        """Parts into which a long text is cut at most; a longer text is refused."""
        max_characters: int = pydantic.Field(default=500_000, ge=1)
        """Longest message or document; a longer one is refused."""

    class Arguments(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
        length: Annotated[Length, pydantic.BeforeValidator(_read_length)] | None = pydantic.Field(
            default=None, description="How long the summary shall be; three sentences if not given"
        )
        text: str = pydantic.Field(
            default="", description="The text; the conversation so far if not given"
        )

    async def answer(self, turn: Turn[Arguments]) -> None:
        instruction, text = await self._read_request(turn)
        length = turn.arguments.length or find_length(instruction)
        if not text.strip() and _IS_SHORTER.search(instruction):
            length = length or "one sentence"
            text = find_last_reply(turn.history)
        text = text if text.strip() else format_history(turn.history)
        if not text.strip():
            await turn.say(NOTHING_TO_SUMMARIZE)
            return
        if not await _is_in_reach(turn, text):
            return
        length = length or "three sentences"
        system = prompts.build_summarization_system(length)
        reply = min(
            limit_reply_tokens(turn, self.settings.max_tokens),
            max(16, turn.engine.context_window // 3),
        )
        room = await count_prompt_room(turn, system, reply)
        rest = await self._reduce(turn, text, room)
        if is_limited(turn.engine):
            await self._say_usable(turn, rest, system, reply)
        else:
            await turn.stream(rest, system=system, sampling=self._sampling(reply))

    async def _say_usable(self, turn: Turn[Arguments], text: str, system: str, reply: int) -> None:
        """Say a summary without what it repeats, when it is made of the words of the text; else
        decline."""
        written = await turn.generate(
            text, system=system, sampling=self._sampling(reply), for_reply=True
        )
        summary = await run_on_text(drop_repeats, written)
        if await run_on_text(is_made_of, summary, text):
            await turn.say(summary)
        else:
            await decline(turn, "no_result")

    async def _read_request(self, turn: Turn[Arguments]) -> tuple[str, str]:
        """Return instruction and text. With documents, these are the text."""
        given = turn.arguments.text
        documents = [] if given else await read_documents(turn)
        if documents:
            text = join_documents(documents)
            self._check_length(text)
            return turn.message.text, text
        written = given or turn.message.text
        self._check_length(written)
        return await read_request(turn, written, GRAMMAR, UNCLEAR)

    def _check_length(self, text: str) -> None:
        if len(text) > self.settings.max_characters:
            raise InvalidInput(
                f"The text is too long to shorten here: it has {len(text)} characters, "
                f"at most {self.settings.max_characters} are allowed."
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


async def _is_in_reach(turn: Turn[Summarization.Arguments], text: str) -> bool:
    """Return True for a text that the model was made for; else decline it."""
    reach = turn.engine.find_reach("summarization")
    if reach is None:
        await decline(turn, "knowledge")
        return False
    if reach.words and await run_on_text(count_words, text) > reach.words:
        await decline(turn, "long_text", words=reach.words)
        return False
    language = await run_on_text(detect_language, text)
    if language is not None and not has_language(reach.languages, language):
        await decline(turn, "language", language=language.code, languages=reach.languages)
        return False
    return True


def format_history(history: Sequence[HistoryEntry]) -> str:
    """Return the conversation as a text."""
    names = {"user": "User", "assistant": "Assistant", "tool": "Tool"}
    return "\n".join(
        f"{names[entry.role]}: {entry.text.strip()}"
        for entry in history
        if entry.text and entry.role in names  # instructions are no part of what was said
    )
