"""Instructions: what a message says about the text beside it, in several languages.

Only a message that names no skill is searched for one. An instruction is taken off where its border
to the text is clear: a colon, a line break or quotation marks, or where it encloses the text from
the first to the last word. Anything else is text.

All patterns take linear time (RE2) and are built from lists of words, one line for each language.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from palaver import HistoryEntry, Pattern, Turn, compile_pattern, run_on_text
from palaver_skills.languages import mark_languages

_QUOTES = (
    (re.compile(r"[\"“„«「]"), re.compile(r"[\"”“»」]")),
    (re.compile(r"(?<!\w)['‘]"), re.compile(r"['’](?!\w)")),
)
"""Opening and closing quotation marks."""
_SEPARATOR = re.compile(r"[:：]\s|[:：](?=[^\s/])|\n")
MAX_INSTRUCTION_LENGTH = 160
"""Characters of the longest instruction beside a text."""
_MAX_QUOTED_LENGTH = 4000
"""Characters of the longest message that is searched for quotation marks."""
_MAX_BARE_LENGTH = 240
"""Characters of the longest message that is an instruction as a whole; a longer one is a text."""


def join_words(*lines: str) -> str:
    """Return a pattern for any of the words, which are separated by bars."""
    return f"(?:{'|'.join(lines)})"


PLEASE = join_words(
    r"(?:please|pls|kindly|hi|hello|hey|now|(?:can|could|would|will) you|i (?:want|need) you to"
    r"|i would like you to|i'd like you to|i don't have time to read ¤)",
    r"bitte|hallo|jetzt|nun|mir|(?:kannst|könntest|würdest) du|(?:können|könnten|würden) sie|sie",
    r"s['’]il (?:te|vous) pla[îi]t|bonjour|veuillez|peux-tu|tu peux|pourrais-tu"
    r"|pouvez-vous|pourriez-vous|merci de|me",
    r"por favor|hola|puedes?|podr[íi]as?",
    r"per (?:favore|piacere)|ciao|puoi|potresti|può|potrebbe|mi",
    r"olá|pode(?:s|ria)?",
    r"alsjeblieft|alstublieft|kun je|kunt u|zou je",
    r"пожалуйста",
)
BEFORE = rf"[\s¿¡]*(?:{PLEASE}[\s,!]+){{0,4}}"
"""Words before an instruction."""
KINDLY = (
    r"(?:please|bitte|s['’]il (?:te|vous) pla[îi]t|stp|svp|por favor|per favore|per piacere"
    r"|alsjeblieft|alstublieft|пожалуйста)"
)
THANKS = (
    rf"(?:[\s,]*(?:{KINDLY}|for me|thanks|thank you|für mich|danke|merci|gracias|grazie"
    r"|obrigad[oa]|谢谢|so far|bisher|jusqu['’]ici|hasta ahora|finora))*[\s.!?？。…！]*"
)
"""Words after an instruction."""
ANY = r"[^:：\n.!?…\"“„«「]{0,80}"
"""A part of an instruction that may say anything, without the border to a text."""
_NOUN = join_words(
    r"(?:(?:following|last|above|previous|next|whole|entire|long|short|§) )?(?:texts?|sentences?"
    r"|paragraphs?|words?|messages?|e-?mails?|letters?|articles?|passages?|reports?|documents?"
    r"|notes?|posts?|pages?|stor(?:y|ies)|chapters?|sections?|transcripts?|answers?|repl(?:y|ies)"
    r"|conversations?|discussions?|chats?|threads?|meetings?|paper|essay|book)(?: below| above)?",
    r"(?:(?:folgenden?|letzten?|obigen?|ganzen?) )?(?:satz|sätze|texte?|absatz|nachricht|mail"
    r"|brief|artikel|bericht|antwort|gespräch|unterhaltung|geschichte|dokument)",
    r"(?:phrase|texte|message|paragraphe|article|lettre|mail|rapport|conversation|réponse|document)"
    r"(?: suivante?| ci-dessous| ci-dessus)?",
    r"(?:frase|texto|mensaje|párrafo|artículo|carta|correo|informe|conversaci[óo]n|respuesta"
    r"|documento)(?: siguiente)?",
    r"(?:seguente )?(?:testo|messaggio|paragrafo|articolo|lettera|rapporto|conversazione|risposta)"
    r"(?: seguente)?",
    r"(?:mensagem|parágrafo|artigo|relatório|conversa|zin|bericht|tekst|artikel|gesprek)",
)
_REFERENCES = join_words(
    rf"(?:this|that|these|those|the|my|your|our)(?: {_NOUN})",
    r"this|that|it|these|those|them|the following|the above|everything(?: above)?|all of this",
    rf"(?:das|die|der|den|dies\w*|mein\w*|dein\w*|unser\w*|folgend\w*)(?: {_NOUN})",
    r"das(?: hier)?|dies|es|folgendes",
    rf"(?:ce|cet|cette|ces|le|la|les|mon|ma|mes|ton|ta|votre|notre)(?: {_NOUN})|ça|cela|ceci",
    rf"(?:est[ea]|es[ea]|el|la|los|las|mi|tu|nuestr[oa])(?: {_NOUN})|esto|eso|lo siguiente",
    rf"(?:quest[oa]|quell[oa]|il|lo|la|mio|tuo|nostr[oa])(?: {_NOUN})|questo|quanto segue",
    rf"(?:d?est[ea]|ess[ea]|meu|minha|nossa)(?: {_NOUN})|isto|isso",
    rf"(?:deze|die|het|mijn|ons)(?: {_NOUN})|dit|dat",
    r"(?:这|那|下面|上面|以下|我们)[^\s:：，。的§]{0,2}的?(?:句子|文字|文本|内容|文章|话|段话|句话|段文字|对话)?|它",
)
_REFERENCE = re.compile(rf"(?<!\w){_REFERENCES}(?!\w)", re.IGNORECASE)
"""Words that mean a text instead of being one."""
REFERENCE = "¤"
"""Stands for such words in the patterns of a grammar, as `MARK` does for a language."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """Patterns of the instructions to one skill."""

    border: Pattern
    """An instruction that a colon or a line break separates from its text."""
    bare: Pattern
    """An instruction without a text, or with a text in quotation marks or before it."""
    alone: Pattern
    """What is an instruction only as the whole message, as a follow-up is."""
    around: Pattern
    """An instruction that encloses its text, the group that matches."""
    opening: Pattern
    """A message that begins as an instruction does."""


def build_grammar(*, border: str, bare: str, alone: str, around: str, opening: str) -> Grammar:
    """Return the grammar of these patterns, with words before and after them."""
    return Grammar(
        border=compile_pattern(rf"{BEFORE}(?:{border}){THANKS}"),
        bare=compile_pattern(rf"{BEFORE}(?:{bare}){THANKS}"),
        alone=compile_pattern(rf"{BEFORE}(?:{alone}){THANKS}"),
        around=compile_pattern(rf"{BEFORE}(?:{around}){THANKS}"),
        opening=compile_pattern(rf"{BEFORE}(?:{opening})\b.*"),
    )


def _simplify(instruction: str) -> str:
    """Return an instruction with marks for languages and for words that mean a text."""
    return _REFERENCE.sub(REFERENCE, mark_languages(instruction))


async def read_request(
    turn: Turn, message: str, grammar: Grammar, question: str
) -> tuple[str, str]:
    """Return instruction and text of a message; either may be empty.

    A message that names the skill is a text. For one that may be either, ask ``question``.
    """
    if turn.message.skill or turn.message.arguments:
        return "", message
    instruction, text = await run_on_text(split_request, message, grammar)
    if not instruction and is_unclear(text, grammar):
        text = await turn.ask(question)
    return instruction, text


def split_request(message: str, grammar: Grammar) -> tuple[str, str]:
    """Return instruction and text; either may be empty."""
    message = message.strip()
    return (
        _split_leading(message, grammar)
        or _split_trailing(message, grammar)
        or _split_at_quotes(message, grammar)
        or _split_short(message, grammar)
        or ("", message)
    )


def strip_quotes(text: str) -> str:
    """Return ``text`` without quotation marks around the whole of it."""
    stripped = text.strip()
    whole = any(
        len(stripped) > 2 and opening.match(stripped) and closing.match(stripped, len(stripped) - 1)
        for opening, closing in _QUOTES
    )
    return stripped[1:-1] if whole else text


def is_unclear(message: str, grammar: Grammar) -> bool:
    """Return True when a message without a clear instruction begins like one and is short."""
    message = message.strip()
    short = len(message) <= _MAX_BARE_LENGTH and "\n" not in message
    return short and grammar.opening.fullmatch(message) is not None


def find_last_reply(history: Sequence[HistoryEntry]) -> str:
    """Return the last reply that is not a question, or an empty text."""
    said = (x.text for x in reversed(history) if x.role == "assistant" and x.outcome != "asked")
    return next(filter(None, said), "")


def _split_leading(message: str, grammar: Grammar) -> tuple[str, str] | None:
    for separator in _SEPARATOR.finditer(message, 0, MAX_INSTRUCTION_LENGTH):
        head, body = message[: separator.start()], message[separator.end() :].strip("\r\n")
        if body.strip() and grammar.border.fullmatch(_simplify(head)):
            return head, strip_quotes(body)
    return None


def _split_trailing(message: str, grammar: Grammar) -> tuple[str, str] | None:
    body, _, tail = message.rpartition("\n")
    if (
        body.strip()
        and not body.rstrip().endswith((":", "："))  # they announce what somebody says
        and len(tail) <= MAX_INSTRUCTION_LENGTH
        and grammar.bare.fullmatch(_simplify(tail))
    ):
        return tail, strip_quotes(body.rstrip())
    return None


def _split_at_quotes(message: str, grammar: Grammar) -> tuple[str, str] | None:
    quoted = _find_quoted(message) if len(message) <= _MAX_QUOTED_LENGTH else None
    if quoted is None:
        return None
    start, end = quoted
    rest = " ".join(f"{message[:start]} {message[end:]}".split()).replace(" :", ":").rstrip(":")
    if len(rest) > MAX_INSTRUCTION_LENGTH:
        return None
    if (
        grammar.bare.fullmatch(_simplify(rest))
        or _find_enclosed(f"{message[:start]}…{message[end:]}", grammar) == "…"
    ):
        return rest, message[start + 1 : end - 1].strip()
    return None


def _split_short(message: str, grammar: Grammar) -> tuple[str, str] | None:
    if len(message) > _MAX_BARE_LENGTH or "\n" in message:
        return None
    simple = _simplify(message.rstrip(" :："))
    if grammar.bare.fullmatch(simple) or grammar.alone.fullmatch(simple):
        return message, ""
    text = _find_enclosed(message, grammar)
    return (message.replace(text, " … ", 1), text) if text else None


def _find_enclosed(message: str, grammar: Grammar) -> str:
    """Return the text that an instruction encloses, or an empty one."""
    around = grammar.around.fullmatch(message)
    return next((text for text in around.groupdict().values() if text), "") if around else ""


def _find_quoted(text: str) -> tuple[int, int] | None:
    """Return the range of the first quotation, with its marks; it ends at the last closing one."""
    ranges = (_find_range(opening, closing, text) for opening, closing in _QUOTES)
    return min((found for found in ranges if found), default=None)


def _find_range(
    opening: re.Pattern[str], closing: re.Pattern[str], text: str
) -> tuple[int, int] | None:
    first = opening.search(text)
    end = max((match.end() for match in closing.finditer(text)), default=0)
    return (first.start(), end) if first and end > first.start() + 2 else None
