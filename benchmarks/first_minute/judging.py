"""The rules by which a reply passes, and the verdicts."""

import ast
import datetime
import re
import subprocess
import sys
from typing import Literal, NamedTuple

import msgspec

from palaver_skills.language_detection import detect_language
from palaver_skills.refusals import WAY_OUT

Outcome = Literal["answered", "declined", "wrong", "wrong, with a citation"]
_NAMES = re.compile(r"`[^`]*`|[“«„][^”»“]*[”»“]")
"""Names in a refusal, which are the same in all languages."""
_MARK = re.compile(r"\s*\[\d+\]")
_SHOWN = 90


class Question(msgspec.Struct, frozen=True):
    """A question with its rule. A reply passes that ``accept`` is found in, and ``forbid`` is not;
    or one that declines in ``language``, unless ``refuse`` is False. ``cites``: the section that a
    citation must name; without it, nothing may be cited. ``test``: statements about the function
    ``f`` of the code in the reply."""

    kind: str
    language: str
    text: str
    accept: str = "(?!)"
    forbid: str = "(?!)"
    refuse: bool = True
    cites: str | None = None
    test: str = ""


class Verdict(NamedTuple):
    question: Question
    reply: str
    sections: tuple[str, ...]
    outcome: Outcome


def judge(question: Question, reply: str, sections: tuple[str, ...]) -> Verdict:
    """Judge a reply that cites the sections."""
    outcome: Outcome = "wrong, with a citation" if sections else "wrong"
    if _is_accepted(question, reply) and set(sections) <= {question.cites}:
        outcome = "answered"
    elif question.refuse and not sections and is_refusal(reply, question.language):
        outcome = "declined"
    return Verdict(question, reply, sections, outcome)


def is_refusal(reply: str, language: str) -> bool:
    """Return True for a reply that declines in a language, and names the way out."""
    if WAY_OUT[language] not in reply:
        return False
    found = detect_language(_NAMES.sub("", reply))
    return found is not None and found.code == language


def _is_accepted(question: Question, reply: str) -> bool:
    text = _MARK.sub("", reply)
    accept = _fill(question.accept)
    is_right = re.search(accept, text, re.IGNORECASE) is not None
    is_wrong = re.search(question.forbid, text, re.IGNORECASE) is not None
    return is_right and not is_wrong and (not question.test or _passes(reply, question.test))


def _fill(pattern: str) -> str:
    """Return a pattern with the date of today."""
    return pattern.replace(
        "{today}", datetime.datetime.now(datetime.UTC).date().isoformat()
    ).replace("{time}", r"\d\d:\d\d")


def _passes(reply: str, test: str) -> bool:
    """Return True when the code in the reply passes its test, in a process of its own."""
    code = reply.partition("```")[2].partition("\n")[2].partition("```")[0]
    try:
        defined = [n.name for n in ast.parse(code).body if isinstance(n, ast.FunctionDef)]
    except SyntaxError:
        return False
    if not defined:
        return False
    program = f"{code}\nf = {defined[0]}\n{test}\n"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=20)
    return done.returncode == 0


def render_table(verdicts: list[Verdict]) -> str:
    """Return the replies as a table in Markdown."""
    rows = ["| # | question | reply | |", "| ---: | --- | --- | --- |"]
    for number, verdict in enumerate(verdicts, 1):
        asked, said = (_shorten(text) for text in (verdict.question.text, verdict.reply))
        rows.append(f"| {number} | {asked} | {said} | {verdict.outcome} |")
    return "\n".join(rows) + "\n"


def _shorten(text: str) -> str:
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN].rstrip()} …"
