"""Training data of the starter model: generation, splits, and exclusions."""

import ast
import json
import lzma
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from training.starter import (
    code_data,
    corpus,
    dialogue_data,
    grounded_data,
    tokenization,
    translation_data,
)
from training.starter.groups import Group, seeded_random
from training.starter.slot_values import SlotValues

from palaver_skills import prompts

STARTER = Path(__file__).parents[2] / "plugins" / "palaver_plugins" / "starter"
PASSAGE = r"^\[(\d+)\] (.*?)(?=\n\n\[|\Z)"
CONNECTING = frozenset(
    "at in on to of a the for with ye no per every within above before ahead until least i day "
    "button hold from and it".split()
)
"""Stems of words that an answer may add to what its passage says."""
SENTENCES = (
    "The house is small, isn't it?",
    "Où est la gare ? Ça va très bien !",
    "Größer als 1.250 Äpfel",
    "¿Dónde está el niño?",
    "我们在图书馆学习。",
    "def f(x):\n    return x * 2\n",
    "[1] a\n\n[2] b\n\nQuestion: what?",
)


def write_rows(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    with lzma.open(folder / f"{name}.jsonl.xz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Write a small corpus with the example questions among other rows."""
    example = corpus.read_examples()["translation"][0]["text"]
    pairs: list[dict[str, object]] = [
        {"en": f"We saw {n} red houses.", "fr": f"On a vu {n} maisons."} for n in range(900)
    ]
    write_rows(tmp_path, "tatoeba_en-fr", [*pairs, {"en": example, "fr": "Mon frère"}])
    write_rows(tmp_path, "msdocs_en-fr", [{"en": "Settings", "fr": "Paramètres"}])
    asked = [*corpus.read_examples()["chat"]["questions"], "Are you happy today?"]
    talk: list[dict[str, object]] = [{"lang": "en-us", "questions": asked, "answer": "Yes."}]
    write_rows(tmp_path, "botframework_chitchat_all", talk)
    write_rows(tmp_path, "chatterbot_corpus_all", [])
    dialogue: dict[str, object] = {"Best Generated Conversation": "User 1: Hi!\nUser 2: Hello!"}
    write_rows(tmp_path, "synthetic_persona_chat_valid", [dialogue])
    yield tmp_path
    translation_data.read_pairs.cache_clear()


def grounded_groups(count: int, *, held_out: bool = False) -> list[Group]:
    return [
        grounded_data.make_group(seeded_random("test", n), held_out=held_out) for n in range(count)
    ]


def user_texts(groups: list[Group]) -> list[str]:
    return [turn[0] for group in groups for branch in group.branches for turn in branch]


@pytest.mark.parametrize(
    "make", [lambda n: grounded_data.make_group(seeded_random("g", n)), code_data.training_source()]
)
def test_the_group_at_an_index_is_always_the_same(make: Callable[[int], Group]) -> None:
    assert [make(n) for n in range(20)] == [make(n) for n in range(20)]


def stems(text: str) -> set[str]:
    return {word.rstrip("s") for word in corpus.word_set(text)}


@pytest.mark.slow
def test_a_grounded_answer_is_copied_from_the_passage_that_it_cites() -> None:
    for group in grounded_groups(300):
        passages = dict(re.findall(PASSAGE, group.shared, re.S | re.M))
        for ((_, answer),) in group.branches:
            if cited := re.fullmatch(r"(.*)\. \[(\d+)\]", answer, re.S):
                assert stems(cited[1]) - stems(passages[cited[2]]) <= CONNECTING
            else:
                assert answer == prompts.NOT_IN_DOCUMENTS


@pytest.mark.slow
def test_about_a_quarter_of_the_grounded_questions_have_no_answer() -> None:
    answers = [turn[1] for g in grounded_groups(300) for branch in g.branches for turn in branch]
    assert 0.15 < answers.count(prompts.NOT_IN_DOCUMENTS) / len(answers) < 0.35


def test_names_of_the_measuring_split_never_occur_in_training() -> None:
    makers = ("person", "town", "brand", "company")
    train, held_out = SlotValues(random.Random(1)), SlotValues(random.Random(1), held_out=True)
    seen = {word for n in range(2000) for word in getattr(train, makers[n % 4])().split()}
    surnames = {held_out.town() for _ in range(500)} | {
        held_out.draw_name(held_out.surname) for _ in range(500)
    }
    assert not seen & surnames


def test_sentences_of_the_measuring_split_never_occur_in_training(folder: Path) -> None:
    pairs = translation_data.read_pairs(folder, "fr")
    assert pairs.held_out
    assert not {p.english for p in pairs.train} & {p.english for p in pairs.held_out}
    assert not {p.foreign for p in pairs.train} & {p.foreign for p in pairs.held_out}


def test_tasks_of_the_measuring_split_never_occur_in_training() -> None:
    trained = {task.goal for task in code_data.split_tasks(held_out=False)}
    measured = {task.goal for task in code_data.split_tasks(held_out=True)}
    assert len(measured) > 30
    assert not trained & measured


@pytest.mark.slow
def test_the_example_questions_are_excluded_from_training(folder: Path) -> None:
    groups = [
        *grounded_groups(400),
        *(code_data.training_source()(n) for n in range(200)),
        *(dialogue_data.training_source(folder)(n) for n in range(300)),
        *(
            translation_data.training_source(folder, "fr", into_english=False)(n)
            for n in range(1000)
        ),
    ]
    asked = user_texts(groups)
    assert len(asked) > 3000
    assert not [text for text in asked if corpus.resembles_example(text.split("Question: ")[-1])]


def test_a_near_copy_of_an_example_is_recognised_and_another_question_is_not() -> None:
    assert corpus.resembles_example("tom lloró TODA la noche!")
    assert not corpus.resembles_example("Tom can swim.")
    assert not corpus.resembles_example("Write a function that reverses a string.")


def test_every_reference_function_parses_and_gives_its_expected_results() -> None:
    for task in code_data.python_tasks():
        code = code_data.write_code(task, task.name, task.parameter)
        ast.parse(code)
        space: dict[str, Callable[..., object]] = {}
        exec(code, space)
        for arguments, result in task.checks:
            assert space[task.name](*arguments) == result


def test_generated_code_is_checked_in_its_own_process() -> None:
    reply = "```python\ndef double(n):\n    return n * 2\n```\nIt doubles."
    code = code_data.extract_code(reply)
    assert code_data.is_function(code)
    assert code_data.passes_checks(code, [((2,), 4)])
    assert not code_data.passes_checks(code, [((2,), 5)])
    assert not code_data.is_function("def broken(:")


# The tokenizer


@pytest.fixture(scope="module")
def shipped() -> Tokenizer:
    return tokenization.load_tokenizer(STARTER)


@pytest.mark.parametrize("text", SENTENCES)
def test_the_shipped_tokenizer_restores_every_text(shipped: Tokenizer, text: str) -> None:
    assert shipped.decode(shipped.encode(text).ids) == text


def test_special_tokens_are_single_and_come_first(shipped: Tokenizer) -> None:
    assert [shipped.token_to_id(name) for name in tokenization.SPECIAL] == list(range(5))


def test_a_text_split_before_the_question_is_encoded_like_the_whole(shipped: Tokenizer) -> None:
    for group in grounded_groups(30):
        for ((user, _),) in group.branches:
            parts = shipped.encode(group.shared).ids + shipped.encode(user).ids
            assert parts == shipped.encode(group.shared + user).ids


def test_a_tokenizer_is_trained_saved_and_loaded(tmp_path: Path) -> None:
    learned = tokenization.train_tokenizer(iter(SENTENCES * 3), 320)
    tokenization.save_tokenizer(learned, tmp_path, 1024)
    again = tokenization.load_tokenizer(tmp_path)
    assert again.get_vocab_size() == 320
    assert all(again.decode(again.encode(text).ids) == text for text in SENTENCES)
