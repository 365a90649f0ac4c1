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
from training.starter.groups import Group, Turn, generator
from training.starter.values import Values

from palaver_skills import prompts

FACTS = Path(__file__).with_name("facts.txt")
SUBJECTS = ("place", "person", "product", "town", "rule", "generic")
WEIGHTS = (5, 5, 3, 2, 5, 2)
UNANSWERABLE = 0.25
QUESTIONS = 6
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
class Ask:
    """Ways to ask for one thing, and the pattern of its answer."""

    questions: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fact: ways to state it and what can be asked about it."""

    subject: str
    number: int
    statements: tuple[str, ...]
    asks: tuple[Ask, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """A kind filled with values: the statement in a text and the questions it answers."""

    kind: Kind
    subject: str
    slots: dict[str, str]

    def state(self, random_: random.Random, subject: str) -> str:
        """Write the fact as a sentence about `subject` (a name or a pronoun)."""
        return fill(random_.choice(self.kind.statements), self.slots, subject)

    def ask(self, random_: random.Random) -> Turn:
        """Return a question and its answer, without the passage's number."""
        ask = random_.choice(self.kind.asks)
        question = fill(random_.choice(ask.questions), self.slots, self.subject)
        return question, fill(ask.answer, self.slots, self.subject)


@lru_cache(maxsize=1)
def kinds() -> dict[str, tuple[Kind, ...]]:
    """Read `facts.txt`: class of subject to its kinds of facts."""
    found: dict[str, list[Kind]] = {}
    subject = ""
    text = "\n".join(x for x in FACTS.read_text("utf-8").splitlines() if not x.startswith("#"))
    for block in text.split("\n\n"):
        lines = block.strip().splitlines()
        if lines and lines[0].startswith("["):
            subject = lines.pop(0).strip("[]")
        if lines:
            found.setdefault(subject, []).append(_kind(subject, len(found.get(subject, ())), lines))
    return {name: tuple(group) for name, group in found.items()}


def _kind(subject: str, number: int, lines: list[str]) -> Kind:
    statements = tuple(line[2:] for line in lines if line.startswith("="))
    questions = [tuple(q.strip() for q in x[2:].split("|")) for x in lines if x.startswith("?")]
    answers = [line[2:].strip() for line in lines if line.startswith("!")]
    asks = tuple(Ask(q, a) for q, a in zip(questions, answers, strict=True))
    return Kind(subject, number, statements, asks)


def upper(text: str) -> str:
    """Capitalise the first letter only."""
    return text[:1].upper() + text[1:]


