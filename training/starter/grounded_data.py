"""Grounded questions: generated passages, questions about them, answers copied from them.

The kinds of facts stand in `facts.txt`. Customer questions from the DSTC9 track 1 knowledge
(Apache-2.0) add natural wording.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from training.starter import corpus
from training.starter.groups import Group, Turn, seeded_random
from training.starter.slot_values import SlotValues

from palaver_skills import prompts

FACTS = Path(__file__).with_name("facts.txt")
SUBJECT_KINDS = ("place", "person", "product", "town", "rule", "generic")
SUBJECT_WEIGHTS = (5, 5, 3, 2, 5, 2)
UNANSWERABLE_SHARE = 0.25
MAX_QUESTIONS = 6
"""Questions about one set of passages; they share the computation of the passages."""

TITLES = {
    "place": ("About us", "Visit", "Guide", "Opening hours", "Information"),
    "person": ("Team", "People", "Staff", "Who is who"),
    "product": ("Manual", "Product sheet", "Equipment", "Data"),
    "town": ("Travel", "Towns", "Region"),
    "rule": ("Handbook", "Rules", "Policy", "Conditions", "Office", "Holidays", "Refunds"),
    "generic": ("Notes", "List", "Inventory"),
}
FILLERS = (
    "Please read this page carefully.",
    "More details follow soon.",
    "Ask us if anything is unclear.",
    "We look forward to your visit.",
    "This has not changed for years.",
    "Many people like it.",
    "The weather was good that day.",
    "Thank you for your help.",
    "This page is updated often.",
    "It was a long project.",
    "Everybody was happy about it.",
    "Some rules differ in summer.",
    "The rest is described in another chapter.",
    "Please tell new colleagues about it.",
)
OFF_TOPIC = (
    "Who won the election?",
    "How far away is the moon?",
    "What is the weather like today?",
    "How do I bake bread?",
    "Who wrote this song?",
    "What is the meaning of life?",
)


@dataclass(frozen=True, slots=True)
class QuestionForm:
    """Wordings of one question, and the pattern of its answer."""

    questions: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class FactKind:
    """Kind of fact: ways to state it and questions about it."""

    subject: str
    number: int
    statements: tuple[str, ...]
    forms: tuple[QuestionForm, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """A kind filled with values: the statement in a text and the questions it answers."""

    kind: FactKind
    subject: str
    slots: dict[str, str]

    def state(self, random_: random.Random, subject: str) -> str:
        """Write the fact as a sentence about `subject` (a name or a pronoun)."""
        return fill_pattern(random_.choice(self.kind.statements), self.slots, subject)

    def ask(self, random_: random.Random) -> Turn:
        """Return a question and its answer, without the passage's number."""
        ask = random_.choice(self.kind.forms)
        question = fill_pattern(random_.choice(ask.questions), self.slots, self.subject)
        return question, fill_pattern(ask.answer, self.slots, self.subject)


@lru_cache(maxsize=1)
def read_fact_kinds() -> dict[str, tuple[FactKind, ...]]:
    """Read `facts.txt`: class of subject to its kinds of facts."""
    found: dict[str, list[FactKind]] = {}
    subject = ""
    text = "\n".join(x for x in FACTS.read_text("utf-8").splitlines() if not x.startswith("#"))
    for block in text.split("\n\n"):
        lines = block.strip().splitlines()
        if lines and lines[0].startswith("["):
            subject = lines.pop(0).strip("[]")
        if lines:
            found.setdefault(subject, []).append(
                _parse_fact_kind(subject, len(found.get(subject, ())), lines)
            )
    return {name: tuple(group) for name, group in found.items()}


def _parse_fact_kind(subject: str, number: int, lines: list[str]) -> FactKind:
    statements = tuple(line[2:] for line in lines if line.startswith("="))
    questions = [tuple(q.strip() for q in x[2:].split("|")) for x in lines if x.startswith("?")]
    answers = [line[2:].strip() for line in lines if line.startswith("!")]
    asks = tuple(QuestionForm(q, a) for q, a in zip(questions, answers, strict=True))
    return FactKind(subject, number, statements, asks)


