"""Only text that stays is streamed, and what stays is not held back for long."""

import itertools

import pytest
from hypothesis import given
from tests.skills.markdown_strategies import markdown

from palaver.platforms import render
from palaver_plugins.channels.slack.slack_markdown import SlackDialect
from palaver_plugins.channels.slack.stable_text import stable_text

pytestmark = pytest.mark.slow

SLACK = SlackDialect()

STABLE = {
    "": "",
    "A wor": "A wor",
    "A sentence.": "A sentence.",
    "Some **bold": "Some",
    "Some **bold** text": "Some **bold** text",
    "Some *it": "Some",
    "It is 2 * 3": "It is 2 \\* 3",
    "a_name_in_code": "a\\_name\\_in\\_code",
    "some _it": "some",
    "~5 or ~~6": "\\~5 or",
    "is `code": "is",
    "see [the docs](http://x": "see",
    "see [1]": "see",
    "see [1].": "see \\[1\\].",
    "see <http://x": "see",
    "a < b": "a \\< b",
    "AT&am": "AT",
    "AT&T has": "AT\\&T has",
    "path\\": "path",
    "**open\n\nNext": "\\*\\*open\n\nNext",
    "- **bold\n- next": "- \\*\\*bold\n- next",
    "# Head": "# Head",
    "#": "",
    "- one\n-": "- one",
    "- one\n2": "- one",
    "1. one\n- [": "1. one",
    "- [x] done": "☑ done",
    "| a | b |": "",
    "a | b": "",
    "Text\n\n| a | b |\n|---|---|\n| 1 | 2": "Text\n\n| a | b |\n| --- | --- |",
    "Look:\n\n```py\nx = '**'": "Look:\n\n```py\nx = '**'",
    "Look:\n\n```py\nx\n```": "Look:\n\n```py\nx\n```",
    "Look:\n\n```py": "Look:\n\n```py",
    "Look:\n\n```": "Look:\n\n```",
    "- in a list:\n  ```\n  x": "- in a list:\n  ```\n  x",
    "    indented": "```\nindented",
}


@pytest.mark.parametrize(("source", "stable"), STABLE.items(), ids=range(len(STABLE)))
def test_what_stays_of_a_text(source: str, stable: str) -> None:
    assert stable_text(render(source, SLACK), source) == stable


REPLY = """Here is a **bold statement that goes on for a while** and `code_span` with *emphasis*.

## Steps to *follow*

1. First, open `app.py` and change **two** things:
   - the name_of_the_thing
   - the [link to docs](https://example.org/a_b?c=1&d=2) there
2. Then run:

   ```python
   def f(x):
       return x ** 2  # **not bold**

   print(f"{x}")
   ```

3. Third item [1], see [2].

| name | value |
|------|:-----:|
| a    | 1 \\| 2 |
| b_c  | `x`   |

> quoted *text* here
> second line

- [ ] todo one
- [x] done two

Final: 2 * 3 = 6, a < b, AT&T, snake_case_name, ~5 and ~~gone~~. Also <https://x.org>!

```
plain code
```

这是**粗体**和一个[链接](https://x.org)。
"""


@pytest.mark.parametrize("step", [1, 2, 3, 7, 40])
def test_what_is_streamed_of_a_growing_reply_stays(step: int) -> None:
    """It may be read wrongly for a moment, but not for as long as a line."""
    sent, wrong, lags = "", 0, []
    for end in [*range(step, len(REPLY), step), len(REPLY)]:
        text = render(REPLY[:end], SLACK)
        wrong = 0 if text.startswith(sent) else wrong + 1
        assert wrong * step < 25
        stable = stable_text(text, REPLY[:end])
        if stable.startswith(sent):
            sent = stable
        lags.append(len(text) - len(sent))
    assert render(REPLY, SLACK).startswith(sent)
    assert sum(lags) / len(lags) < 15


@given(markdown())
def test_what_stays_is_the_beginning_of_the_text(source: str) -> None:
    text = render(source, SLACK)
    assert text.startswith(stable_text(text, source))


@pytest.mark.parametrize("mark", ["*", "_", "`", "[", "|", "<", "\\", "~~", "- ", "\n- a", "\n"])
def test_a_long_text_of_marks_takes_no_time(mark: str) -> None:
    text = render("x " + mark * 5_000, SLACK)
    assert text.startswith(stable_text(text, mark))


def test_marks_before_an_empty_line_are_text() -> None:
    marks = ["**a", "`a", "[a", "_a", "~~a", "<a"]
    for first, second in itertools.pairwise(marks):
        source = f"{first}\n\n{second}\n\nEnd"
        text = render(source, SLACK)
        assert stable_text(text, source) == text
