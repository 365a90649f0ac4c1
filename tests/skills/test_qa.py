"""Conversations with the question answering skill."""

import dataclasses

import pytest

from palaver import Document, EngineInfo
from palaver.config.settings import (
    LedgerSettings,
    RoutingSettings,
    Settings,
    SiteSettings,
    WidgetSettings,
)
from palaver.testing import ScriptedEngine, converse
from palaver_skills import follow_ups, prompts
from palaver_skills.qa import FROM_GENERAL_KNOWLEDGE, QA
from palaver_skills.refusals import REASONS, WAY_OUT

SHOP = (
    Document(id="returns", title="Returns", text="You may return goods within 30 days."),
    Document(id="hours", title="Opening hours", text="The shop opens at nine, return by six."),
    Document(id="pets", title="Pets", text="Dogs may come in when they return balls."),
)
QUESTION = "Until when can I return goods?"


async def ask_as(person: str, *, skill: tuple[str, ...], site: tuple[str, ...]) -> list[str]:
    """Ask with collections of the skill and of a site, and return the documents in the prompt."""
    documents = [dataclasses.replace(each, collection=each.id) for each in SHOP]
    widget = WidgetSettings(
        sites={
            "shop": SiteSettings(
                key="pk_the-key-of-the-shop", origins=("https://a.example",), collections=site
            )
        }
    )
    settings = Settings(
        routing=RoutingSettings(default="qa", consult_engine=False),
        ledger=LedgerSettings(use="memory"),
        widget=widget,
    )
    engine = ScriptedEngine(lambda _: "Yes.")
    async with converse(
        QA,
        engine=engine,
        knowledge=documents,
        settings=settings,
        skill_settings={"collections": skill},
        person=person,
    ) as chat:
        await chat.say(QUESTION)
    prompt = engine.requests[-1].messages[-1].content
    return [each.id for each in SHOP if each.text in prompt]


@pytest.mark.parametrize(
    ("skill", "site", "employee", "visitor"),
    [
        ((), (), ["returns", "hours", "pets"], ["returns", "hours", "pets"]),
        (("hours", "pets"), (), ["hours", "pets"], ["hours", "pets"]),
        ((), ("returns", "pets"), ["returns", "hours", "pets"], ["returns", "pets"]),
        (("hours", "pets"), ("returns", "pets"), ["hours", "pets"], ["pets"]),
        (("hours",), ("returns",), ["hours"], []),
    ],
)
async def test_answers_rest_on_the_collections_of_the_skill_and_the_site(
    skill: tuple[str, ...], site: tuple[str, ...], employee: list[str], visitor: list[str]
) -> None:
    assert await ask_as("ada", skill=skill, site=site) == employee
    assert await ask_as("visitor.shop.1", skill=skill, site=site) == visitor


async def test_an_answer_names_its_passage() -> None:
    engine = ScriptedEngine("Within 30 days. [1]")
    async with converse(QA, engine=engine, knowledge=SHOP) as chat:
        reply = await chat.say(QUESTION)
        assert reply == "Within 30 days. [1]"
        assert [(c.number, c.document, c.title) for c in reply.citations] == [
            (1, "returns", "Returns")
        ]
        system, user = engine.requests[0].messages
        assert system.content == prompts.GROUNDED
        assert user.content.startswith("[1] Returns\nYou may return goods within 30 days.\n\n[2] ")
        assert user.content.endswith(f"\n\nQuestion: {QUESTION}")


async def test_only_passages_that_were_used_are_cited_in_the_order_of_the_answer() -> None:
    engine = ScriptedEngine("Dogs may. [2] Thirty days [1], really [2]. Made up [9].")
    async with converse(QA, engine=engine, knowledge=SHOP) as chat:
        reply = await chat.say(QUESTION)
        assert [citation.number for citation in reply.citations] == [2, 1]
        assert [citation.document for citation in reply.citations][1] == "returns"


async def test_several_passages_may_stand_in_one_marker() -> None:
    async with converse(QA, engine=ScriptedEngine("Yes [2, 1]."), knowledge=SHOP) as chat:
        reply = await chat.say(QUESTION)
        assert [citation.number for citation in reply.citations] == [2, 1]


async def test_an_answer_without_a_marker_gets_the_passage_that_says_it() -> None:
    engine = ScriptedEngine("The shop opens at nine.")
    async with converse(QA, engine=engine, knowledge=SHOP) as chat:
        reply = await chat.say(QUESTION)
        [citation] = reply.citations
        assert citation.document == "hours"
        assert reply == f"The shop opens at nine. [{citation.number}]"


async def test_an_answer_that_no_passage_says_cites_none() -> None:
    async with converse(QA, engine=ScriptedEngine("Perhaps."), knowledge=SHOP) as chat:
        reply = await chat.say(QUESTION)
        assert reply == "Perhaps."
        assert not reply.citations


async def test_documents_that_do_not_tell_are_not_cited() -> None:
    engine = ScriptedEngine(prompts.NOT_IN_DOCUMENTS)
    async with converse(QA, engine=engine, knowledge=SHOP) as chat:
        reply = await chat.say("Do I return by car?")
        assert reply == prompts.NOT_IN_DOCUMENTS
        assert not reply.citations