def fill(pattern: str, slots: dict[str, str], subject: str) -> str:
    """Fill a pattern; a capitalised name in braces capitalises its value."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        text = subject if name.lower() == "s" else slots[name.lower()]
        return upper(text) if name[0].isupper() else text

    return upper(re.sub(r"\{(\w+)\}", value, pattern))


def make_fact(kind: Kind, subject: str, values: Values) -> Fact:
    """Draw all values that a kind of fact mentions."""
    patterns = " ".join([*kind.statements, *(a.answer for a in kind.asks)])
    patterns += " ".join(q for ask in kind.asks for q in ask.questions)
    slots: dict[str, str] = {}
    for name in re.findall(r"\{(\w+)\}", patterns):
        key = name.lower()
        while key != "s" and (key not in slots or list(slots.values()).count(slots[key]) > 1):
            slots[key] = values.draw(key)
    return Fact(kind, subject, slots)


def make_subject(kind: str, values: Values) -> str:
    """Name something of a class."""
    makers: dict[str, Callable[[], str]] = {
        "place": values.place,
        "person": values.person,
        "product": values.product,
        "town": values.town,
        "generic": values.generic,
        "rule": lambda: "the company",
    }
    return makers[kind]()


def again(fact: Fact, random_: random.Random) -> str:
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


def passage(subject_kind: str, values: Values, taken: set[tuple[str, int]]) -> Passage:
    """Write a passage about one subject (or several generic ones)."""
    random_ = values.random
    many = subject_kind in {"generic", "person"} and random_.random() < 0.5
    subject = make_subject(subject_kind, values)
    facts: list[Fact] = []
    for kind in random_.sample(kinds()[subject_kind], random_.choice((1, 2, 2, 3, 3, 4))):
        fact = make_fact(kind, make_subject(subject_kind, values) if many else subject, values)
        if subject_kind != "rule" or (subject_kind, kind.number) not in taken:
            taken.add((subject_kind, kind.number))
            facts.append(fact)
    return Passage(_write(subject_kind, facts, random_, values), tuple(facts))


def _write(kind: str, facts: list[Fact], random_: random.Random, values: Values) -> str:
    sentences: list[str] = []
    last = ""
    for fact in facts:
        name = again(fact, random_) if fact.subject == last else fact.subject
        last = fact.subject
        sentences.append(fact.state(random_, name))
    if not sentences or random_.random() < 0.35:
        sentences.insert(random_.randint(0, len(sentences)), random_.choice(FILLERS))
    text = random_.choice((" ", " ", " ", "\n")).join(sentences)
    return _heading(kind, facts, random_, values) + text


def _heading(kind: str, facts: list[Fact], random_: random.Random, values: Values) -> str:
    if random_.random() < 0.5:
        return ""
    title = random_.choice(TITLES[kind])
    if facts and random_.random() < 0.3:
        title = upper(facts[0].subject)
    elif random_.random() < 0.3:
        title = f"{values.brand()} {title.lower()}"
    return random_.choice(
        (f"{title}\n", f"## {title}\n\n", f"{title}: ", f"# {title}\n", f"{title}\n\n")
    )


def group(random_: random.Random, *, spare: bool = False, noise: tuple[str, ...] = ()) -> Group:
    """Make one set of one to four passages and questions about it.

    `noise` are paragraphs of real text that are mixed into the passages.
    """
    values = Values(random_, spare=spare)
    subject_kind = random_.choices(SUBJECTS, WEIGHTS)[0]
    taken: set[tuple[str, int]] = set()
    passages = []
    for _ in range(random_.choice((1, 2, 3, 3, 4, 4))):
        other = random_.choices(SUBJECTS, WEIGHTS)[0] if random_.random() < 0.35 else subject_kind
        passages.append(passage(other, values, taken))
    passages = _mixed(passages, noise, random_)
    first = 1 if random_.random() < 0.85 else random_.randint(1, 9)
    numbered = [(first + place, item) for place, item in enumerate(passages)]
    shared = prompts.build_grounded_question([(n, p.text) for n, p in numbered], "")
    turns = questions(numbered, subject_kind, values, taken)
    kept = tuple((turn,) for turn in turns if spare or not corpus.resembles_example(turn[0]))
    return Group("grounded", prompts.GROUNDED, kept, shared.removesuffix("Question: "))


def _mixed(
    passages: list[Passage], noise: tuple[str, ...], random_: random.Random
) -> list[Passage]:
    mixed = list(passages)
    for paragraph in noise:
        place = random_.randrange(len(mixed))
        texts = [mixed[place].text, paragraph]
        random_.shuffle(texts)
        mixed[place] = Passage("\n".join(texts), mixed[place].facts)
    return mixed


def questions(
    numbered: list[tuple[int, Passage]], kind: str, values: Values, taken: set[tuple[str, int]]
) -> list[Turn]:
    """Ask about the passages; about a quarter of the questions has no answer in them."""
    random_ = values.random
    facts = [(number, fact) for number, item in numbered for fact in item.facts]
    random_.shuffle(facts)
    turns: dict[str, str] = {}
    for number, fact in facts[:QUESTIONS]:
        question, answer = fact.ask(random_)
        if _clear(question, fact, facts):
            turns.setdefault(question, f"{answer.rstrip('.')}. [{number}]")
    for _ in range(QUESTIONS):
        if random_.random() < UNANSWERABLE:
            turns.setdefault(_unanswerable(kind, facts, values, taken), prompts.NOT_IN_DOCUMENTS)
    if not turns:
        turns[_unanswerable(kind, facts, values, taken)] = prompts.NOT_IN_DOCUMENTS
    return [(f"Question: {question}", answer) for question, answer in turns.items()]


def _clear(question: str, fact: Fact, facts: list[tuple[int, Fact]]) -> bool:
    """Tell whether no other fact could be meant by the question."""
    rivals = [other for _, other in facts if other is not fact and other.subject == fact.subject]
    asked = {corpus.words(question)}
    return not any(
        corpus.words(fill(q, {**o.slots, **_shared(fact, o)}, o.subject)) in asked
        for o in rivals
        for ask in o.kind.asks
        for q in ask.questions
    )


def _shared(fact: Fact, other: Fact) -> dict[str, str]:
    return {key: value for key, value in fact.slots.items() if key in other.slots}


def _unanswerable(
    kind: str, facts: list[tuple[int, Fact]], values: Values, taken: set[tuple[str, int]]
) -> str:
    """Ask for something that the passages leave out: another subject or another property."""
    random_ = values.random
    mine = [fact for _, fact in facts if fact.kind.subject == kind]
    if mine and kind != "rule" and random_.random() < 0.5:
        fact = random_.choice(mine)
        return make_fact(fact.kind, make_subject(kind, values), values).ask(random_)[0]
    used = {fact.kind.number for fact in mine}
    free = [k for k in kinds()[kind] if k.number not in used and (kind, k.number) not in taken]
    if not free:
        return random_.choice(OFF_TOPIC)
    chosen = random_.choice(free)
    like = {q for number in used for ask in kinds()[kind][number].asks for q in ask.questions}
    for candidate in random_.sample(free, min(5, len(free))):
        if not like & {q for ask in candidate.asks for q in ask.questions}:
            chosen = candidate
    subject = random_.choice(mine).subject if mine else make_subject(kind, values)
    return make_fact(chosen, subject, values).ask(random_)[0]


@lru_cache(maxsize=2)
def customer_questions(folder: Path) -> dict[str, list[Turn]]:
    """Read DSTC9 questions and answers by the entity that they are about."""
    found: dict[str, list[Turn]] = {}
    for row in corpus.rows(folder, "faq_pairs_dstc9_train_knowledge"):
        entity = str(row["entity"] or row["domain"])
        answer = corpus.clean(row["answer"])
        if len(answer) < 200:
            found.setdefault(entity, []).append((corpus.clean(row["question"]), answer))
    return {entity: turns for entity, turns in found.items() if len(turns) >= 6}


def customer_group(folder: Path, random_: random.Random, *, spare: bool = False) -> Group:
    """Make passages from the answers given for one hotel or restaurant; ask a few of them."""
    knowledge = customer_questions(folder)
    entities = [e for e in sorted(knowledge) if corpus.held_out(e) == spare]
    entity = random_.choice(entities)
    turns = random_.sample(knowledge[entity], min(random_.randint(3, 9), len(knowledge[entity])))
    hidden, shown = turns[:1], turns[1:]
    blocks = random_.randint(1, min(4, len(shown)))
    cut = [shown[place::blocks] for place in range(blocks)]
    title = entity.title()
    texts = [(n, f"{title}\n" + " ".join(a for _, a in part)) for n, part in enumerate(cut, 1)]
    asked = [(q, f"{a} [{n}]") for n, part in enumerate(cut, 1) for q, a in part][:QUESTIONS]
    asked += [(q, prompts.NOT_IN_DOCUMENTS) for q, _ in hidden]
    kept = tuple(((f"Question: {q}", a),) for q, a in asked if not corpus.resembles_example(q))
    shared = prompts.build_grounded_question(texts, "").removesuffix("Question: ")
    return Group("grounded", prompts.GROUNDED, kept, shared)


def source(
    folder: Path, paragraphs: tuple[tuple[str, ...], ...], *, noise: int = 1
) -> Callable[[int], Group]:
    """Return the endless stream of training groups.

    `paragraphs` are the sentences of real paragraphs, up to `noise` of them go into a group:
    eight make a context of nearly a thousand tokens.
    """

    def at(index: int) -> Group:
        random_ = generator("grounded", index, noise)
        if noise == 1 and random_.random() < 0.12:
            return customer_group(folder, random_)
        count = noise if noise > 1 else int(random_.random() < 0.25)
        return group(
            random_, noise=tuple(" ".join(random_.choice(paragraphs)) for _ in range(count))
        )

    return at


def measured(count: int) -> list[Group]:
    """Return held-out groups: names that training never saw; one question each."""
    found = []
    for index in range(count):
        whole = group(generator("grounded measured", index), spare=True)
        choice = generator("grounded choice", index).choice(whole.branches)
        found.append(Group(whole.task, whole.system, (choice,), whole.shared))
    return found
