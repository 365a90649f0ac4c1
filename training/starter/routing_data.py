"""Routing examples: a list of skills and a message; the answer is the name of the right skill.

Messages for the built-in skills are generated or taken from the other tasks; the other skills
and their messages come from CLINC150 (CC-BY 3.0).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from training.starter import (
    code_data,
    corpus,
    dialogue_data,
    grounded_data,
    summary_data,
    translation_data,
)
from training.starter.groups import Group, seeded_random
from training.starter.slot_values import SlotValues

from palaver_skills import prompts

OTHERS = {
    "weather": "Tell the weather anywhere.",
    "alarm": "Set an alarm clock.",
    "timer": "Start and stop a timer.",
    "reminder": "Remind people of things.",
    "play_music": "Play music.",
    "calculator": "Work out sums.",
    "todo_list": "Keep a list of things to do.",
    "shopping_list": "Keep a shopping list.",
    "recipe": "Suggest recipes for cooking.",
    "book_flight": "Book a flight.",
    "book_hotel": "Book a room in a hotel.",
    "car_rental": "Rent a car.",
    "exchange_rate": "Convert money between currencies.",
    "definition": "Explain what a word means.",
    "spelling": "Spell words.",
    "directions": "Show the way to a place.",
    "traffic": "Report the traffic on the roads.",
    "restaurant_reservation": "Reserve a table in a restaurant.",
    "balance": "Tell the balance of a bank account.",
    "transfer": "Transfer money between accounts.",
    "date": "Tell the date.",
    "time": "Tell the time.",
    "flip_coin": "Flip a coin.",
    "roll_dice": "Roll dice.",
    "meeting_schedule": "Arrange meetings.",
}
TRANSLATE = (
    "Translate this into {l}: {t}",
    "How do you say '{t}' in {l}?",
    "What is {l} for '{t}'?",
    "Please put this into {l}: {t}",
    "Translate into {l}",
    "{t} - in {l} please",
    "Say '{t}' in {l}.",
    "Can you translate this text into {l}?",
    "I need this in {l}: {t}",
    "Put the following into {l}: {t}",
    "Could you turn this letter into {l}?",
    "translate '{t}'",
    "Please translate my mail to {l}.",
)
SUMMARIZE = (
    "Summarize this: {t}",
    "Give me the main points of this text: {t}",
    "Shorten this: {t}",
    "Can you sum up our conversation?",
    "tl;dr {t}",
    "Please summarize the text below. {t}",
    "What are the key points? {t}",
    "Make this shorter: {t}",
    "Sum this up in one sentence: {t}",
    "Summarize what we talked about.",
    "Give me a summary of this.",
    "Short version please: {t}",
)
ASK = (
    "{q}",
    "{q}",
    "{q}",
    "According to the documents: {q}",
    "Look it up: {q}",
    "What do our files say? {q}",
    "Check the handbook: {q}",
    "Search the knowledge base for {d}.",
    "What do the papers say about {d}?",
    "What does the manual say about {d}?",
    "Is there anything in the documents about {d}?",
)
CODE_TOO = (
    "Write a Python script that {g}.",
    "Code: {g}",
    "Implement something that {g}",
    "I need code that {g}.",
    "Program a function that {g}.",
    "Write some JavaScript that {g}.",
)


@lru_cache(maxsize=2)
def read_intents(folder: Path) -> dict[str, list[str]]:
    """Read the messages of the other skills."""
    found: dict[str, list[str]] = {name: [] for name in OTHERS}
    for row in corpus.read_rows(folder, "intent_clinc150_train"):
        if row["intent"] in found:
            found[row["intent"]].append(corpus.clean(row["text"]))
    return {name: texts for name, texts in found.items() if texts}


def draw_message(folder: Path, skill: str, random_: random.Random) -> str:
    """Draw a message that the skill should get."""
    if skill == "chat":
        asked = [q for q, _, weight in dialogue_data.read_small_talk(folder) if weight > 1]
        return random_.choice(random_.choice(asked))
    if skill == "qa":
        question, duty = (
            _question(random_),
            random_.choice(
                (
                    "parking",
                    "holidays",
                    "refunds",
                    "travel",
                    "passwords",
                    "the kitchen",
                    "invoices",
                    "visitors",
                    "safety",
                    "sick leave",
                )
            ),
        )
        return random_.choice(ASK).format(q=question, d=duty)
    if skill == "translation":
        return _translate(folder, random_)
    if skill == "summarization":
        text = " ".join(summary_data.make_notice(random_)[: random_.randint(1, 3)])
        return random_.choice(SUMMARIZE).format(t=text)
    if skill == "codegen":
        task = random_.choice(code_data.python_tasks())
        if random_.random() < 0.3:
            return random_.choice(CODE_TOO).format(g=task.goal)
        return code_data.make_turns(task, random_)[0][0]
    return random_.choice(read_intents(folder)[skill])


def _question(random_: random.Random) -> str:
    values = SlotValues(random_)
    kind = random_.choice(("place", "rule", "rule", "product", "person"))
    fact = random_.choice(grounded_data.read_fact_kinds()[kind])
    return grounded_data.make_fact(fact, grounded_data.make_subject(kind, values), values).ask(
        random_
    )[0]


def _translate(folder: Path, random_: random.Random) -> str:
    language = random_.choice(translation_data.FOREIGN)
    pair = random_.choice(translation_data.read_pairs(folder, language).train)
    into = random_.choice([*prompts.LANGUAGES.values(), "Italian", "Dutch", "Polish"])
    text = random_.choice((pair.english, pair.foreign))
    return random_.choice(TRANSLATE).format(l=into, t=text)


def draw_skills(folder: Path, random_: random.Random) -> list[tuple[str, str]]:
    """Draw a list of skills: mostly the built-in ones, now and then some others."""
    found = list(prompts.SKILLS.items())
    if random_.random() < 0.5:
        found = random_.sample(found, random_.randint(3, 5))
    if random_.random() < 0.5:
        others = [(name, OTHERS[name]) for name in read_intents(folder)]
        found += random_.sample(others, random_.randint(1, 4))
    random_.shuffle(found)
    return found


def training_source(folder: Path) -> Callable[[int], Group]:
    """Return the endless stream of training groups: eight messages for one list of skills."""

    def at(index: int) -> Group:
        random_ = seeded_random("routing", index)
        offered = draw_skills(folder, random_)
        turns = []
        for _ in range(8):
            name = random_.choice(offered)[0]
            text = draw_message(folder, name, random_)
            if not corpus.is_held_out("routing " + text) and not corpus.resembles_example(text):
                turns.append(((text, name),))
        return Group(
            "routing",
            prompts.build_routing_system(offered),
            tuple(turns) or ((("Hi", offered[0][0]),),),
        )

    return at


def held_out_groups(folder: Path, count: int) -> list[Group]:
    """Return held-out messages for the built-in skills, shuffled."""
    found: list[Group] = []
    index = 0
    while len(found) < count:
        random_ = seeded_random("routing measured", index)
        index += 1
        name = random_.choice(list(prompts.SKILLS))
        text = draw_message(folder, name, random_)
        if corpus.is_held_out("routing " + text):
            offered = list(prompts.SKILLS.items())
            random_.shuffle(offered)
            found.append(
                Group("routing", prompts.build_routing_system(offered), (((text, name),),))
            )
    return found
