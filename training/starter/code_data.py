"""Small functions: generated families of Python and JavaScript code, with checks.

A request is made of a family (what to compute), a phrasing and names. Most families combine
parts (which numbers, what of them), and some combinations are kept for measuring.
"""

# ruff: noqa: E501 (tables of texts read better with one entry to a line)

from __future__ import annotations

import ast
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from training.starter import corpus
from training.starter.groups import Group, Turn, hash_fraction, seeded_random

from palaver_skills import prompts

HELD_OUT_SHARE = 0.12
"""Share of the tasks that are kept for measuring."""

CODE_TIMEOUT_SECONDS = 10.0
"""Time limit of one generated function in its own process."""

Check = tuple[tuple[Any, ...], Any]


@dataclass(frozen=True, slots=True)
class Task:
    """One function to write: its purpose in words, its code, and calls with their results."""

    goal: str
    name: str
    parameter: str
    body: str
    explanation: str
    checks: tuple[Check, ...]
    language: str = "Python"
    combined: bool = False

    @property
    def is_held_out(self) -> bool:
        """Return whether this task is kept for measuring."""
        shown = corpus.resembles_example(f"Write a function that {self.goal}.")
        return shown or (self.combined and hash_fraction(self.goal) < HELD_OUT_SHARE)


# Numbers to pick from a list `{p}`: words, name, condition on x.
FILTERS = (
    ("", "", ""),
    ("even ", "even", "x % 2 == 0"),
    ("odd ", "odd", "x % 2 == 1"),
    ("positive ", "positive", "x > 0"),
    ("negative ", "negative", "x < 0"),
)
BOUNDS = (
    ("greater than {n}", "above_{n}", "x > {n}"),
    ("smaller than {n}", "below_{n}", "x < {n}"),
    ("divisible by {n}", "divisible_by_{n}", "x % {n} == 0"),
)
# What is made of them: words, name, expression over the generator or list `{g}` / `{l}`.
AGGREGATES = (
    ("the sum of", "sum", "sum({g})", "sum"),
    ("the number of", "count", "len({l})", "count"),
    ("the largest of", "largest", "max({g})", "maximum"),
    ("the smallest of", "smallest", "min({g})", "minimum"),
    ("a list of", "keep", "{l}", "list"),
    ("the average of", "average", "sum({l}) / len({l})", "average"),
    ("the squares of", "squares_of", "{square}", "squares"),
    ("a sorted list of", "sorted", "sorted({g})", "sorted list"),
)
NUMBERS = ([1, 2, 3, 4, 5, 6], [-4, 7, 10, -3, 12, 15, 5, -9], [3, 9, 20, 6, -2, -7, 11])
LIST_NAMES = ("numbers", "values", "items", "data", "nums")


def number_tasks() -> Iterator[Task]:
    """Yield every aggregate of every choice of numbers."""
    picks = [(f"the {words}numbers in a list", name, test) for words, name, test in FILTERS]
    for limit in (2, 3, 4, 5, 7, 10):
        for words, name, test in BOUNDS:
            picks.append(
                (
                    f"the numbers in a list that are {words.format(n=limit)}",
                    name.format(n=limit),
                    test.format(n=limit),
                )
            )
    for goal, name, expression, noun in AGGREGATES:
        for what, pick, test in picks:
            yield _number_task(
                f"returns {goal} {what}", f"{name}_{pick or 'numbers'}", expression, noun, test
            )


def _number_task(goal: str, name: str, expression: str, noun: str, test: str) -> Task:
    condition = f" if {test}" if test else ""
    plain = "{p}" if not test else f"(x for x in {{p}}{condition})"
    body = "return " + expression.format(
        g=plain if not test else plain[1:-1],
        l="list({p})" if not test else f"[x for x in {{p}}{condition}]",
        square=f"[x * x for x in {{p}}{condition}]",
    )
    which = {"": "all numbers"}.get(test, f"the numbers with `{test}`")
    explanation = f"It returns the {noun} of {which}."
    checks = _results(body, NUMBERS)
    return Task(goal, name, "numbers", body, explanation, checks, combined=bool(test))


