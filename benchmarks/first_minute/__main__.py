"""Ask the questions of the first minute and judge the replies by the rules beside them.

    python -m benchmarks.first_minute [--write] [NAME]

NAME is a file of this directory: ``questions`` (default), ``development`` or ``held_out``.
``--write`` writes the table into ``docs/first-minute.md``. The server is a real one with its
defaults, the installed model and the example handbook; chat is answered with temperature 0.
"""

import argparse
import datetime
from pathlib import Path

from benchmarks.first_minute.asking import ask_questions, read_questions
from benchmarks.first_minute.judging import Verdict, render_table
from palaver import echo

PAGE = Path(__file__).parents[2] / "docs" / "first-minute.md"
BEGIN, END = "<!-- replies -->\n", "<!-- end of replies -->\n"


def summarize(verdicts: list[Verdict]) -> str:
    """Return the counts of the verdicts as one line."""
    counts = dict.fromkeys(("answered", "declined", "wrong", "wrong, with a citation"), 0)
    for verdict in verdicts:
        counts[verdict.outcome] += 1
    passed = counts["answered"] + counts["declined"]
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return f"{passed} of {len(verdicts)} pass: {told}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", nargs="?", default="questions")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    verdicts = ask_questions(read_questions(options.name))
    for verdict in verdicts:
        if verdict.outcome.startswith("wrong") or options.name == "questions":
            echo(f"{verdict.outcome}: {verdict.question.text[:80]}\n    {verdict.reply[:160]}")
    echo(summarize(verdicts))
    if options.write:
        page = PAGE.read_text("utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        table = f"{today}: {summarize(verdicts)}.\n\n{render_table(verdicts)}"
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
