"""Replies as people see them on Slack and Discord, for random Markdown.

Whatever a model writes: no message is over the platform's limit, each block of code ends in the
message in which it stands, every word is shown once and in order, and nobody is mentioned.
"""

import dataclasses
import html
import itertools
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from tests.chaos.findings import Findings
from tests.proof_settings import SEED, short_or_long
from tests.proofs.random_markdown import WORD, Document, random_document, random_soup
from tests.proofs.report import FigureValue, PropertyResult, Report

from palaver.platforms import WORD_BREAK, Dialect, Part, render, split
from palaver.platforms.splitting import WHOLE
from palaver.testing.fakes.discord.markdown import render_markdown
from palaver.testing.fakes.slack.html import markdown_html
from palaver_plugins.channels.discord.markdown import DiscordDialect, utf16_length
from palaver_plugins.channels.discord.platform import MAX_LENGTH
from palaver_plugins.channels.slack.slack_markdown import SlackDialect

PROPERTY = "markdown"
CASES = short_or_long(2_000, 1_000_000)
BATCH = 250
SOUP_SHARE = 0.2
SMALL_LIMITS = (250, 600)
"""Besides the platform's own limit, so that short texts are cut, too."""
AFTER = "Afterwards"
_TAG = re.compile(r"<[^<>]*>")
_CODE_BLOCK = re.compile(r"<pre>.*?</pre>", re.DOTALL)

_DISCORD_CODE = re.compile(r"```.*?```", re.DOTALL)