def _results(body: str, inputs: Any, parameter: str = "numbers") -> tuple[Check, ...]:
    """Compute the expected results by running the reference body."""
    space: dict[str, Any] = {}
    code = f"def f({parameter}):\n" + indent(body.replace("{p}", parameter))
    exec(code, space)
    found: list[Check] = []
    for value in inputs:
        try:
            found.append(((value,), space["f"](value)))
        except (ValueError, ZeroDivisionError):
            continue
    return tuple(found)


def indent(body: str) -> str:
    """Indent a body by four spaces."""
    return "\n".join("    " + line if line else line for line in body.splitlines())


TEXTS = ("Hello World", "level", "a quick test of it", "Banana", "")
WHOLE = (0, 1, 2, 7, 10, 15, 28, 97)
LISTS: tuple[list[int], ...] = ([3, 1, 2, 3], [5], [1, 2, 2, 5, 5, 5], [])
FULL = ([3, 1, 2, 3], [5], [1, 2, 2, 5, 5, 5])
WORD_LISTS = (["pear", "fig", "banana"], ["a"], ["tree", "sun", "Moon", "tree"])
DICTS = ({"a": 3, "b": 9}, {"x": 1}, {"k": 2, "l": 8, "m": 5})

# goal ("returns ..."), name, parameter, body, explanation, inputs
SINGLES: tuple[tuple[str, str, str, str, str, Any], ...] = (
    (
        "reverses a string",
        "reverse_string",
        "text",
        "return {p}[::-1]",
        "It returns the characters of the text from last to first.",
        TEXTS,
    ),
    (
        "checks whether a number is prime",
        "is_prime",
        "n",
        "if {p} < 2:\n    return False\nfor i in range(2, int({p} ** 0.5) + 1):\n    if {p} % i == 0:\n        return False\nreturn True",
        "It tries every divisor up to the square root.",
        WHOLE,
    ),
    (
        "counts the vowels in a string",
        "count_vowels",
        "text",
        'return sum(1 for char in {p}.lower() if char in "aeiou")',
        "It counts the letters a, e, i, o and u.",
        TEXTS,
    ),
    (
        "counts the words in a string",
        "count_words",
        "text",
        "return len({p}.split())",
        "It splits the text at spaces and counts the parts.",
        TEXTS,
    ),
    (
        "returns the factorial of a number",
        "factorial",
        "n",
        "result = 1\nfor i in range(2, {p} + 1):\n    result *= i\nreturn result",
        "It multiplies the numbers from 1 to n.",
        WHOLE[:6],
    ),
    (
        "returns the n-th Fibonacci number",
        "fibonacci",
        "n",
        "a, b = 0, 1\nfor _ in range({p}):\n    a, b = b, a + b\nreturn a",
        "It adds the last two numbers n times.",
        WHOLE[:6],
    ),
    (
        "returns the fizzbuzz word for a number",
        "fizzbuzz",
        "n",
        'if {p} % 15 == 0:\n    return "FizzBuzz"\nif {p} % 3 == 0:\n    return "Fizz"\nif {p} % 5 == 0:\n    return "Buzz"\nreturn str({p})',
        "It checks whether the number is divisible by 3, by 5 or by both.",
        WHOLE,
    ),
    (
        "returns the key with the largest value in a dictionary",
        "key_of_max",
        "mapping",
        "return max({p}, key={p}.get)",
        "It compares the keys by their values.",
        DICTS,
    ),
    (
        "returns the key with the smallest value in a dictionary",
        "key_of_min",
        "mapping",
        "return min({p}, key={p}.get)",
        "It compares the keys by their values.",
        DICTS,
    ),
    (
        "returns the sum of the values in a dictionary",
        "sum_of_values",
        "mapping",
        "return sum({p}.values())",
        "It adds all values of the dictionary.",
        DICTS,
    ),
    (
        "swaps the keys and values of a dictionary",
        "invert",
        "mapping",
        "return {value: key for key, value in {p}.items()}",
        "It makes every value a key and every key a value.",
        DICTS,
    ),
    (
        "sorts the keys of a dictionary by value",
        "keys_by_value",
        "mapping",
        "return sorted({p}, key={p}.get)",
        "It sorts the keys by their values.",
        DICTS,
    ),
    (
        "removes duplicates from a list",
        "unique",
        "items",
        "return list(dict.fromkeys({p}))",
        "It keeps the first of equal items and their order.",
        LISTS,
    ),
    (
        "counts how often each item occurs in a list",
        "count_items",
        "items",
        "counts = {}\nfor item in {p}:\n    counts[item] = counts.get(item, 0) + 1\nreturn counts",
        "It adds one to the count of every item.",
        LISTS,
    ),
    (
        "returns the most common item in a list",
        "most_common",
        "items",
        "return max(set({p}), key={p}.count)",
        "It compares the items by how often they occur.",
        ([1, 2, 2], [5, 5, 5, 1]),
    ),
    (
        "reverses a list",
        "reverse_list",
        "items",
        "return {p}[::-1]",
        "It returns the items from last to first.",
        LISTS,
    ),
    (
        "returns the last item of a list",
        "last_item",
        "items",
        "return {p}[-1]",
        "It uses the index -1, which counts from the end.",
        FULL,
    ),
    (
        "returns the first item of a list",
        "first_item",
        "items",
        "return {p}[0]",
        "It uses the index 0, the first item.",
        FULL,
    ),
    (
        "checks whether a list is sorted",
        "is_sorted",
        "items",
        "return {p} == sorted({p})",
        "It compares the list with its sorted copy.",
        LISTS,
    ),
    (
        "checks whether a list is empty",
        "is_empty",
        "items",
        "return len({p}) == 0",
        "It compares the length with zero.",
        LISTS,
    ),
    (
        "returns the second largest number in a list",
        "second_largest",
        "numbers",
        "return sorted(set({p}))[-2]",
        "It sorts the different numbers and takes the last but one.",
        ([1, 5, 3], [2, 2, 7]),
    ),
    (
        "returns the longest word in a list",
        "longest_word",
        "words",
        "return max({p}, key=len)",
        "It compares the words by their length.",
        WORD_LISTS,
    ),
    (
        "returns the shortest word in a list",
        "shortest_word",
        "words",
        "return min({p}, key=len)",
        "It compares the words by their length.",
        WORD_LISTS,
    ),
    (
        "sorts a list of words by length",
        "sort_by_length",
        "words",
        "return sorted({p}, key=len)",
        "It sorts the words by their length.",
        WORD_LISTS,
    ),
    (
        "joins a list of words with commas",
        "join_words",
        "words",
        'return ", ".join({p})',
        "It puts a comma and a space between the words.",
        WORD_LISTS,
    ),
    (
        "returns the lengths of the words in a list",
        "word_lengths",
        "words",
        "return [len(word) for word in {p}]",
        "It makes a list of the lengths.",
        WORD_LISTS,
    ),
    (
        "converts a list of words to upper case",
        "upper_words",
        "words",
        "return [word.upper() for word in {p}]",
        "It writes every word in capital letters.",
        WORD_LISTS,
    ),
    (
        "converts a string to upper case",
        "to_upper",
        "text",
        "return {p}.upper()",
        "It writes all letters as capital letters.",
        TEXTS,
    ),
    (
        "converts a string to lower case",
        "to_lower",
        "text",
        "return {p}.lower()",
        "It writes all letters as small letters.",
        TEXTS,
    ),
    (
        "removes the spaces from a string",
        "remove_spaces",
        "text",
        'return {p}.replace(" ", "")',
        "It replaces every space with nothing.",
        TEXTS,
    ),
    (
        "capitalizes every word of a string",
        "capitalize_words",
        "text",
        'return " ".join(word.capitalize() for word in {p}.split())',
        "It gives every word a capital letter.",
        TEXTS,
    ),
    (
        "checks whether a string is a palindrome",
        "is_palindrome",
        "text",
        "cleaned = {p}.lower()\nreturn cleaned == cleaned[::-1]",
        "It compares the text with its reverse.",
        TEXTS,
    ),
    (
        "checks whether a word reads the same backwards",
        "is_palindrome",
        "word",
        "cleaned = {p}.lower()\nreturn cleaned == cleaned[::-1]",
        "It compares the word with its reverse.",
        TEXTS,
    ),
    (
        "counts how often each letter occurs in a string",
        "count_letters",
        "text",
        "counts = {}\nfor char in {p}:\n    counts[char] = counts.get(char, 0) + 1\nreturn counts",
        "It adds one to the count of every letter.",
        TEXTS,
    ),
    (
        "returns the first word of a string",
        "first_word",
        "text",
        "return {p}.split()[0]",
        "It splits the text at spaces and takes the first part.",
        TEXTS[:4],
    ),
    (
        "returns the last word of a string",
        "last_word",
        "text",
        "return {p}.split()[-1]",
        "It splits the text at spaces and takes the last part.",
        TEXTS[:4],
    ),
    (
        "checks whether a number is even",
        "is_even",
        "n",
        "return {p} % 2 == 0",
        "It checks the remainder of a division by 2.",
        WHOLE,
    ),
    (
        "checks whether a number is odd",
        "is_odd",
        "n",
        "return {p} % 2 == 1",
        "It checks the remainder of a division by 2.",
        WHOLE,
    ),
    (
        "returns the sum of the digits of a number",
        "digit_sum",
        "n",
        "return sum(int(digit) for digit in str({p}))",
        "It adds the digits of the number.",
        WHOLE,
    ),
    (
        "returns the number of digits of a number",
        "count_digits",
        "n",
        "return len(str({p}))",
        "It counts the characters of the number as text.",
        WHOLE,
    ),
    (
        "returns the square of a number",
        "square",
        "x",
        "return {p} * {p}",
        "It multiplies the number by itself.",
        WHOLE,
    ),
    (
        "returns the cube of a number",
        "cube",
        "x",
        "return {p} ** 3",
        "It raises the number to the third power.",
        WHOLE,
    ),
    (
        "converts Celsius to Fahrenheit",
        "to_fahrenheit",
        "celsius",
        "return {p} * 9 / 5 + 32",
        "It multiplies by nine fifths and adds 32.",
        WHOLE,
    ),
    (
        "converts Fahrenheit to Celsius",
        "to_celsius",
        "fahrenheit",
        "return ({p} - 32) * 5 / 9",
        "It subtracts 32 and multiplies by five ninths.",
        WHOLE,
    ),
    (
        "returns the divisors of a number",
        "divisors",
        "n",
        "return [i for i in range(1, {p} + 1) if {p} % i == 0]",
        "It keeps the numbers that divide n without a rest.",
        WHOLE,
    ),
    (
        "returns the sum of the numbers from 1 to n",
        "sum_to",
        "n",
        "return sum(range(1, {p} + 1))",
        "It adds the numbers from 1 to n.",
        WHOLE,
    ),
    (
        "returns the absolute value of a number",
        "absolute",
        "x",
        "return abs({p})",
        "It drops the sign of the number.",
        (-3, 0, 5),
    ),
    (
        "converts a number to binary",
        "to_binary",
        "n",
        'return format({p}, "b")',
        "It writes the number with the digits 0 and 1.",
        WHOLE,
    ),
    (
        "flattens a list of lists",
        "flatten",
        "lists",
        "return [item for part in {p} for item in part]",
        "It puts the items of all inner lists into one list.",
        ([[1, 2], [3]], [[], [4]]),
    ),
    (
        "returns the product of the numbers in a list",
        "product",
        "numbers",
        "result = 1\nfor number in {p}:\n    result *= number\nreturn result",
        "It multiplies all numbers of the list.",
        NUMBERS,
    ),
    (
        "checks whether a year is a leap year",
        "is_leap_year",
        "year",
        "return {p} % 4 == 0 and ({p} % 100 != 0 or {p} % 400 == 0)",
        "It applies the rules for 4, 100 and 400 years.",
        (1900, 2000, 2023, 2024),
    ),
)
STRING_TESTS = (
    ("start with {c}", 'word.startswith("{c}")'),
    ("end with {c}", 'word.endswith("{c}")'),
    ("contain {c}", '"{c}" in word'),
    ("are longer than {n} letters", "len(word) > {n}"),
    ("are shorter than {n} letters", "len(word) < {n}"),
)
ARITHMETIC = (
    (
        "multiplies a number by {n}",
        "times_{n}",
        "return {p} * {n}",
        "It multiplies the number by {n}.",
    ),
    ("adds {n} to a number", "add_{n}", "return {p} + {n}", "It adds {n} to the number."),
    (
        "checks whether a number is divisible by {n}",
        "is_divisible_by_{n}",
        "return {p} % {n} == 0",
        "It checks the remainder of a division by {n}.",
    ),
    (
        "checks whether a number is greater than {n}",
        "is_above_{n}",
        "return {p} > {n}",
        "It compares the number with {n}.",
    ),
    (
        "repeats a string {n} times",
        "repeat_{n}_times",
        "return {p} * {n}",
        "It repeats the text {n} times.",
    ),
    (
        "returns the first {n} items of a list",
        "first_{n}",
        "return {p}[:{n}]",
        "It cuts the list after {n} items.",
    ),
    (
        "returns the last {n} items of a list",
        "last_{n}",
        "return {p}[-{n}:]",
        "It takes the last {n} items of the list.",
    ),
)


