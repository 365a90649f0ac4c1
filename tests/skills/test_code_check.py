"""The check of code in a reply: silent about good code, and about what it cannot know."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proof_settings import short_or_long

from palaver_skills.code_check import close_fence, find_python_error, read_fences

NAMES = ("python", "python3", "py")


def check(text: str) -> str:
    return find_python_error(text, NAMES)


def block(code: str) -> str:
    return f"```python\n{code}\n```\nIt works."


GOOD = [
    "",
    "x = 1",
    "def add(a, b):\n    return a + b",
    "async def main():\n    await run()",
    "await fetch()  # top-level",
    "async with session() as s:\n    print(s)",
    "match command:\n    case [x, y]:\n        print(x)",
    "type Pair[T] = tuple[T, T]",
    "def first[T](items: list[T]) -> T:\n    return items[0]",
    "class Box[T]:\n    item: T",
    "try:\n    x()\nexcept* ValueError as e:\n    pass",
    "try:\n    x()\nexcept A, B:\n    pass",
    'print(f"{d["key"]}")',
    "print(f\"{'\\n'.join(lines)}\")",
    'print(f"{\n    x\n}")',
    'print(f"{d["("]}")',
    'print(t"hello {name}")',
    'print(f"{{not a field}} {x!r:>{width}}")',
    "[*x for x in rows]",
    'print "hello"',
    'print >>sys.stderr, "x"',
    'exec "x = 1" in ns',
    "raise ValueError, 'old'",
    "x = `repr`\nif x <> 3: pass",
    "mode = 0777",
    ">>> 1 + (\n... 2)\n3\n>>> it's",
    "def f():\n    '''Doc.\n\n    >>> f()\n    It's (\n    '''",
    "$ python x.py\nIt's done (",
    "$ pip install x",
    "!pip install x\nimport x",
    "%timeit f(",
    "%%bash\necho it's (",
    "df?\n?df",
    "In [1]: x = (\nOut[1]: it's",
    'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: it\'s (',
    "- x = (\n+ x = 1",
    "@@ -1 +1 @@\n-foo(\n+bar",
    "diff --git a/x b/x\nindex 1..2\n(",
    "print('hi')\nIt's 5 o'clock (",
    "print(menu)\n1) Add\n2) Quit",
    "print(x)\nHello there World (again",
    "foo(a, ...)",
    "def f(x): ...",
    "class A: pass",
    "class A:\n    ...\n\n    def g(self):\n        ...",
    "def a(self):\ndef b(self):",
    "def f():\n    # your code here\n\nprint(f())",
    "if x:\n# note\n    print(x)",
    "    return x",
    "    def method(self):\n        return 1\n\n    def other(self):\n        return 2",
    "else:\n    pass",
    "if x: y = 3",
    "if (n := len(a)) > 10: pass",
    "while x == 1 or y <= 2 and z != 3 and w >= 4:\n    pass",
    "if x and \\\n   y:\n    pass",
    "x = {\n  'a': [1, 2, (3,)],\n}",
    'x = """\n( [ {\n"""',
    "x = r'\\d(' + b'\\x00' + rb\"\\'\"",
    "x = 'it\\'s' \"(\" # it's (",
    "x = 'a' \\\n    'b'",
    "text = '''don't (\n\n\"\"\" '''",
    "items = [x for x in y if x]\nprint(items[1:2], {1: 2})",
    "lambda x: (yield)",
    "for i, (a, b) in enumerate(zip(x, y)):\n    print(i)",
    "with (open(a) as f, open(b) as g):\n    pass",
    "@decorator\ndef f(\n    a,\n    b,\n):\n    pass",
    "x = 1 if y else 2\nassert x, 'no'",
    "print('''a\n  b''')\n\tpass",
    "naïve = 'ünï'; 变量 = 1",
    "x\r\nif x:\r\n    y()\r",
    "\x00",
    "(" * 300 + ")" * 300,
    "-" * 3000 + "1",
    "a" + ".b" * 3000,
    "not " * 3000 + "x",
]


@pytest.mark.parametrize("code", GOOD)
def test_good_code_and_what_is_no_program_get_no_note(code: str) -> None:
    assert check(block(code)) == ""
    assert close_fence(block(code), is_cut=False) == ""


@pytest.mark.parametrize(
    "text",
    [
        "```\nx = (\n```",
        "```js\nlet x = (\n```",
        "```text\nit's (\n```",
        "It's (fine).",
        "    x = (\n",
        "`x = (` is not closed",
        "1. Do this:\n   ```python\n   if x:\n       y()\n   ```\n2. Done.",
        "> ```python\n> if x:\n>     y()\n> ```",
        '```python\ndef f():\n    """Use it:\n\n    ```\n    f(\n    ```\n    """\n```\nDone.',
        '```python\nDOC = """\n```\nf(\n```\n"""\n```\nDone.',
        '```python\ndef f():\n  """\n```python\nf()\n```\n  """\n```',
        "~~~python\nx = '```'\n~~~",
        "````python\nx = '''\n```\n'''\n````",
        "First\n```python\nfoo(\n```\nthen\n```python\n  1)\n```",
        "```python\nfoo(\n```\nand\n```bash\nls\n```",
    ],
)
def test_other_blocks_and_parts_get_no_note(text: str) -> None:
    assert check(text) == ""


BROKEN = [
    ("x = (", "line 1: '(' was never closed"),
    ("print('a'\ny = 2", "line 1: '(' was never closed"),
    ("x = [1, 2\n\ndef f():\n    pass", "line 1: '[' was never closed"),
    ("x = {'a': 1", "line 1: '{' was never closed"),
    ("def f(a:\n    return a", "line 1: '(' was never closed"),
    ("x = (1, 2]", "line 1: closing ']' does not match opening '('"),
    ("y = 0\nx = foo(a[1)]", "line 2: closing ')' does not match opening '['"),
    ("x = foo(a))", "line 1: unmatched ')'"),
    ("x = 'abc", "line 1: unterminated string literal"),
    ('y = 1\nprint("hello)', "line 2: unterminated string literal"),
    ('x = """abc\n', "line 1: unterminated triple-quoted string literal"),
    ("def add(a, b)\n    return a", "line 1: expected ':'"),
    ("x = 1\nfor i in range(3)\n    print(i)", "line 2: expected ':'"),
    ("class A\n    x = 1", "line 1: expected ':'"),
    ("if x > 1\n    y()\nelse:\n    z()", "line 1: expected ':'"),
    ("if x:\n    y()\nelse if z\n    w()", "line 3: expected ':'"),
    ("try\n    x()\nexcept E:\n    pass", "line 1: expected ':'"),
    ("while (a and\n       b)\n    x()", "line 1: expected ':'"),
    ("for i in x:\nprint(i)", "line 1: expected an indented block"),
    ("def f():\nreturn 1", "line 1: expected an indented block"),
    ("if x = 3:\n    y()", "line 1: '=' in a condition; perhaps '==' is meant"),
    ("(" * 5000, "line 1: '(' was never closed"),
]


@pytest.mark.parametrize(("code", "problem"), BROKEN)
def test_broken_code_gets_a_note(code: str, problem: str) -> None:
    assert check(block(code)) == problem
    indented = block(code).replace("\n", "\n   ")
    assert check(f"1. {indented}") == problem


def test_what_is_wrong_in_any_part_is_noted_beside_other_blocks() -> None:
    assert check("```python\ndef f(a)\n    pass\n```\nRun it:\n```sh\nls\n```") != ""


@pytest.mark.slow
@settings(max_examples=short_or_long(200, 10_000), deadline=None)
@given(st.text(st.sampled_from("ab(){}[]'\"\\\n #:=f\x00\r`~>- 1é")) | st.text())
def test_any_text_is_checked_without_an_error(text: str) -> None:
    check(block(text))
    check(text)
    close_fence(text, is_cut=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["(", "x ", "'", "if x:\n", "a.b", "\\", '"""', "f'{", "# \n", "\n"]
)
def test_long_code_is_checked_as_well(unit: str) -> None:
    check(block(unit * (150_000 // len(unit))))
    assert check(block("x = (" + unit * 300_000)) == ""


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("```py\nx\n```", ""),
        ("```py\nx", "\n```"),
        ("```py\nx\n", "```"),
        ("````md\n```py\nx\n```\n", "````"),
        ("~~~\n```\n~~~", ""),
        ("no code at all", ""),
        ("```py\nx\n```\nand\n```py\ny\n", "```"),
        ("- ```py\n  x", "\n  ```"),
        ("> ```py\n> x", "\n> ```"),
        ("a ``` b", ""),
        ("    ```\n", ""),
    ],
)
def test_open_fences_are_closed_where_they_are(text: str, end: str) -> None:
    assert close_fence(text, is_cut=False) == end
    assert close_fence(text, is_cut=True).partition("\n\nNote: the code breaks off")[0] == end
    assert [fence.is_open for fence in read_fences(text + end)].count(True) == 0


@pytest.mark.parametrize(
    "text", ['```python\n"""\n```\nf()\n```\n"""\n```', "```md\n```py\nx\n```\nend\n```"]
)
def test_a_stray_mark_at_the_end_is_not_said_to_be_cut_code(text: str) -> None:
    assert close_fence(text, is_cut=False) == ""