def capitalize_first(text: str) -> str:
    """Capitalise the first letter only."""
    return text[:1].upper() + text[1:]


def fill_pattern(pattern: str, slots: dict[str, str], subject: str) -> str:
    """Fill a pattern. A capitalised name in braces capitalises its value."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        text = subject if name.lower() == "s" else slots[name.lower()]
        return capitalize_first(text) if name[0].isupper() else text

    return capitalize_first(re.sub(r"\{(\w+)\}", value, pattern))


def make_fact(kind: FactKind, subject: str, values: SlotValues) -> Fact:
    """Draw all values that a kind of fact mentions."""
    patterns = " ".join([*kind.statements, *(a.answer for a in kind.forms)])
    patterns += " ".join(q for ask in kind.forms for q in ask.questions)
    slots: dict[str, str] = {}
    for name in re.findall(r"\{(\w+)\}", patterns):
        key = name.lower()
        while key != "s" and (key not in slots or list(slots.values()).count(slots[key]) > 1):
            slots[key] = values.draw(key)
    return Fact(kind, subject, slots)


def make_subject(kind: str, values: SlotValues) -> str:
    """Draw a name for a subject of a kind."""
    makers: dict[str, Callable[[], str]] = {
        "place": values.place,
        "person": values.person,
        "product": values.product,
        "town": values.town,
        "generic": values.generic,
        "rule": lambda: "the company",
    }
    return makers[kind]()


def name_again(fact: Fact, random_: random.Random) -> str:
    """Name the subject of a passage a second time."""
    if fact.kind.subject == "person":
        return fact.subject if random_.random() < 0.5 else fact.subject.split()[0]
    if fact.kind.subject in {"place", "product", "town"} and random_.random() < 0.35:
        return "it"
    return fact.subject


@dataclass(frozen=True, slots=True)
class Passage:
    """A text and the facts in it."""

    text: str
    facts: tuple[Fact, ...]


def make_passage(subject_kind: str, values: SlotValues, taken: set[tuple[str, int]]) -> Passage:
    """Write a passage about one subject (or several generic ones)."""
    random_ = values.random
    many = subject_kind in {"generic", "person"} and random_.random() < 0.5
    subject = make_subject(subject_kind, values)
    facts: list[Fact] = []
    for kind in random_.sample(read_fact_kinds()[subject_kind], random_.choice((1, 2, 2, 3, 3, 4))):
        fact = make_fact(kind, make_subject(subject_kind, values) if many else subject, values)
        if subject_kind != "rule" or (subject_kind, kind.number) not in taken:
            taken.add((subject_kind, kind.number))
            facts.append(fact)
    return Passage(_write(subject_kind, facts, random_, values), tuple(facts))


def _write(kind: str, facts: list[Fact], random_: random.Random, values: SlotValues) -> str:
    sentences: list[str] = []
    last = ""
    for fact in facts:
        name = name_again(fact, random_) if fact.subject == last else fact.subject
        last = fact.subject
        sentences.append(fact.state(random_, name))
    if not sentences or random_.random() < 0.35:
        sentences.insert(random_.randint(0, len(sentences)), random_.choice(FILLERS))
    text = random_.choice((" ", " ", " ", "\n")).join(sentences)
    return _heading(kind, facts, random_, values) + text


def _heading(kind: str, facts: list[Fact], random_: random.Random, values: SlotValues) -> str:
    if random_.random() < 0.5:
        return ""
    title = random_.choice(TITLES[kind])
    if facts and random_.random() < 0.3:
        title = capitalize_first(facts[0].subject)
    elif random_.random() < 0.3:
        title = f"{values.brand()} {title.lower()}"
    return random_.choice(
        (f"{title}\n", f"## {title}\n\n", f"{title}: ", f"# {title}\n", f"{title}\n\n")
    )


def make_group(
    random_: random.Random, *, held_out: bool = False, noise: tuple[str, ...] = ()
) -> Group:
    """Make one set of one to four passages and questions about it.

    `noise` are paragraphs of real text that are mixed into the passages.
    """
    values = SlotValues(random_, held_out=held_out)
    subject_kind = random_.choices(SUBJECT_KINDS, SUBJECT_WEIGHTS)[0]
    taken: set[tuple[str, int]] = set()
    passages = []
    for _ in range(random_.choice((1, 2, 3, 3, 4, 4))):
        other = (
            random_.choices(SUBJECT_KINDS, SUBJECT_WEIGHTS)[0]
            if random_.random() < 0.35
            else subject_kind
        )
        passages.append(make_passage(other, values, taken))
    passages = _mix_in(passages, noise, random_)
    first = 1 if random_.random() < 0.85 else random_.randint(1, 9)
    numbered = [(first + place, item) for place, item in enumerate(passages)]
    shared = prompts.build_grounded_question([(n, p.text) for n, p in numbered], "")
    turns = make_questions(numbered, subject_kind, values, taken)
    kept = tuple((turn,) for turn in turns if held_out or not _resembles_example(turn[0]))
    return Group("grounded", prompts.GROUNDED, kept, shared.removesuffix("Question: "))


def _resembles_example(asked: str) -> bool:
    return corpus.resembles_example(asked.removeprefix("Question: "))


def _mix_in(
    passages: list[Passage], noise: tuple[str, ...], random_: random.Random
) -> list[Passage]:
    mixed = list(passages)
    for paragraph in noise:
        place = random_.randrange(len(mixed))
        texts = [mixed[place].text, paragraph]
        random_.shuffle(texts)
        mixed[place] = Passage("\n".join(texts), mixed[place].facts)
    return mixed


def make_questions(
    numbered: list[tuple[int, Passage]], kind: str, values: SlotValues, taken: set[tuple[str, int]]
) -> list[Turn]:
    """Ask about the passages; about a quarter of the questions has no answer in them."""
    random_ = values.random
    facts = [(number, fact) for number, item in numbered for fact in item.facts]
    random_.shuffle(facts)
    turns: dict[str, str] = {}
    for number, fact in facts[:MAX_QUESTIONS]:
        question, answer = fact.ask(random_)
        if _is_unambiguous(question, fact, facts):
            turns.setdefault(question, f"{answer.rstrip('.')}. [{number}]")
    for _ in range(MAX_QUESTIONS):
        if random_.random() < UNANSWERABLE_SHARE:
            turns.setdefault(
                _unanswerable_question(kind, facts, values, taken), prompts.NOT_IN_DOCUMENTS
            )
    if not turns:
        turns[_unanswerable_question(kind, facts, values, taken)] = prompts.NOT_IN_DOCUMENTS
    return [(f"Question: {question}", answer) for question, answer in turns.items()]


def _is_unambiguous(question: str, fact: Fact, facts: list[tuple[int, Fact]]) -> bool:
    """Return whether the question fits no other fact."""
    rivals = [other for _, other in facts if other is not fact and other.subject == fact.subject]
    asked = {corpus.word_set(question)}
    return not any(
        corpus.word_set(fill_pattern(q, {**o.slots, **_shared_slots(fact, o)}, o.subject)) in asked
        for o in rivals
        for ask in o.kind.forms
        for q in ask.questions
    )


def _shared_slots(fact: Fact, other: Fact) -> dict[str, str]:
    return {key: value for key, value in fact.slots.items() if key in other.slots}


def _unanswerable_question(
    kind: str, facts: list[tuple[int, Fact]], values: SlotValues, taken: set[tuple[str, int]]
) -> str:
    """Return a question about a subject or property that the passages omit."""
    random_ = values.random
    mine = [fact for _, fact in facts if fact.kind.subject == kind]
    if mine and kind != "rule" and random_.random() < 0.5:
        fact = random_.choice(mine)
        return make_fact(fact.kind, make_subject(kind, values), values).ask(random_)[0]
    used = {fact.kind.number for fact in mine}
    free = [
        k for k in read_fact_kinds()[kind] if k.number not in used and (kind, k.number) not in taken
    ]
    if not free:
        return random_.choice(OFF_TOPIC)
    chosen = random_.choice(free)
    like = {
        q for number in used for ask in read_fact_kinds()[kind][number].forms for q in ask.questions
    }
    for candidate in random_.sample(free, min(5, len(free))):
        if not like & {q for ask in candidate.forms for q in ask.questions}:
            chosen = candidate
    subject = random_.choice(mine).subject if mine else make_subject(kind, values)
    return make_fact(chosen, subject, values).ask(random_)[0]


@lru_cache(maxsize=2)
def read_customer_questions(folder: Path) -> dict[str, list[Turn]]:
    """Read DSTC9 questions and answers by the entity that they are about."""
    found: dict[str, list[Turn]] = {}
    for row in corpus.read_rows(folder, "faq_pairs_dstc9_train_knowledge"):
        entity = str(row["entity"] or row["domain"])
        answer = corpus.clean(row["answer"])
        if len(answer) < 200:
            found.setdefault(entity, []).append((corpus.clean(row["question"]), answer))
    return {entity: turns for entity, turns in found.items() if len(turns) >= 6}


def make_customer_group(folder: Path, random_: random.Random, *, held_out: bool = False) -> Group:
    """Make passages from the answers given for one hotel or restaurant; ask a few of them."""
    knowledge = read_customer_questions(folder)
    entities = [e for e in sorted(knowledge) if corpus.is_held_out(e) == held_out]
    entity = random_.choice(entities)
    turns = random_.sample(knowledge[entity], min(random_.randint(3, 9), len(knowledge[entity])))
    hidden, shown = turns[:1], turns[1:]
    blocks = random_.randint(1, min(4, len(shown)))
    cut = [shown[place::blocks] for place in range(blocks)]
    title = entity.title()
    texts = [(n, f"{title}\n" + " ".join(a for _, a in part)) for n, part in enumerate(cut, 1)]
    asked = [(q, f"{a} [{n}]") for n, part in enumerate(cut, 1) for q, a in part][:MAX_QUESTIONS]
    asked += [(q, prompts.NOT_IN_DOCUMENTS) for q, _ in hidden]
    kept = tuple(((f"Question: {q}", a),) for q, a in asked if not corpus.resembles_example(q))
    shared = prompts.build_grounded_question(texts, "").removesuffix("Question: ")
    return Group("grounded", prompts.GROUNDED, kept, shared)


def training_source(
    folder: Path, paragraphs: tuple[tuple[str, ...], ...], *, noise: int = 1
) -> Callable[[int], Group]:
    """Return the endless stream of training groups.

    `paragraphs` are the sentences of real paragraphs, up to `noise` of them go into a group:
    eight make a context of nearly a thousand tokens.
    """

    def at(index: int) -> Group:
        random_ = seeded_random("grounded", index, noise)
        if noise == 1 and random_.random() < 0.12:
            return make_customer_group(folder, random_)
        count = noise if noise > 1 else int(random_.random() < 0.25)
        return make_group(
            random_, noise=tuple(" ".join(random_.choice(paragraphs)) for _ in range(count))
        )

    return at


def held_out_groups(count: int) -> list[Group]:
    """Return held-out groups: names that training never saw; one question each."""
    found = []
    for index in range(count):
        whole = make_group(seeded_random("grounded measured", index), held_out=True)
        choice = seeded_random("grounded choice", index).choice(whole.branches)
        found.append(Group(whole.task, whole.system, (choice,), whole.shared))
    return found