Fits = Callable[[str], bool]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A platform: how replies are written for it, and how people see that."""

    dialect: Dialect
    limit: int
    to_html: Callable[[str], str]
    mention: re.Pattern[str]
    code: Callable[[str], str]
    """Returns the blocks of code in a text."""
    split: Callable[[str, Fits, int, Part], list[Part]] = split
    length: Callable[[str], int] = utf16_length

    def render(self, source: str) -> str:
        return render(source, self.dialect)


def _slack_html(text: str) -> str:
    return markdown_html(text, lambda entity: entity)


def _discord_html(text: str) -> str:
    return render_markdown(text, lambda sign, id: f"{sign}{id}")


def _slack_code(text: str) -> str:
    return "".join(_CODE_BLOCK.findall(_slack_html(text)))


def _discord_code(text: str) -> str:
    return "".join(_DISCORD_CODE.findall(text))


VIEWS = {
    "slack": View(
        dialect=SlackDialect(),
        limit=10_000,
        to_html=_slack_html,
        mention=re.compile("<[@#!]"),
        code=_slack_code,
    ),
    "discord": View(
        dialect=DiscordDialect(),
        limit=MAX_LENGTH,
        to_html=_discord_html,
        code=_discord_code,
        mention=re.compile(r"<(?:@[!&]?|#)\d+>|<a?:\w+:\d+>|<t:-?\d+(?::\w)?>|@everyone|@here"),
    ),
}


# One case


def check_case(number: int, views: Sequence[View]) -> Findings:
    """Return what is wrong with a case on any platform."""
    rng = random.Random(f"{SEED} {number}")
    is_soup = rng.random() < SOUP_SHARE
    document = Document(random_soup(rng)) if is_soup else random_document(rng)
    findings = Findings()
    for view in views:
        limit = rng.choice((*SMALL_LIMITS, view.limit))
        for kind, problem in _problems(document, view, limit, rng):
            findings.record(
                kind, f"case {number}, {type(view.dialect).__name__}, {limit}: {problem}"
            )
    return findings


def _problems(
    document: Document, view: View, limit: int, rng: random.Random
) -> Iterator[tuple[str, str]]:
    parts = grow(document.source, view, limit, rng)
    rendered = [view.render(part.source(document.source)) for part in parts]
    for text in rendered:
        yield from _text_problems(text, view, limit)
    pages = [view.to_html(text) for text in rendered]
    yield from _word_problems(document, WORD.findall(" ".join(map(_visible, pages))))
    yield from _code_problems(document, "".join(map(view.code, rendered)))


def grow(source: str, view: View, limit: int, rng: random.Random) -> list[Part]:
    """Return the parts of a text that is split again and again while it is written."""

    def fits(part: str) -> bool:
        return view.length(view.render(part)) <= limit

    ends = sorted(rng.randint(0, len(source)) for _ in range(rng.choice((0, 0, 1, 4))))
    parts = [WHOLE]
    for end in [*ends, len(source)]:
        parts[-1:] = view.split(source[:end], fits, limit, parts[-1])
    return parts


def _text_problems(text: str, view: View, limit: int) -> Iterator[tuple[str, str]]:
    if len(text.encode("utf-16-le")) > 2 * limit:
        yield "wrong", f"a message has {len(text)} characters"
    if found := view.mention.search(text):
        yield "wrong", f"a message mentions {found[0]!r}"
    page = view.to_html(f"{text}\n\n{AFTER}").strip()
    if not page.endswith(f"<p>{AFTER}</p>"):
        yield "wrong", f"something is not closed: {text[-80:]!r}"


def _word_problems(document: Document, shown: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, count in Counter(shown).items():
        if count > 1 and word not in document.heads:
            yield "duplicated", f"{word} is shown {count} times"
    for word in set(document.words) - set(shown):
        yield "lost", word
    known = [word for word in document.words if word not in document.heads]
    ordered = [word for word in dict.fromkeys(shown) if word not in document.heads]
    if ordered != known and set(ordered) == set(known):
        first = next(each for each in zip(ordered, known, strict=True) if each[0] != each[1])
        yield "reordered", f"{first[0]} in place of {first[1]}"


def _code_problems(document: Document, blocks: str) -> Iterator[tuple[str, str]]:
    code = set(WORD.findall(blocks))
    if outside := document.code - code:
        yield "wrong", f"code is shown as text: {sorted(outside)[:3]}"
    text = set(document.words) - document.code - document.perhaps_code
    if inside := code & text:
        yield "wrong", f"text is shown as code: {sorted(inside)[:3]}"


def _visible(page: str) -> str:
    return html.unescape(_TAG.sub("", page))


# Many cases


def check_range(first: int, end: int, views: Sequence[View]) -> Findings:
    findings = Findings()
    for number in range(first, end):
        findings.merge(check_case(number, views))
    return findings


def check_side_by_side(cases: int) -> Findings:
    """Check cases in as many processes as there are cores."""
    findings, views = Findings(), tuple(VIEWS.values())
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        firsts = range(0, cases, BATCH)
        ends = [min(first + BATCH, cases) for first in firsts]
        for found in pool.map(check_range, firsts, ends, itertools.repeat(views)):
            findings.merge(found)
    return findings


def test_what_people_see_of_random_markdown(report: Report) -> None:
    findings = check_side_by_side(CASES)
    figures: dict[str, FigureValue] = {"cases": CASES, "platforms": len(VIEWS)}
    report.add(PropertyResult(property=PROPERTY, findings=findings, figures=figures))
    assert findings.is_clean, findings


class TrustingSlack(SlackDialect):
    """Mutant that leaves mentions together."""

    def text(self, text: str) -> str:
        return super().text(text).replace(WORD_BREAK, "")


class TrustingDiscord(DiscordDialect):
    """Mutant that leaves mentions together in code."""

    def code(self, text: str) -> str:
        return text


class OpenCode(DiscordDialect):
    """Mutant that writes a fence in code as it is."""

    def code_block(self, content: str, language: str) -> str:
        return f"```{language}\n{self.code(content)}\n```"


class BareLinks(SlackDialect):
    """Mutant that shows the address of a link in place of its text."""

    def link(self, text: str, url: str) -> str:
        return self.autolink(url)


def split_without_prefixes(text: str, fits: Fits, limit: int, last: Part = WHOLE) -> list[Part]:
    """Mutant that does not open code again."""
    return [part._replace(prefix="") for part in split(text, fits, limit, last)]


def split_without_indents(text: str, fits: Fits, limit: int, last: Part = WHOLE) -> list[Part]:
    """Mutant that leaves the spaces of a list."""
    return [part._replace(indent=0) for part in split(text, fits, limit, last)]


SLACK, DISCORD = VIEWS["slack"], VIEWS["discord"]
MUTANTS = {
    "mentions in text": (dataclasses.replace(SLACK, dialect=TrustingSlack()), "wrong"),
    "mentions in code": (dataclasses.replace(DISCORD, dialect=TrustingDiscord()), "wrong"),
    "text of links": (dataclasses.replace(SLACK, dialect=BareLinks()), "lost"),
    "fences in code": (dataclasses.replace(DISCORD, dialect=OpenCode()), "wrong"),
    "code not opened again": (dataclasses.replace(SLACK, split=split_without_prefixes), "wrong"),
    "indent of lists kept": (dataclasses.replace(DISCORD, split=split_without_indents), "wrong"),
    "length in code points": (dataclasses.replace(DISCORD, length=len), "wrong"),
}
MAX_MUTANT_CASES = 2_000


@pytest.mark.parametrize("mutation", MUTANTS)
def test_mutants_are_detected(mutation: str, report: Report) -> None:
    view, kind = MUTANTS[mutation]
    cases = (check_case(number, [view]) for number in range(MAX_MUTANT_CASES))
    is_detected = any(getattr(findings, kind) for findings in cases)
    report.add_mutant(PROPERTY, is_detected, mutation)
    assert is_detected
