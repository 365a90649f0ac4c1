"""Suites and their data: files, templates, choices, and what is refused."""

import gzip
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from palaver.errors import ConfigurationError, InvalidInput
from palaver.evaluation.data import SuiteData, fill_template, read_data
from palaver.evaluation.leaks import normal_form
from palaver.evaluation.metrics import suite_metrics
from palaver.evaluation.suites import Suite, built_in_suites, find_suite, load_suite
from palaver.knowledge import Document
from palaver.skills import Skill

ROWS = [
    {"text": "Is it raining?", "intent": "weather", "n": 1},
    {"text": "Will it snow tomorrow?", "intent": "weather", "n": 2},
    {"text": "Wake me at 7", "intent": "alarm", "n": 3},
    {"text": "Set a timer", "intent": "alarm", "n": 4},
]


def write_rows(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def suite(**tables: Any) -> Suite:
    rows = {"files": ["rows.jsonl"], "split": "test", "expected": "{intent}"}
    values = {"description": "d", "target": "router", "metrics": ["accuracy"], "rows": rows}
    return Suite.model_validate({**values, **tables})


def read(given: Suite, folder: Path, **options: Any) -> SuiteData:
    defaults = {"limit": None, "seed": 0, "skills": (), "read_files": no_files}
    return read_data(given, folder, **{**defaults, **options})


def no_files(paths: Sequence[Path]) -> tuple[Document, ...]:
    raise AssertionError(f"no suite here names {paths}")


class Forecast(Skill):
    """Tell the weather."""

    name = "weather"
    examples = ("is it RAINING",)


def test_rows_become_examples(tmp_path: Path) -> None:
    write_rows(tmp_path, ROWS)
    data = read(suite(), tmp_path)
    assert [each.text for each in data.examples] == [row["text"] for row in ROWS]
    assert [each.expected for each in data.examples][1:3] == [("weather",), ("alarm",)]
    assert (data.total, [file.path for file in data.files]) == (4, ["rows.jsonl"])
    assert len(data.files[0].sha256) == 64


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ROWS).encode()),
        ("a.csv", b"\xef\xbb\xbftext,intent,n\r\n" + b"".join(
            f'"{row["text"]}",{row["intent"]},{row["n"]}\r\n'.encode() for row in ROWS
        )),
        ("a.jsonl.xz", lzma.compress("\n".join(map(json.dumps, ROWS)).encode())),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode())),
    ],
)  # fmt: skip
def test_kinds_of_files_hold_the_same_rows(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    rows = {"files": [name], "split": "test", "expected": "{intent}", "id": "{n}"}
    data = read(suite(rows=rows), tmp_path)
    assert [each.text for each in data.examples] == [row["text"] for row in ROWS]
    assert [each.id for each in data.examples] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rows.txt", b"", "'.txt' is not .jsonl"),
        ("rows.jsonl", b"{", "holds no rows"),
        ("rows.jsonl", b"[1]\n", "each row must be an object"),
        ("rows.json", b"{}", "each row must be an object"),
        ("rows.jsonl", b"", "the suite selects no rows"),
        ("rows.jsonl", b'{"text": "a"}\n', "has no field 'intent'"),
        ("rows.jsonl.xz", b"no", "holds no rows"),
        ("rows.jsonl.gz", b"no", "holds no rows"),
        ("rows.csv", b'a,b\n"x', "holds no rows"),
        ("rows.jsonl", b"\xff", "holds no rows"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    rows = {"files": [name], "split": "test", "expected": "{intent}"}
    with pytest.raises(InvalidInput, match=problem):
        read(suite(rows=rows), tmp_path)


def test_a_missing_file_asks_for_its_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"rows.jsonl' cannot be read.*--data"):
        read(suite(), tmp_path)


def test_templates() -> None:
    row = {"a": [1, 2], "b": "x", "none": None}
    assert fill_template("{a}", row) == [1, 2]
    assert fill_template("<{b}> {a}", row) == "<x> [1, 2]"
    assert fill_template("{ b } {}", row) == "{ b } {}"


def test_a_field_without_a_value_has_no_answer(tmp_path: Path) -> None:
    write_rows(
        tmp_path,
        [
            {"text": "q", "answers": []},
            {"text": "r", "answers": ["a", "b"]},
            {"text": "s", "answers": ""},
            {"text": "t", "answers": None},
            {"text": "u", "answers": 0},
        ],
    )
    rows = {"files": ["rows.jsonl"], "split": "test", "expected": "{answers}"}
    data = read(suite(rows=rows), tmp_path)
    assert [each.expected for each in data.examples] == [(), ("a", "b"), (), (), ("0",)]


def test_where_selects_rows(tmp_path: Path) -> None:
    write_rows(tmp_path, ROWS)
    rows = {"files": ["rows.jsonl"], "split": "test", "where": {"intent": "alarm"}}
    assert len(read(suite(rows=rows), tmp_path).examples) == 2


def test_a_limit_chooses_by_seed(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"text": f"text {word}", "intent": "a"} for word in "abcdefghij"])
    first, again, other = (
        [e.id for e in read(suite(), tmp_path, limit=4, seed=seed).examples] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(set(first)) == 4
    assert first == sorted(first)


def test_a_history_of_another_form_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"text": "q", "before": [{"role": "me", "text": "x"}]}])
    rows = {"files": ["rows.jsonl"], "split": "test", "history": "{before}"}
    with pytest.raises(InvalidInput, match="row 0: the history is no list of"):
        read(suite(rows=rows), tmp_path)