def other_tasks() -> Iterator[Task]:
    """Yield the single functions and the families with a number or a letter in them."""
    for goal, name, parameter, body, explanation, inputs in SINGLES:
        yield Task(goal, name, parameter, body, explanation, _results(body, inputs, parameter))
    for limit in (2, 3, 4, 5, 6, 8, 10, 12):
        for goal, name, body, explanation in ARITHMETIC:
            kind = "text" if "string" in goal else "items" if "list" in goal else "n"
            inputs = {"text": TEXTS, "items": LISTS, "n": WHOLE}[kind]
            code = body.replace("{n}", str(limit))
            yield Task(
                goal.format(n=limit),
                name.format(n=limit),
                kind,
                code,
                explanation.format(n=limit),
                _results(code, inputs, kind),
                combined=True,
            )
    for letter, limit in zip(
        "abcdehlmnoprstw", (2, 3, 4, 5, 6, 7, 8, 2, 3, 4, 5, 6, 7, 8, 9), strict=True
    ):
        for words, test in STRING_TESTS:
            yield from _word_tasks(words.format(c=letter, n=limit), test.format(c=letter, n=limit))


def _word_tasks(words: str, test: str) -> Iterator[Task]:
    keep, count = (
        f"return [word for word in {{p}} if {test}]",
        f"return sum(1 for word in {{p}} if {test})",
    )
    yield Task(
        f"returns the words in a list that {words}",
        "filter_words",
        "words",
        keep,
        f"It keeps the words that {words}.",
        _results(keep, WORD_LISTS, "words"),
        combined=True,
    )
    yield Task(
        f"counts the words in a list that {words}",
        "count_words",
        "words",
        count,
        f"It counts the words that {words}.",
        _results(count, WORD_LISTS, "words"),
        combined=True,
    )