@pytest.mark.parametrize("knowledge", [(), SHOP])
async def test_without_a_passage_the_model_answers_and_the_reply_says_so(
    knowledge: tuple[Document, ...],
) -> None:
    engine = ScriptedEngine("An instrument.", "Of what is a xylophone?", "Of wood.")
    async with converse(QA, engine=engine, knowledge=knowledge) as chat:
        reply = await chat.say("What is a xylophone?")
        assert reply == f"{FROM_GENERAL_KNOWLEDGE}\n\nAn instrument."
        assert not reply.citations
        await chat.say("Xylophone, of what?")
        contents = [message.content for message in engine.requests[2].messages]
        assert contents[0] == prompts.CHAT
        assert contents[-1] == "Xylophone, of what?"
        assert reply in contents


class SmallEngine(ScriptedEngine):
    async def start(self) -> EngineInfo:
        return dataclasses.replace(await super().start(), demonstration=True)


async def test_a_model_that_knows_nothing_is_not_asked_without_a_passage() -> None:
    engine = SmallEngine()
    async with converse(QA, engine=engine, knowledge=SHOP) as chat:
        assert await chat.say("xylophone?") == f"{REASONS['no_passage']['en']} {WAY_OUT['en']}"
        assert not engine.requests


async def test_passages_are_cut_to_fit_the_context_window() -> None:
    long = [
        Document(id=f"d{n}", title=f"Title {n}", text="goods " + f"word{n}. " * 70)
        for n in range(4)
    ]
    engine = ScriptedEngine("Yes [1].", context_window=256)
    async with converse(QA, engine=engine, knowledge=long) as chat:
        reply = await chat.say("goods?")
        assert reply.outcome == "done"
        prompt = engine.requests[0].messages[-1].content
        assert "[1]" in prompt
        assert "[3]" not in prompt
        assert prompt.endswith("Question: goods?")


async def test_a_follow_up_is_asked_with_what_it_refers_to() -> None:
    whole = "Until when can I return goods on Sundays?"
    engine = ScriptedEngine("Thirty days. [1]", f"{whole}\n", "On Sundays too. [1]")
    async with converse(QA, engine=engine, knowledge=SHOP) as chat:
        await chat.say(QUESTION)
        reply = await chat.say("And on Sundays?")
        assert (reply, reply.citations[0].document) == ("On Sundays too. [1]", "returns")
    system, rewriting = engine.requests[1].messages
    assert system.content == follow_ups.REWRITE
    assert rewriting.content == (
        f"Person: {QUESTION}\nAssistant: Thirty days. [1]\n\nLast question: And on Sundays?"
    )
    assert engine.requests[1].sampling.max_tokens == 96
    assert engine.requests[2].messages[-1].content.endswith(f"\n\nQuestion: {whole}")


@pytest.mark.parametrize("written", ["", "two\nlines", "long " * 100])
async def test_a_follow_up_that_is_not_rewritten_is_searched_for_with_the_question_before_it(
    written: str,
) -> None:
    engine = ScriptedEngine("Thirty days. [1]", written, "On Sundays too. [1]")
    async with converse(QA, engine=engine, knowledge=SHOP) as chat:
        await chat.say(QUESTION)
        reply = await chat.say("And on Sundays?")
        assert reply.citations[0].document == "returns"
        assert engine.requests[2].messages[-1].content.endswith("Question: And on Sundays?")


async def test_a_demonstration_model_rewrites_nothing() -> None:
    engine = SmallEngine("Thirty days. [1]", "On Sundays too. [1]")
    async with converse(QA, engine=engine, knowledge=SHOP) as chat:
        await chat.say(QUESTION)
        reply = await chat.say("And on Sundays?")
        assert (reply, len(engine.requests)) == ("On Sundays too. [1]", 2)
        assert reply.citations[0].document == "returns"


@pytest.mark.parametrize(
    ("question", "refers"),
    [
        ("When does the shop open today?", False),
        ("When does it open on the other days?", True),
        ("Wann macht der Laden morgens auf?", False),
        ("Und für Schüler?", True),
        ("Wie lange dauert es damit am Wochenende?", True),
        ("商店星期天早上几点开门营业？", False),
        ("星期天呢？", True),
        ("it " * 100, False),
    ],
)
async def test_only_questions_that_refer_to_something_are_rewritten(
    question: str, refers: bool
) -> None:
    engine = ScriptedEngine("Thirty days. [1]", *["When does the shop open?"] * refers, "Six. [1]")
    async with converse(QA, engine=engine, knowledge=SHOP) as chat:
        await chat.say(QUESTION)
        await chat.say(question)
    systems = [request.messages[0].content for request in engine.requests[1:]]
    assert (follow_ups.REWRITE in systems) == refers


async def test_a_question_may_come_as_an_argument() -> None:
    engine = ScriptedEngine("Thirty days. [1]")
    async with converse(QA, engine=engine, knowledge=SHOP) as chat:
        await chat.say("", skill="qa", arguments={"question": QUESTION})
        assert engine.requests[0].messages[-1].content.endswith(QUESTION)
