"""Refusals: what a model with a declared reach says to requests beyond it, in five languages.

A refusal has the reason, the way to a model that can do it, and what this one can do.
"""

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, Final

from palaver import EngineInfo, Sampling, Task, TaskReach, Turn, run_on_text
from palaver_skills.flaws import is_loop
from palaver_skills.language_detection import detect_language
from palaver_skills.languages import BY_CODE, Language

Texts = Mapping[str, str]
"""A text by the code of its language."""

# Read at import: later it would block the event loop.
_READ: Final = tomllib.loads(
    resources.files("palaver_skills").joinpath("refusals.toml").read_text(encoding="utf-8")
)
WAY_OUT: Final[Texts] = _READ["way_out"]
"""How a person gets a model that can do more."""
REASONS: Final[Mapping[str, Texts]] = _READ["reasons"]
TASKS: Final[Mapping[Task, Texts]] = _READ["tasks"]
"""What a model can do, by the tasks of its reach."""
CALCULATE: Final[Texts] = _READ["calculate"]
"""What a tool does for any model."""
_WITHOUT_TASKS: Final = frozenset(("no_answer", "no_result", "small_talk"))
"""Reasons that show what the model is for."""
_TEXT: Final = re.compile(r"[:：\n]")
"""What stands before a text."""


async def decline(turn: Turn[Any], reason: str, **facts: object) -> None:  # Any: any Arguments
    """Say that the model cannot do what the message asks for, and what can be done instead."""
    await turn.say(await build_refusal(turn, reason, **facts))


async def build_refusal(turn: Turn[Any], reason: str, **facts: object) -> str:
    """Return a refusal in the language of the message."""
    code = await detect_person_language(turn.message.text)
    told = REASONS[reason][code].format(**_name_languages(code, facts))
    tasks = "" if reason in _WITHOUT_TASKS else describe_tasks(turn.engine, code)
    return join_sentences(code, told, tasks, WAY_OUT[code])


async def tell_tasks(turn: Turn[Any]) -> None:
    """Say what the model can do, and how to get one that can do more."""
    code = await detect_person_language(turn.message.text)
    await turn.say(join_sentences(code, describe_tasks(turn.engine, code), WAY_OUT[code]))


async def detect_person_language(text: str) -> str:
    """Return the code of the language in which to answer a message: that of an instruction before a
    text. English for any but five, and for a single word, which may be of many."""
    instruction = _TEXT.split(text, maxsplit=1)[0]
    text = text if _is_word(instruction) else instruction
    if _is_word(text):
        return "en"
    language = await run_on_text(detect_language, text)
    return language.code if language and language.code in WAY_OUT else "en"


def _is_word(text: str) -> bool:
    return text.isascii() and len(text.split()) < 2


def describe_tasks(engine: EngineInfo, code: str) -> str:
    """Return what a model can do, as one sentence; empty where nothing is declared."""
    told = [
        texts[code].format(
            languages=_list_names(code, reach.languages or reach.requests), words=reach.words
        )
        for task, texts in TASKS.items()
        if engine.reach is not None and (reach := engine.reach.get(task))
    ]
    return _READ["i_can"][code].format(tasks=_join(code, [*told, CALCULATE[code]])) if told else ""


def join_sentences(code: str, *sentences: str) -> str:
    """Return sentences as one text in a language."""
    return ("" if code == "zh" else " ").join(filter(None, sentences))


def is_limited(engine: EngineInfo) -> bool:
    """Return True for a model that was made for certain tasks, and knows nothing beside them."""
    return engine.find_reach("knowledge") is None


def has_language(languages: Sequence[str], language: Language | None) -> bool:
    """Return True for one of the declared languages, where none is declared or known."""
    return language is None or not languages or language.code in languages


def ask_for_confidence(turn: Turn[Any], sampling: Sampling) -> Sampling:
    """Return ``sampling`` with log-probabilities for a limited model, where the engine has them."""
    asks = is_limited(turn.engine) and "logprobs" in turn.engine.capabilities
    return dataclasses.replace(sampling, logprobs=0) if asks else sampling


def is_usable(turn: Turn[Any], task: Task, written: str, source: str) -> bool:
    """Return False when a limited model was not sure of what it wrote last, or wrote a loop."""
    reach = turn.engine.find_reach(task)
    if reach is None or not is_limited(turn.engine):
        return True
    is_sure = turn.confidence is None or turn.confidence >= reach.confidence
    return is_sure and bool(written.strip()) and not is_loop(written, source)


async def understands(turn: Turn[Any], reach: TaskReach) -> bool:
    """Return True for a message in a language that requests may be in; else decline it."""
    language = await run_on_text(detect_language, turn.message.text)
    if has_language(reach.requests, language):
        return True
    await decline(turn, "request_language", languages=reach.requests)
    return False


def _name_languages(code: str, facts: Mapping[str, object]) -> dict[str, object]:
    """Return facts with names in place of the codes of languages."""
    named = dict(facts)
    if isinstance(languages := facts.get("languages"), tuple):
        named["languages"] = _list_names(code, languages)
    if isinstance(language := facts.get("language"), str):
        named["language"] = _name(code, language)
    return named


def _list_names(code: str, languages: Iterable[str]) -> str:
    return _join(code, [_name(code, language) for language in languages])


def _name(code: str, language: str) -> str:
    """Return the name of a language by its code; a name of anything else stays as it is."""
    known = BY_CODE.get(language)
    names: Texts = _READ["languages"].get(code, {})
    return names.get(language, known.name if known else language)


def _join(code: str, parts: list[str]) -> str:
    *first, last = parts or [""]
    comma = "、" if code == "zh" else ", "
    return f"{comma.join(first)}{_READ['and'][code]}{last}" if first else last