SCRIPT = (
    (
        "reverses a string",
        "reverseString",
        "text",
        'return {p}.split("").reverse().join("");',
        "It splits the text into letters, reverses them and joins them again.",
    ),
    (
        "returns the sum of the numbers in a list",
        "sumNumbers",
        "numbers",
        "return {p}.reduce((sum, x) => sum + x, 0);",
        "It adds every number to the sum.",
    ),
    (
        "returns the largest number in a list",
        "largest",
        "numbers",
        "return Math.max(...{p});",
        "It passes all numbers to Math.max.",
    ),
    (
        "returns the smallest number in a list",
        "smallest",
        "numbers",
        "return Math.min(...{p});",
        "It passes all numbers to Math.min.",
    ),
    (
        "checks whether a number is even",
        "isEven",
        "n",
        "return {p} % 2 === 0;",
        "It checks the remainder of a division by 2.",
    ),
    (
        "checks whether a number is odd",
        "isOdd",
        "n",
        "return {p} % 2 === 1;",
        "It checks the remainder of a division by 2.",
    ),
    (
        "returns the even numbers in a list",
        "evenNumbers",
        "numbers",
        "return {p}.filter((x) => x % 2 === 0);",
        "It keeps the numbers that 2 divides.",
    ),
    (
        "returns the odd numbers in a list",
        "oddNumbers",
        "numbers",
        "return {p}.filter((x) => x % 2 === 1);",
        "It keeps the numbers that 2 does not divide.",
    ),
    (
        "converts a string to upper case",
        "toUpper",
        "text",
        "return {p}.toUpperCase();",
        "It writes all letters as capital letters.",
    ),
    (
        "counts the words in a string",
        "countWords",
        "text",
        "return {p}.trim().split(/\\s+/).length;",
        "It splits the text at spaces and counts the parts.",
    ),
    (
        "removes duplicates from a list",
        "unique",
        "items",
        "return [...new Set({p})];",
        "It makes a set, which keeps every item once.",
    ),
    (
        "returns the last item of a list",
        "lastItem",
        "items",
        "return {p}[{p}.length - 1];",
        "It uses the index of the last item.",
    ),
    (
        "returns the square of a number",
        "square",
        "x",
        "return {p} * {p};",
        "It multiplies the number by itself.",
    ),
    (
        "returns the factorial of a number",
        "factorial",
        "n",
        "let result = 1;\nfor (let i = 2; i <= {p}; i++) {\n  result *= i;\n}\nreturn result;",
        "It multiplies the numbers from 1 to n.",
    ),
)


