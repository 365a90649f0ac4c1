"""Random Markdown in which each word that people see is known.

A word such as ``q17x`` is there once, and stands where every reader of Markdown shows it: in text,
in cells of tables, in code, as the text of a link, and never in the address of one. Around the
words stands what makes a renderer stumble: marks without a partner, mentions of both platforms,
entities, letters of several UTF-16 units.
"""

import dataclasses
import random
import re
from collections.abc import Callable

WORD = re.compile(r"q\d+x")
MAX_DEPTH = 3

MENTIONS = (
    "<@U1>",
    "<@U1|ada>",
    "<!channel>",
    "<!subteam^S1>",
    "<#C1>",
    "<@123>",
    "<@!123>",
    "<@&123>",
    "<#123>",
    "<a:wave:123>",
    "<t:1700000000:R>",
    "@everyone",
    "@here",
    "&lt;@U1&gt;",
    "&#60;!here>",
    "&#64;everyone",
    "\\<@123>",
    "<\u200b@U1>",
)
JUNK = (
    "*",
    "**",
    "_",
    "__",
    "~~",
    "`",
    "``",
    "|",
    "||",
    "\\",
    "<",
    ">",
    "[",
    "![",
    ")",
    "&",
    "&amp;",
    "#",
    "1.",
    "-",
    "-#",
    "=",
    ":",
    "😀",
    "👩‍👩‍👧",
    "漢字",
    "é",
    "e\u0301",
    "\u200b",
    "<b>",
    "<!-- x",
    "http://",
    "www.x.example",
    "$x$",
    ":smile:",
)
LANGUAGES = ("", "", "python", "c++", "bad`info", "a b c", "x" * 60)


@dataclasses.dataclass(slots=True)
class Document:
    """A text, and its words in order.

    ``heads`` are words in the heads of tables, which may be repeated; ``code`` those in blocks of
    code; ``perhaps_code`` those that a platform may show as such: in tables, in indented lines.
    """

    source: str = ""
    words: list[str] = dataclasses.field(default_factory=list)
    heads: set[str] = dataclasses.field(default_factory=set)
    code: set[str] = dataclasses.field(default_factory=set)
    perhaps_code: set[str] = dataclasses.field(default_factory=set)


def random_document(rng: random.Random) -> Document:
    """Return a document of up to twelve blocks."""
    writer = _Writer(rng)
    blocks = [writer.block(0) for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 3, 8)))]
    lines = [line for block in blocks for line in (*block, "")]
    if rng.random() < 0.2:
        lines += writer.open_code()
    ending = rng.choice(("\n", "\n", "\n", "\r\n"))
    writer.document.source = ending.join(lines)
    return writer.document


def random_soup(rng: random.Random) -> str:
    """Return marks and mentions without any order."""
    pieces = (
        *MENTIONS,
        *JUNK,
        "```",
        "~~~",
        "\n",
        "\n\n",
        "\n> ",
        "\n- ",
        "\n|---|---|\n",
        "a",
        " ",
    )
    return "".join(rng.choice(pieces) for _ in range(rng.randint(1, 200)))


