"""Dialogues: small talk in five languages, simple support questions, recall of earlier turns.

Bot Framework chit-chat (MIT, Microsoft), ChatterBot corpus (BSD-3-Clause), Synthetic-Persona-Chat
(CC-BY 4.0, Google); the introductions and the questions about earlier turns are generated.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from training.starter import corpus
from training.starter.groups import Group, Turn, seeded_random
from training.starter.slot_values import COLORS, FOODS, JOBS, SlotValues

from palaver_skills import prompts
from palaver_skills.courtesies import COURTESIES

LOCALES = {"en-us": 3, "de-de": 2, "es-es": 2, "fr-fr": 2, "zh-cn": 2}
TOPICS = {"tech_support", "emotion", "greetings", "humor", "food"}
EXCLUDED_WORDS = (
    "fart",
    "pee",
    "sex",
    "poop",
    "kill",
    "stupid",
    "suicid",
    "ahorcar",
    "die ",
    "dead",
    "|",
    "```",
)

COURTESY_WEIGHT = 12
MEMORIES: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    (
        "My name is {v}.",
        ("What is my name?", "What's my name?", "Do you remember my name?", "Who am I?"),
        "Your name is {v}.",
        "Nice to meet you, {v}!",
    ),
    ("I am {v}.", ("What is my name?", "Who am I?"), "You are {v}.", "Nice to meet you, {v}!"),
    (
        "I live in {v}.",
        ("Where do I live?", "Which town do I live in?", "Do you know where I live?"),
        "You live in {v}.",
        "{v} sounds nice!",
    ),
    (
        "My favourite colour is {v}.",
        ("What is my favourite colour?", "Which colour do I like?"),
        "Your favourite colour is {v}.",
        "I like {v}, too.",
    ),
    (
        "I work as a {v}.",
        ("What is my job?", "What do I work as?"),
        "You work as a {v}.",
        "That is an interesting job.",
    ),
    (
        "I love {v}.",
        ("What do I love?", "What do I like?", "What food do I like?"),
        "You love {v}.",
        "{v} sounds good!",
    ),
    (
        "My dog is called {v}.",
        ("What is my dog called?", "What is the name of my dog?"),
        "Your dog is called {v}.",
        "{v} is a lovely name.",
    ),
)


def _usable(text: str) -> bool:
    plain = len(text) < 160 and not any(mark.isdigit() for mark in text) and "*" not in text
    return plain and not any(word in text.lower() for word in EXCLUDED_WORDS)


@lru_cache(maxsize=2)
def read_small_talk(folder: Path) -> tuple[tuple[tuple[str, ...], str, int], ...]:
    """Read sets of wordings, their common answer and their weight."""
    found = []
    for row in corpus.read_rows(folder, "botframework_chitchat_all"):
        weight = LOCALES.get(row["lang"], 0)
        asked = tuple(corpus.clean(q) for q in row["questions"] if _usable(q))
        if weight and asked and _usable(row["answer"]):
            found.append((asked, corpus.clean(row["answer"]), weight))
    for row in corpus.read_rows(folder, "chatterbot_corpus_all"):
        question, answer = row["turns"][0], row["turns"][-1]
        if row["lang"] == "english" and row["topic"] in TOPICS and _usable(question + answer):
            found.append(((corpus.clean(question),), corpus.clean(answer), 1))
    found += [(asked, answer, COURTESY_WEIGHT) for asked, answer in COURTESIES]
    return tuple(found)


@lru_cache(maxsize=2)
def read_dialogues(folder: Path) -> tuple[tuple[Turn, ...], ...]:
    """Read dialogues of two people as (said, replied) turns."""
    found = []
    for row in corpus.read_rows(folder, "synthetic_persona_chat_valid"):
        lines = [
            x.partition(": ")[2].strip() for x in row["Best Generated Conversation"].split("\n")
        ]
        turns = list(zip(lines[::2], lines[1::2], strict=False))
        if turns and all(a and b and len(a + b) < 240 for a, b in turns[:5]):
            found.append(tuple((corpus.clean(a), corpus.clean(b)) for a, b in turns[:5]))
    return tuple(found)


def _recall_turns(random_: random.Random, values: SlotValues, talk: Turn) -> tuple[Turn, ...]:
    statement, questions, answer, reply = random_.choice(MEMORIES)
    value = _draw_fact(statement, random_, values)
    greeting = random_.choice(("", "", "Hello! ", "Hi, "))
    first = (greeting + statement.format(v=value), reply.format(v=value[:1].upper() + value[1:]))
    last = (random_.choice(questions), answer.format(v=value))
    between = (talk,) if random_.random() < 0.5 else ()
    return (first, *between, last)


def _draw_fact(statement: str, random_: random.Random, values: SlotValues) -> str:
    if "live" in statement:
        return values.town()
    if "colour" in statement:
        return random_.choice(COLORS)
    if "work" in statement:
        return random_.choice(JOBS)
    if "love" in statement:
        return random_.choice(FOODS)
    return values.syllables(1, 2).capitalize() if "dog" in statement else values.person()


def make_conversation(folder: Path, random_: random.Random) -> tuple[Turn, ...]:
    """Make one conversation."""
    talk = read_small_talk(folder)
    weights = _weights(folder)
    picked = [(random_.choice(a), b) for a, b, _ in random_.choices(talk, weights, k=2)]
    dice = random_.random()
    if dice < 0.2:
        return _recall_turns(random_, SlotValues(random_), picked[0])
    if dice < 0.27:
        return random_.choice(read_dialogues(folder))
    return tuple(picked) if dice < 0.45 else (picked[0],)


@lru_cache(maxsize=2)
def _weights(folder: Path) -> tuple[float, ...]:
    return tuple(weight * len(asked) ** 0.5 for asked, _, weight in read_small_talk(folder))


def training_source(folder: Path) -> Callable[[int], Group]:
    """Return the endless stream of training groups: four conversations each."""

    def at(index: int) -> Group:
        random_ = seeded_random("chat", index)
        found = [make_conversation(folder, random_) for _ in range(4)]
        kept = [c for c in found if not any(_is_excluded(user) for user, _ in c)]
        system = prompts.CHAT if random_.random() < 0.95 else ""
        return Group("chat", system, tuple(kept) or ((("Hi", "Hello! How can I help you?"),),))

    return at


def _is_excluded(user: str) -> bool:
    return corpus.resembles_example(user) or (len(user) > 12 and corpus.is_held_out("chat " + user))


def held_out_groups(folder: Path, count: int) -> list[Group]:
    """Return held-out wordings of English small talk."""
    found = [
        Group("chat", prompts.CHAT, (((question, answer),),))
        for asked, answer, weight in read_small_talk(folder)
        if weight == LOCALES["en-us"]
        for question in asked
        if len(question) > 12 and corpus.is_held_out("chat " + question)
    ]
    seeded_random("chat measured").shuffle(found)
    return found[:count]