@lru_cache(maxsize=1)
def python_tasks() -> tuple[Task, ...]:
    """Return all Python tasks."""
    return (*number_tasks(), *other_tasks())


@lru_cache(maxsize=2)
def split_tasks(*, held_out: bool) -> tuple[Task, ...]:
    """Return the tasks of one split; single functions are all trained, their wordings split."""
    return tuple(task for task in python_tasks() if task.is_held_out == held_out)


PHRASES = (
    "Write a function that {goal}.",
    "Please write a function that {goal}.",
    "I need a function that {goal}.",
    "Give me a function that {goal}.",
    "A function that {goal}",
    "Write code that {goal}.",
    "Can you write a function that {goal}?",
    "{Goal_imperative}.",
    "Make a function which {goal}.",
    "Show me a function that {goal}.",
    "write a {language} function that {goal}",
    "Write a {language} function that {goal}.",
    "How do I write a function that {goal}?",
    "Write a function called {name} that {goal}.",
    "Create a function `{name}` that {goal}.",
)
PARAMETERS = {
    "numbers": ("numbers", "numbers", "values", "nums"),
    "items": ("items", "items", "values"),
    "text": ("text", "text", "s", "string"),
    "n": ("n", "n", "number"),
    "words": ("words", "words"),
}


def imperative(goal: str) -> str:
    """Turn "returns the sum" into "Return the sum"."""
    verb, _, rest = goal.partition(" ")
    verb = "check" if verb == "checks" else verb.removesuffix("s")
    return f"{verb.capitalize()} {rest}"


