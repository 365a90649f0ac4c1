"""Question answering from passages of the knowledge base, with citations."""

import itertools
from collections.abc import Sequence
from typing import ClassVar

import pydantic

from palaver import (
    Document,
    InvalidInput,
    Passage,
    PluginSettings,
    Sampling,
    Skill,
    Turn,
    run_on_text,
)
from palaver_skills import prompts
from palaver_skills.citations import MARK, CitationFilter, add_heading, find_cited, find_closest
from palaver_skills.documents import read_documents, read_earlier_documents
from palaver_skills.follow_ups import add_last_question, rewrite_follow_up
from palaver_skills.quotes import FilterChain, QuoteFilter
from palaver_skills.refusals import decline, is_limited, understands
from palaver_skills.support import find_support
from palaver_skills.token_budget import count_prompt_room, limit_reply_tokens, split_to_tokens

FROM_GENERAL_KNOWLEDGE = "Not in the documents; from general knowledge:"

_DOCUMENTS = (
    r"(?:the|our|my)\s+(?:docs?|documents?|documentation|handbook|manual|knowledge base|wiki|guide"
    r"|polic(?:y|ies))"
)
_BEGINNING_CHARACTERS = 2_000
_LEAST_PASSAGE = 48
"""Tokens of the shortest passage that is worth a cut."""


class QA(Skill):
    """Answer questions from the documents in the knowledge base.

    The answer rests on a few passages and names them as ``[n]``. When nothing fits, the reply says
    so and that it comes from the model alone; when the model finds no answer in the passages, it
    says that. The model may still misread a passage: the citations are there to be checked.
    """

    name = "qa"
    answers_from_documents = True
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
        collections: tuple[str, ...] = ()
        """Collections of the knowledge base to answer from. Empty: all."""

    class Arguments(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
        question: str = pydantic.Field(
            default="", description="The question; the message itself if not given"
        )

    @property
    def collections(self) -> Sequence[str]:
        return tuple(self.settings.collections)

    async def answer(self, turn: Turn[Arguments]) -> None:
        question = turn.arguments.question or turn.message.text
        if len(question) > self.settings.max_characters:
            raise InvalidInput(
                f"The question is too long: it has {len(question)} characters, "
                f"at most {self.settings.max_characters} are allowed."
            )
        rewritten = await rewrite_follow_up(turn, question)
        found = await self._find_passages(turn, rewritten or add_last_question(turn, question))
        if not found:
            await self._answer_without_passages(turn, question)
            return
        if is_limited(turn.engine):
            await self._copy_answer(turn, found, rewritten or question)
        else:
            await self._write_answer(turn, found, rewritten or question)

    async def _write_answer(
        self, turn: Turn[Arguments], found: Sequence[Passage], question: str
    ) -> None:
        """Say what the model writes about the passages, and cite those that it names."""
        reply = limit_reply_tokens(turn, self.settings.max_tokens)
        passages = await _fit_passages(turn, found, question, reply)
        answer = await turn.stream(
            prompts.build_grounded_question(enumerate(passages, 1), question),
            system=prompts.GROUNDED,
            sampling=Sampling(max_tokens=reply, temperature=self.settings.temperature),
            through=FilterChain(
                CitationFilter(found[: len(passages)]), QuoteFilter([*passages, question])
            ),
        )
        if prompts.NOT_IN_DOCUMENTS.rstrip(".") in answer:
            return
        read = await run_on_text(find_cited, answer, found[: len(passages)])
        cited = read.cited
        if not cited:
            cited = await run_on_text(find_closest, answer, found[: len(passages)])
            space = "\n\n" if read.ends_in_code() else " "
            await turn.say("".join(f"{space}[{number}]" for number in cited))
        for number in cited:
            turn.cite(found[number - 1], number=number)

    async def _copy_answer(
        self, turn: Turn[Arguments], found: Sequence[Passage], question: str
    ) -> None:
        """Say the answer of a model that can only copy, once a passage is found that supports it;
        else decline."""
        reach = turn.engine.find_reach("passages")
        if reach is None:
            await decline(turn, "knowledge")
            return
        if not await understands(turn, reach):
            return
        reply = limit_reply_tokens(turn, self.settings.max_tokens)
        passages = await _fit_passages(turn, found, question, reply)
        written = await turn.generate(
            prompts.build_grounded_question(enumerate(passages, 1), question),
            system=prompts.GROUNDED,
            sampling=Sampling(max_tokens=reply, temperature=self.settings.temperature),
            for_reply=True,
        )
        answer = MARK.sub("", written).strip()
        titles = [passage.title for passage in found]
        number = await run_on_text(find_support, answer, question, passages, titles)
        if number is None or prompts.NOT_IN_DOCUMENTS.rstrip(".") in answer:
            await decline(turn, "no_answer")
            return
        await turn.say(f"{answer} [{number}]")
        turn.cite(found[number - 1], number=number)

    async def _answer_without_passages(self, turn: Turn[Arguments], question: str) -> None:
        if turn.engine.demonstration or is_limited(turn.engine):
            await decline(turn, "no_passage")
            return
        await turn.say(f"{FROM_GENERAL_KNOWLEDGE}\n\n")
        await turn.stream(
            question,
            system=prompts.CHAT,
            history=turn.history,
            sampling=Sampling(
                max_tokens=limit_reply_tokens(turn, self.settings.max_tokens),
                temperature=self.settings.temperature,
            ),
        )

    async def _find_passages(self, turn: Turn[Arguments], query: str) -> tuple[Passage, ...]:
        """Return passages of the documents of the message; else of the knowledge base, and of the
        documents that were sent last."""
        limit = self.settings.passages
        if documents := await read_documents(turn):
            found = await turn.search_in(documents, query, limit)
            return found or tuple(map(_beginning, documents))
        stored = await turn.search(query, limit, self.collections)
        documents = await read_earlier_documents(turn)
        if not documents:
            return stored
        sent = await turn.search_in(documents, query, limit)
        pairs = itertools.zip_longest(sent, stored)
        return tuple(filter(None, itertools.chain.from_iterable(pairs)))[:limit]


def _beginning(document: Document) -> Passage:
    """Return the beginning of a document that has no word of the question."""
    text = document.text[:_BEGINNING_CHARACTERS]
    return Passage(document=document.name, title=document.title, section="", number=1, text=text)


async def _fit_passages(
    turn: Turn[QA.Arguments], found: Sequence[Passage], question: str, reply: int
) -> list[str]:
    """Return the texts of the best passages that fit the context window; the last may be cut."""
    room = await count_prompt_room(turn, prompts.GROUNDED, reply)
    texts: list[str] = []
    for passage in found:
        text = add_heading(passage)
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