def test_equal_ids_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, ROWS)
    rows = {"files": ["rows.jsonl"], "split": "test", "id": "{intent}"}
    with pytest.raises(InvalidInput, match="several rows have the id 'weather'"):
        read(suite(rows=rows), tmp_path)


def test_documents_with_equal_key_and_text_are_one(tmp_path: Path) -> None:
    rows = [
        {"q": "1", "page": "p", "part": "x"},
        {"q": "2", "page": "p", "part": "x"},
        {"q": "3", "page": "p", "part": "y"},
        {"q": "4", "page": "r", "part": "x"},
    ]
    write_rows(tmp_path, rows)
    given = suite(
        target="retriever",
        rows={"files": ["rows.jsonl"], "split": "test", "text": "{q}", "relevant": "{page}"},
        documents={"text": "{part}", "title": "{page}", "key": "{page}"},
    )
    data = read(given, tmp_path, limit=1)
    assert [(each.title, each.text) for each in data.documents] == [
        ("p", "x"), ("p", "y"), ("r", "x")
    ]  # fmt: skip
    examples = read(given, tmp_path).examples
    assert [len(each.relevant) for each in examples] == [2, 2, 2, 1]


# Leaks


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Is it raining?", "it IS raining"),
        ("Wake me at 7", "wake me at 12!"),
        ("Café", "cafe"),
        ("set a  timer", " Set a\ttimer!\n"),
        ("What's up?", "what s up"),
        ("e-mail it", "E mail, it..."),
        ("Straße", "STRASSE"),
        ("ｆｕｌｌ width", "full width"),
        ("今天会下雨吗？", "今天会下雨吗"),
    ],
)
def test_near_duplicates_have_one_normal_form(text: str, same: str) -> None:
    assert normal_form(text) == normal_form(same)


def test_other_words_have_another_normal_form() -> None:
    assert normal_form("Is it raining?") != normal_form("Is it snowing?")


def test_a_suite_whose_test_rows_are_examples_of_a_skill_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, ROWS)
    with pytest.raises(InvalidInput, match=r"1 examples are near duplicates.*'is it RAINING'"):
        read(suite(), tmp_path, skills=[Forecast])
    with pytest.raises(InvalidInput, match="near duplicates"):
        read(suite(target="server"), tmp_path, skills=[Forecast])
    replies = suite(target="server", metrics=["rougeL"])  # measures no choice of a skill
    assert len(read(replies, tmp_path, skills=[Forecast]).examples) == 4
    assert read(suite(), tmp_path, skills=[]).labels is None


@pytest.mark.parametrize(
    "copy",
    ["is it raining?", "IS IT RAINING", "Is  it\training", "Is it... raining?!", "raining is it"],
)
def test_a_copy_of_a_test_row_among_the_examples_is_refused(tmp_path: Path, copy: str) -> None:
    write_rows(tmp_path, ROWS)
    write_rows(tmp_path, [{"text": copy, "label": "weather"}], "e.jsonl")
    with pytest.raises(InvalidInput, match="1 examples are near duplicates of test rows"):
        read(suite(examples={"files": ["e.jsonl"]}), tmp_path)
    write_rows(tmp_path, [{"text": "Is it raining tomorrow?", "label": "weather"}], "e.jsonl")
    assert read(suite(examples={"files": ["e.jsonl"]}), tmp_path).labels is not None