def write_code(task: Task, name: str, parameter: str) -> str:
    """Write the function."""
    body = task.body.replace("{p}", parameter)
    if task.language == "JavaScript":
        lines = "\n".join("  " + line for line in body.splitlines())
        return f"function {name}({parameter}) {{\n{lines}\n}}"
    return f"def {name}({parameter}):\n{indent(body)}"


def format_answer(language: str, code: str, explanation: str) -> str:
    """Lay out code and explanation as the prompt asks for it."""
    return f"```{language.lower()}\n{code}\n```\n{explanation}"


NAMES = (
    "solve run compute calc helper process work do_it my_function answer get find handle".split()
)


def make_turns(task: Task, random_: random.Random) -> tuple[Turn, ...]:
    """Return a request for a task, sometimes with a follow-up request."""
    phrase = random_.choice(PHRASES)
    name = random_.choice(NAMES) if "{name}" in phrase and random_.random() < 0.6 else task.name
    parameter = task.parameter
    request = phrase.format(
        goal=task.goal, name=name, language=task.language, Goal_imperative=imperative(task.goal)
    )
    code = write_code(task, name, parameter)
    first = (request, format_answer(task.language, code, task.explanation))
    if random_.random() < 0.15 and task.language == "Python":
        return first, _follow_up(task, name, parameter, random_)
    return (first,)