class _Writer:
    """Writes blocks as lists of lines."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._fence = ""
        self.document = Document()

    def block(self, depth: int) -> list[str]:
        """Return a block; deep within others only a simple one."""
        simple = (self.paragraph, self.paragraph, self.heading, self.code, self.table, self.rule)
        nested: tuple[Callable[[], list[str]], ...] = (
            lambda: self.items(depth),
            lambda: self.items(depth),
            lambda: self.quote(depth),
        )
        return self._rng.choice((*simple, *(nested if depth < MAX_DEPTH else ())))()

    def word(self) -> str:
        words = self.document.words
        words.append(f"q{len(words)}x")
        return words[-1]

    def text(self, longest: int = 4) -> str:
        """Return spans of one line. It begins with a word, so that it begins no other block."""
        spans = [self.word()]
        spans += [self.span() for _ in range(self._rng.randint(0, longest))]
        return " ".join(spans)

    def span(self) -> str:
        rng = self._rng
        kind = rng.randrange(14)
        if kind < 5:
            return self.word()
        if kind < 7:
            return rng.choice(JUNK)
        if kind == 7:
            return rng.choice(MENTIONS)
        if kind == 8:
            return f"https://x.example/{self.word()}?a=_b_*c"
        if kind == 9:
            before = rng.choice(("", "", "\\!", "\\["))
            return f"{before}[{self.word()} {self.word()}](https://x.example/a_b)"
        if kind == 10:
            return f"![{self.word()}](https://x.example/c.png)"
        if kind == 11:
            mark = "`" * rng.choice((1, 1, 2, 3, 4))
            inside = "`" * (len(mark) % 4 + 1) if rng.random() < 0.2 else ""
            return f"{mark} {inside} {self.word()} {inside} {mark}"
        mark = rng.choice(("*", "**", "_", "__", "~~", "***"))
        return f"{mark}{self.word()} {rng.choice(JUNK)} {self.word()}{mark}"

    # Blocks

    def paragraph(self) -> list[str]:
        ending = self._rng.choice(("", "", "  ", "\\"))
        lines = [self.text(8) + ending for _ in range(self._rng.choice((0, 0, 1, 3)))]
        return [*lines, self.text()]

    def heading(self) -> list[str]:
        if self._rng.random() < 0.2:
            return [self.text().replace("|", "/"), self._rng.choice(("===", "---"))]
        return [f"{'#' * self._rng.randint(1, 6)} {self.text()}"]

    def rule(self) -> list[str]:
        return [self._rng.choice(("---", "***", "- - -"))]

    def items(self, depth: int) -> list[str]:
        """Return a list; each item is text, and perhaps another block below it."""
        rng, lines = self._rng, list[str]()
        first = rng.choice((1, 1, 7, 99))
        marks = rng.choice(("- ", "* ", "-   ", "{}. ", "{}) ", "- [x] ", "- [ ] "))
        is_loose = rng.random() < 0.2
        for number in range(rng.choice((1, 2, 2, 4))):
            mark = marks.format(first + number)
            indent = " " * len(mark.split("[")[0])
            content = [self.text()]
            if rng.random() < 0.4:
                content += ["", *self.block(depth + 1)]
            lines += [f"{mark}{content[0]}", *(_indented(line, indent) for line in content[1:])]
            lines += [""] if is_loose else []
        return lines

    def quote(self, depth: int) -> list[str]:
        lines = self.block(depth + 1)
        if self._rng.random() < 0.5:
            lines += ["", *self.block(depth + 1)]
        return [f"> {line}" for line in lines]

    def code(self) -> list[str]:
        """Return code between fences, or indented."""
        if self._rng.random() < 0.2:
            self._fence = ""
            return [f"    {line}" for line in self._code_lines(self.document.perhaps_code)]
        return [*self.open_code(), self._fence]

    def open_code(self) -> list[str]:
        """Return code that is not closed."""
        self._fence = self._rng.choice(("```", "```", "````", "~~~"))
        language = self._rng.choice(LANGUAGES)
        language = language.replace("`", "") if self._fence[0] == "`" else language
        return [f"{self._fence}{language}", *self._code_lines(self.document.code)]

    def _code_lines(self, words: set[str]) -> list[str]:
        lines = list[str]()
        beside = (*MENTIONS, *JUNK, *([] if self._fence == "```" else ["```"]))
        for _ in range(self._rng.choice((1, 1, 2, 4, 20))):
            word = self.word()
            words.add(word)
            lines.append(f"{word} {self._rng.choice(beside)} = 1")
        return lines

    def table(self) -> list[str]:
        rng = self._rng
        columns, longest = rng.randint(2, 4), rng.choice((0, 1, 1, 8))
        before = len(self.document.words)
        lines = [self._row(columns, longest)]
        self.document.heads.update(self.document.words[before:])
        lines += [f"|{' --- |' * columns}"]
        lines += [self._row(columns, longest) for _ in range(rng.choice((0, 1, 2, 3, 12)))]
        self.document.perhaps_code.update(self.document.words[before:])
        return lines

    def _row(self, columns: int, longest: int) -> str:
        cells = [self.text(longest).replace("|", "\\|") for _ in range(columns)]
        return f"| {' | '.join(cells)} |"


def _indented(line: str, indent: str) -> str:
    return f"{indent}{line}" if line else line
