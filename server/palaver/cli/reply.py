"""Reply: how ``palaver chat`` prints one reply."""

import sys
from collections.abc import Iterable
from typing import Any

from palaver.cli.console import echo
from palaver.cli.markdown import Run
from palaver.cli.markdown_stream import MarkdownStream


class Reply:
    """The text of a reply, printed as it arrives once the skill is known.

    A terminal shows its Markdown; a file or pipe gets it as the skill wrote it. ``is_shown``: the
    beginning ``text`` was printed by another process, or before the connection was reset.
    """

    def __init__(self, text: str = "", *, is_shown: bool = False) -> None:
        self.text = text
        self.is_shown = is_shown
        self._markdown = MarkdownStream() if sys.stdout.isatty() else None
        if is_shown and self._markdown is not None:
            self._markdown.feed(text)  # what follows may be within its last block

    def show(self, label: str) -> None:
        """Print ``label`` and the text that has come before."""
        self.is_shown = True
        write(label, dim=True)
        self._print(self.text)

    def add(self, text: str) -> None:
        self.text += text
        if self.is_shown:
            self._print(text)

    def end(self) -> None:
        """Print what waits for more text."""
        if self.is_shown and self._markdown is not None:
            write_runs(self._markdown.end())

    def _print(self, text: str) -> None:
        if self._markdown is None:
            write(text)
        else:
            write_runs(self._markdown.feed(text))


def write_runs(runs: Iterable[Run]) -> None:
    for run in runs:
        write(run.text, **dict(run.style))


def write(text: str, **style: Any) -> None:  # Any: click's own
    echo(text, keep_lines=True, nl=False, **style)