def _follow_up(task: Task, name: str, parameter: str, random_: random.Random) -> Turn:
    kind = random_.randrange(3)
    if kind == 0:
        new = random_.choice([n for n in NAMES if n != name])
        wish = random_.choice(
            (f"Call it {new}.", f"Rename it to {new}.", f"Please name the function {new}.")
        )
        return wish, format_answer(
            "python", write_code(task, new, parameter), f"The function is now called {new}."
        )
    if kind == 1:
        head, _, rest = write_code(task, name, parameter).partition("\n")
        code = f'{head}\n    """{imperative(task.goal)}."""\n{rest}'
        return random_.choice(("Add a docstring.", "Please add a docstring.")), format_answer(
            "python", code, "The docstring says what the function does."
        )
    new = random_.choice(("data", "value", "given", "x", "arg"))
    return f"Name the parameter {new}.", format_answer(
        "python", write_code(task, name, new), f"The parameter is now called {new}."
    )


def training_source() -> Callable[[int], Group]:
    """Return the endless stream of training groups: several requests in one language."""
    python = split_tasks(held_out=False)
    singles = [task for task in python if any(task.goal == row[0] for row in SINGLES)]
    script = [Task(*row, checks=(), language="JavaScript") for row in SCRIPT]

    def at(index: int) -> Group:
        random_ = seeded_random("code", index)
        pool = script if random_.random() < 0.1 else singles if random_.random() < 0.4 else python
        found = [make_turns(task, random_) for task in random_.sample(pool, 3)]
        kept = tuple(t for t in found if not any(corpus.resembles_example(q) for q, _ in t))
        language = "JavaScript" if pool is script else "Python"
        return Group("code", prompts.build_codegen_system(language), kept or (found[0][:0],))

    return at


def held_out_groups(count: int) -> list[tuple[Task, Group]]:
    """Return held-out tasks as requests."""
    found = []
    pool = list(split_tasks(held_out=True))
    seeded_random("code measured").shuffle(pool)
    for task in pool[:count]:
        request = f"Write a function that {task.goal}."
        code = format_answer(
            "python", write_code(task, task.name, task.parameter), task.explanation
        )
        found.append(
            (task, Group("code", prompts.build_codegen_system("Python"), (((request, code),),)))
        )
    return found


def extract_code(text: str) -> str:
    """Return the fenced code of a reply, or nothing."""
    _, _, rest = text.partition("```")
    _, _, rest = rest.partition("\n")
    return rest.partition("```")[0]


def is_function(code: str) -> bool:
    """Return whether code is Python with a function in it."""
    try:
        return any(isinstance(node, ast.FunctionDef) for node in ast.parse(code).body)
    except (SyntaxError, ValueError):
        return False


def passes_checks(code: str, checks: Sequence[Check]) -> bool:
    """Run the code with its checks in a separate interpreter. Return True if all pass."""
    name = next(node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    lines = [f"assert {name}(*{arguments!r}) == {result!r}" for arguments, result in checks]
    program = "\n".join([code, *lines])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", program],
            capture_output=True,
            timeout=CODE_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