def test_a_suite_whose_examples_are_test_rows_is_refused_unless_they_are_dropped(
    tmp_path: Path,
) -> None:
    write_rows(tmp_path, ROWS)
    write_rows(
        tmp_path,
        [{"t": "raining, is it", "l": "weather"}, {"t": "Snow?", "l": "weather"}],
        "e.jsonl",
    )
    table = {"files": ["e.jsonl"], "text": "{t}", "label": "{l}"}
    with pytest.raises(InvalidInput, match="near duplicates"):
        read(suite(examples=table), tmp_path)
    data = read(suite(examples={**table, "drop_near_duplicates": True}), tmp_path)
    assert (data.labels, data.dropped_examples) == ({"weather": ("Snow?",)}, 1)


def test_examples_that_are_taken_out_of_the_rows_are_no_test_rows(tmp_path: Path) -> None:
    rows = [{"text": f"word{word} one", "intent": "a"} for word in "abcdefgh"]
    write_rows(
        tmp_path, [*rows, {"text": "WORDA, one", "intent": "a"}, {"text": "x", "intent": "b"}]
    )
    table = {"label": "{intent}", "per_label": 3, "drop_near_duplicates": True}
    data = read(suite(examples=table), tmp_path)
    assert data.labels is not None
    tested = {normal_form(each.text) for each in data.examples}
    assert {label: len(texts) for label, texts in data.labels.items()} == {"a": 3, "b": 0}
    assert not tested & {normal_form(text) for text in data.labels["a"]}
    assert len(data.examples) == 7
    assert data.dropped_examples == 2


# Suites


def test_a_wrong_suite_is_one_line_for_each_value(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('target = "router"\nmetrics = []\n[rows]\nfile = "a"\n')
    with pytest.raises(ConfigurationError) as error:
        load_suite(path)
    text = str(error.value)
    assert "rows.file" in text
    assert "did you mean 'rows.files'" in text
    assert "description" in text
    path.write_text("target = ")
    with pytest.raises(ConfigurationError, match=r"s.toml' cannot be read"):
        load_suite(path)


def test_a_wrong_regular_expression_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[reply]\nremove = '('\n")
    with pytest.raises(ConfigurationError, match=r"reply\.remove"):
        load_suite(path)


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({"target": "skill"}, "needs a skill"),
        ({"skill": "qa"}, "needs a skill"),
        ({"target": "server", "examples": {}}, "only the target 'router'"),
        ({"documents": {}}, "need a text and a key, or paths"),
        ({"documents": {"text": "{a}", "paths": ["a.md"]}}, "need a text and a key, or paths"),
    ],
)
def test_what_does_not_go_together_is_refused(tables: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        suite(**tables)


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        ("pass@1", "a table 'program'"),
        ("ndcg@10", "rows.relevant"),
        ("citation_precision", "rows.relevant"),
        ("nothing", "there is no metric"),
        ("recall@0", "there is no metric"),
        ("recall@1:meaning", "there is no metric"),
        ("recall@1:words", "the target 'retriever'"),
    ],
)
def test_a_metric_that_does_not_fit_the_suite_is_refused(metric: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        suite_metrics(suite(metrics=[metric]))


def test_pass_at_k_needs_as_many_samples() -> None:
    program = {"function": "f", "test": "f()"}
    given = suite(metrics=["pass@3"], program=program, sampling={"samples": 2})
    with pytest.raises(ConfigurationError, match=r"sampling.samples of 3 or more"):
        suite_metrics(given)


def test_a_text_metric_needs_what_is_expected() -> None:
    rows = {"files": ["rows.jsonl"], "split": "test"}
    with pytest.raises(ConfigurationError, match=r"'f1' needs rows.expected"):
        suite_metrics(suite(metrics=["f1"], rows=rows))


@pytest.mark.slow
@pytest.mark.parametrize("name", built_in_suites())
def test_a_built_in_suite_is_complete(name: str) -> None:
    for library in ("ir_measures", "rouge_score", "sacrebleu", "sklearn"):
        pytest.importorskip(library)
    assert suite_metrics(load_suite(find_suite(name)))


def test_an_unknown_suite_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"no suite 'nope'; there are: .*routing-skills"):
        find_suite("nope")
    with pytest.raises(InvalidInput, match=r"no suite 'nope.toml'"):
        find_suite("nope.toml")
