"""Reply: how ``palaver chat`` prints one reply."""

import sys
from collections.abc import Iterable
from typing import Any

from palaver.cli.console import echo
from palaver.cli.markdown import Run
from palaver.cli.markdown_stream import MarkdownStream

EXPECTED = "expected"
"""In place of the id of a call that is not known yet."""


class Reply:
    """The text of a reply, printed as it arrives once the skill is known, and notes on lines of
    their own.

    A terminal shows its Markdown; a file or pipe gets it as the skill wrote it. ``is_shown``: the
    beginning ``text`` was printed by another process, or before the connection was reset.
    """

    def __init__(self, text: str = "", *, is_shown: bool = False) -> None:
        self.text = text
        self.is_shown = is_shown
        self._held = ""
        """Text that came while calls ran."""
        self._calls: set[str] = set()
        """Ids of the calls of tools that run."""
        self._gap = "\n"
        """Line breaks between what is printed and a note."""
        self._markdown = MarkdownStream() if sys.stdout.isatty() else None
        if is_shown and self._markdown is not None:
            self._markdown.feed(text)  # what follows may be within its last block

    def show(self, label: str) -> None:
        """Print ``label`` and the text that has come before."""
        self.is_shown = True
        write(label, dim=True)
        self._print_or_hold(self.text)

    def add(self, text: str) -> None:
        self.text += text
        if self.is_shown:
            self._print_or_hold(text)

    def _print_or_hold(self, text: str) -> None:
        """Print ``text``. While a tool runs it waits: text may arrive before the end of the call
        that it follows, since only events wait for the ledger."""
        if self._calls:
            self._held += text
        else:
            self._print(text)

    def note(self, text: str, **style: Any) -> None:  # Any: click's own
        """Print a line of its own."""
        write(f"{self._gap}{text}\n", **style)
        self._gap = ""

    @property
    def ends_with_note(self) -> bool:
        return not self._gap

    def expect_call(self) -> None:
        """Let text wait for the next call: the reply begins with what an approval has decided."""
        self._calls.add(EXPECTED)

    def begin_call(self, call: str, note: str) -> None:
        """Print that the call of a tool begins."""
        self.note(note, dim=True)
        self._calls.add(call)
        self._calls.discard(EXPECTED)

    def end_call(self, call: str, note: str, **style: Any) -> None:  # Any: click's own
        """Print what has come of a call, then the text that waited for it."""
        self.note(note, **style)
        self._calls -= {call, EXPECTED}
        if not self._calls:
            self._release()

    def end(self) -> None:
        """Print what waits for a call or for more text."""
        self._release()
        if self.is_shown and self._markdown is not None:
            self._write(self._markdown.end())

    def _release(self) -> None:
        held, self._held = self._held, ""
        self._print(held)

    def _print(self, text: str) -> None:
        self._write([Run(text)] if self._markdown is None else self._markdown.feed(text))

    def _write(self, runs: Iterable[Run]) -> None:
        for run in runs:
            text = run.text
            if not self._gap and self._markdown is not None:  # one empty line after a note
                text = text.lstrip("\n")
                text = text and f"\n{text}"
            if text:
                write(text, **dict(run.style))
                self._gap = "\n" if text.endswith("\n") else "\n\n"


def write(text: str, **style: Any) -> None:  # Any: click's own
    echo(text, keep_lines=True, nl=False, **style)
