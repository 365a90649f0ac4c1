"""Cleaning of a model's translation: what it says beside the translation, and its lines."""

import re

from palaver_skills.instructions import strip_quotes

_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)
"""What a model thinks before it translates."""
_OPENING = re.compile(
    r"[*_#\s]{0,5}(?:sure|certainly|of course|okay|here(?:['’]s| is| are)"
    r"|(?:the )?translat(?:ion|ed text)|hier ist|(?:die )?übersetzung|voici|(?:la )?traduction"
    r"|aquí (?:está|tienes)|(?:la )?traducción|ecco|(?:la )?traduzione"
    r"|以下是|译文|翻译)[^\n:：]{0,80}[:：][*_]{0,3}\s*",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"\W{0,3}(?:(?:please )?note|let me know|i hope|if you|feel free|hinweis|anmerkung"
    r"|remarque|nota)\b",
    re.IGNORECASE,
)
_FENCED = re.compile(r"```[^\n`]*\n([^`]*)```")
_BLOCK = re.compile(r"[-+*>](?=\s)|#{1,6}(?=\s)|\d{1,9}(?=[.)]\s)|(?=```|~~~|[-=]{2,}$)")
"""The beginning of a line that would begin another block."""


def clean_reply(written: str, source: str) -> str:
    """Return the translation of ``source`` alone, in as many lines at most; never an empty one."""
    text = written.strip()
    if thought := _THOUGHT.match(text):
        text = text[thought.end() :].strip()
    if fenced := _FENCED.fullmatch(text):
        text = fenced[1].strip()
    if _count_colons(text) > _count_colons(source) and (opening := _OPENING.match(text)):
        text = text[opening.end() :]
    body, _, last = text.rpartition("\n\n")
    if body.strip() and _CLOSING.match(last):
        text = body
    if strip_quotes(source) == source:
        text = strip_quotes(text)
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    breaks = source.count("\n")
    lines = [*lines[:breaks], " ".join(lines[breaks:])]
    if not any(map(_BLOCK.match, source.split("\n"))):
        lines = [_escape(line) for line in lines]
    return "\n".join(filter(None, lines)) or source


def _count_colons(text: str) -> int:
    return text.count(":") + text.count("：")


def _escape(line: str) -> str:
    """Return a line that begins no other block."""
    block = _BLOCK.match(line)
    if block is None:
        return line
    at = block.end() if line[0].isdigit() else 0
    return f"{line[:at]}\\{line[at:]}"
