"""Question answering from passages of the knowledge base, with citations."""

import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pydantic

from palaver import InvalidInput, Passage, PluginSettings, Sampling, Skill, Turn, run_on_text
from palaver_skills import prompts
from palaver_skills.token_budget import count_prompt_room, limit_reply_tokens, split_to_tokens

NO_PASSAGES = "I find nothing about that in the knowledge base."

_DOCUMENTS = (
    r"(?:the|our|my)\s+(?:docs?|documents?|documentation|handbook|manual|knowledge base|wiki|guide"
    r"|polic(?:y|ies))"
)
_MARKER = re.compile(r"\[(\d{1,2}(?:\s*+[,;]\s*+\d{1,2})*)\]")
_NUMERAL = re.compile(r"\d+")
_NUMBER = re.compile(r"\[(\d{1,2})\]")
_UNFINISHED = re.compile(r"\[\d{0,2}")
"""The beginning of what may become a marker."""
_WORD = re.compile(r"[^\W_]+")
_FOLLOW_UP = 5
"""A question of fewer words is searched for together with the question before it."""
_LEAST_PASSAGE = 48
"""Tokens of the shortest passage that is worth a cut."""


class QA(Skill):
    """Answer questions from the documents in the knowledge base.

    The answer rests on a few passages and names them as ``[n]``. When nothing fits, or when the
    model finds no answer in the passages, the reply says so. The model may still misread a
    passage: the citations are there to be checked.
    """

    name = "qa"
    aliases: ClassVar = ("ask", "docs")
    examples: ClassVar = (
        "what does the handbook say about vacation?",
        "How do I reset my password?",
        "What is the return policy?",
        "where can I find the price list",
        "how many days of notice do I have to give?",
        "when does the office open on Fridays?",
        "can employees bring their own laptop?",
        "how long does the repair take?",
        "who is responsible for invoices?",
        "is breakfast included in the price?",
        "what are the symptoms and causes of the flu?",
        "which requirements does the system have?",
        "does the warranty cover water damage?",
        "Was steht im Handbuch über Überstunden?",
        "Wann ist das Büro geöffnet?",
        "Wie setze ich mein Passwort zurück?",
        "Wer ist für Rechnungen zuständig?",
        "Quels sont les délais de livraison ?",
        "Comment puis-je annuler ma commande ?",
        "¿Cuál es el plazo de devolución?",
        "¿Cómo puedo cambiar mi contraseña?",
        "文档里关于退款是怎么说的？",
        "如何重置密码？",
        "办公室什么时候开门？",
        "维修需要多长时间？",
    )
    patterns: ClassVar = (
        rf"(?:according to|based on)\s+{_DOCUMENTS}\b.+",
        rf"what (?:does|do)\s+{_DOCUMENTS}\s+(?:say|tell|state)\b.+",
        rf"(?:search|look in|check)\s+{_DOCUMENTS}\s+(?:for|about|on)\s+.+",
        (
            r"(?:was steht|was sagt|laut)\s+(?:(?:im|in|der|die|das|dem|den)\s+)+(?:handbuch"
            r"|dokumentation|unterlagen|anleitung|dokumente?n?)\b.+"
        ),
        r"(?:d['’]apr[èe]s|selon|que dit)\s+(?:la documentation|le manuel|les documents)\b.+",
        r"¿?(?:seg[úu]n|qu[ée] dicen?)\s+(?:la documentaci[óo]n|el manual|los documentos)\b.+",
        r"(?:根据|按照|查(?:一下)?)(?:文档|手册|资料|知识库).+",
    )

    class Settings(PluginSettings):
        passages: int = pydantic.Field(default=4, ge=1, le=20)
        """Passages in the prompt, fewer where the context window is small."""
        temperature: float = pydantic.Field(default=0.0, ge=0, le=2)
        """0 always takes the likeliest word."""
        max_tokens: int = pydantic.Field(default=256, ge=1)
        """Longest answer; never more than half of the model's context window."""

        max_characters: int = pydantic.Field(default=8_000, ge=1)
        """Longest question; a longer one is refused."""

    class Arguments(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
        question: str = pydantic.Field(
            default="", description="The question; the message itself if not given"
        )

    async def answer(self, turn: Turn[Arguments]) -> None:
        question = turn.arguments.question or turn.message.text
        if len(question) > self.settings.max_characters:
            raise InvalidInput(
                f"The question is too long: it has {len(question)} characters, "
                f"at most {self.settings.max_characters} are allowed."
            )
        found = await turn.search(_build_query(turn, question), self.settings.passages)
        if not found:
            await turn.say(NO_PASSAGES)
            return
        reply = limit_reply_tokens(turn, self.settings.max_tokens)
        passages = await _fit_passages(turn, found, question, reply)
        answer = await turn.stream(
            prompts.build_grounded_question(enumerate(passages, 1), question),
            system=prompts.GROUNDED,
            sampling=Sampling(max_tokens=reply, temperature=self.settings.temperature),
            through=CitationFilter(found[: len(passages)]),
        )
        if prompts.NOT_IN_DOCUMENTS.rstrip(".") in answer:
            return
        cited = await run_on_text(_find_cited, answer, len(passages))
        if not cited:
            cited = await run_on_text(_find_closest, answer, found[: len(passages)])
            await turn.say("".join(f" [{number}]" for number in cited))
        for number in cited:
            turn.cite(found[number - 1], number=number)


class CitationFilter:
    """Filter that corrects the passage numbers of an answer while it is written.

    A marker refers to the text since the marker before. Where another passage shares more words
    with that text than the named one, the number is corrected: models mistake numbers more often
    than words, and a wrong source is worse than none.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = [set(_split_terms(_with_heading(passage))) for passage in passages]
        self._pending = ""
        """A bracket, and the digits after it."""
        self._since_marker: list[str] = []

    def feed(self, text: str) -> str:
        text, self._pending = self._pending + text, ""
        passed: list[str] = []
        at = 0
        while (bracket := text.find("[", at)) >= 0:
            passed.append(self._pass(text[at:bracket]))
            if len(text) - bracket <= 3 and _UNFINISHED.fullmatch(text, bracket):
                self._pending = text[bracket:]
                return "".join(passed)
            marker = _NUMBER.match(text, bracket)
            passed.append(self._correct(int(marker[1])) if marker else self._pass("["))
            at = marker.end() if marker else bracket + 1
        return "".join([*passed, self._pass(text[at:])])

    def end(self) -> str:
        return self._pass(self._pending)

    def _pass(self, text: str) -> str:
        self._since_marker.append(text)
        return text

    def _correct(self, number: int) -> str:
        said = set(_split_terms("".join(self._since_marker)))
        self._since_marker = []
        shared = [len(said & passage) for passage in self._passages]
        named = shared[number - 1] if 1 <= number <= len(shared) else -1
        best = max(shared, default=0)
        return f"[{number if named == best or not best else shared.index(best) + 1}]"


def _build_query(turn: Turn[QA.Arguments], question: str) -> str:
    """Return the search query: a short question with the one before it ("and on Sundays?")."""
    if len(_WORD.findall(question)) >= _FOLLOW_UP or not question.isascii():
        return question
    last = turn.history[-1] if turn.history else None
    if last is None or last.role != "assistant" or last.skill != QA.name:
        return question
    asked = next((x.text for x in turn.history if x.turn == last.turn and x.role == "user"), "")
    return f"{asked}\n{question}".strip()


async def _fit_passages(
    turn: Turn[QA.Arguments], found: Sequence[Passage], question: str, reply: int
) -> list[str]:
    """Return the texts of the best passages that fit the context window; the last may be cut."""
    room = await count_prompt_room(turn, prompts.GROUNDED, reply)
    texts: list[str] = []
    for passage in found:
        text = _with_heading(passage)
        laid_out = prompts.build_grounded_question(enumerate([*texts, text], 1), question)
        over = await turn.count_tokens(laid_out) - room
        if over <= 0:
            texts.append(text)
            continue
        left = await turn.count_tokens(text) - over
        if left >= _LEAST_PASSAGE or not texts:
            texts.append((await split_to_tokens(turn, text, max(8, left)))[0].strip())
        break
    return texts


def _with_heading(passage: Passage) -> str:
    """Return the passage under its heading, which may name its subject."""
    heading = passage.section or passage.title
    if not heading or passage.text.lstrip("# ").startswith(heading):
        return passage.text
    return f"{heading}\n{passage.text}"


def _find_cited(answer: str, passages: int) -> list[int]:
    """Return the numbers of existing passages that the answer names, in its order, each once."""
    named = (int(n) for marker in _MARKER.findall(answer) for n in _NUMERAL.findall(marker))
    return list(dict.fromkeys(number for number in named if 1 <= number <= passages))


def _find_closest(answer: str, passages: Sequence[Passage]) -> list[int]:
    """Return the number of the passage that shares most words with the answer, if any does."""
    said = set(_split_terms(answer))
    shared = [len(said & set(_split_terms(_with_heading(passage)))) for passage in passages]
    best = max(range(len(shared)), key=shared.__getitem__)
    return [best + 1] if shared[best] else []


def _split_terms(text: str) -> Iterator[str]:
    """Yield words of four letters and more, numbers, and Chinese characters in pairs."""
    for word in _WORD.findall(text.casefold()):
        if "\u3040" <= word[0] <= "\u9fff":
            yield from (word[at : at + 2] for at in range(max(1, len(word) - 1)))
        elif len(word) >= 4 or word.isdigit():
            yield word
