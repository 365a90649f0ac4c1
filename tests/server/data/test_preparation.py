"""Preparations: sources, kinds, cleaning, duplicates, the split, resumption."""

import csv
import gzip
import json
import lzma
import os
import random
import signal
import sqlite3
import threading
import time
from pathlib import Path

import jsonschema_rs
import pytest
from tests.server.data.preparing import (
    create_job,
    files_of,
    manifest,
    prepare,
    rows_of,
    run,
    write_rows,
)

from palaver.data.steps import STEPS
from palaver.errors import ConfigurationError, Conflict, InvalidInput
from palaver.evaluation.leaks import normal_form
from palaver.jobs.folder import Json
from palaver.jobs.store import JobStore

pytestmark = pytest.mark.slow

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("rensa")
WORDS = (
    "account address answer banana bridge candle castle copper dinner engine export feather "
    "garden hammer island jacket kettle ladder market needle orange pepper quartz rocket saddle "
    "temple umbrella violin window yellow zipper"
).split()
CLASSIFICATION = """
kind = "classification"
[[sources]]
name = "rows"
files = ["rows.jsonl"]
"""


def sentence(number: int, words: int = 12) -> str:
    """Return a sentence that is like no other one."""
    chooser = random.Random(number)
    return " ".join(chooser.choices(WORDS, k=words)) + f" {chooser.choice(WORDS)}"


def labelled(count: int) -> list[Json]:
    return [{"text": sentence(number), "label": f"l{number % 3}"} for number in range(count)]


def texts_of(rows: list[Json]) -> set[str]:
    return {row["text"] for row in rows}


# Sources


@pytest.mark.parametrize(
    "name",
    ["rows.csv", "rows.jsonl", "rows.jsonl.gz", "rows.csv.xz", "rows.jsonl.zst", "rows.parquet"],
)
def test_files_of_all_formats_are_read(tmp_path: Path, name: str) -> None:
    rows = labelled(5)
    file = tmp_path / name
    table = pyarrow.Table.from_pylist(rows)
    lines = "".join(
        f"{row}\n" for row in ["text,label", *(f"{r['text']},{r['label']}" for r in rows)]
    )
    write_rows(tmp_path / "plain.jsonl", rows)
    content = lines.encode() if ".csv" in name else (tmp_path / "plain.jsonl").read_bytes()
    match file.suffix:
        case ".parquet":
            parquet.write_table(table, file)
        case ".gz":
            file.write_bytes(gzip.compress(content))
        case ".xz":
            file.write_bytes(lzma.compress(content))
        case ".zst":
            file.write_bytes(pyarrow.compress(content, codec="zstd", asbytes=True))
        case _:
            file.write_bytes(content)
    job = prepare(tmp_path, CLASSIFICATION.replace("rows.jsonl", name))
    assert texts_of(rows_of(job)) == texts_of(rows)


def test_a_query_of_a_database_is_read(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE tickets (body TEXT, queue TEXT)")
        rows = [(row["text"], row["label"]) for row in labelled(4)]
        database.executemany("INSERT INTO tickets VALUES (?, ?)", rows)
    database.close()
    query = "SELECT body AS text, queue AS label FROM tickets WHERE queue <> 'l0'"
    recipe = f'kind = "classification"\n[[sources]]\nname = "t"\nsql = "shop.db"\nquery = "{query}"'
    assert len(rows_of(prepare(tmp_path, recipe))) == 2
    with pytest.raises(InvalidInput, match="readonly"):
        prepare(tmp_path, recipe.replace(query, "DELETE FROM tickets"), name="deletes")


def test_a_column_may_hold_json(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hello, who?"}, {"role": "assistant", "content": "I."}]
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        csv.writer(file).writerows([["messages"], [json.dumps(messages)], ["[broken"]])
    recipe = CLASSIFICATION.replace("rows.jsonl", "rows.csv").replace("classification", "chat")
    job = prepare(tmp_path, recipe)
    assert [row["messages"] for row in rows_of(job)] == [messages]
    assert manifest(job)["steps"]["read"]["dropped"] == {"messages are no JSON": 1}


def test_templates_and_conditions_select_and_name_fields(tmp_path: Path) -> None:
    raw = [{"q": sentence(n), "topic": "a", "kind": n % 2} for n in range(4)]
    write_rows(tmp_path / "rows.jsonl", raw)
    recipe = CLASSIFICATION + 'where = {kind = 1}\nrow = {text = "{q}", label = "about {topic}"}'
    rows = rows_of(prepare(tmp_path, recipe))
    assert texts_of(rows) == {raw[1]["q"], raw[3]["q"]}
    assert {row["label"] for row in rows} == {"about a"}


def test_a_source_without_a_usable_row_says_why(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"text": "hello"}])
    with pytest.raises(InvalidInput, match=r"no row of 1 can be used: .*label"):
        prepare(tmp_path, CLASSIFICATION)
    (tmp_path / "rows.jsonl").write_text('{"text": \n')
    with pytest.raises(InvalidInput, match=r"rows\.jsonl' cannot be read: line 1: "):
        prepare(tmp_path, CLASSIFICATION, name="broken")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('kind = "classification"', "kind"),
        ('files = ["rows.jsonl"]', "files, sql, ledger or documents"),
    ],
)
def test_a_wrong_recipe_is_explained(tmp_path: Path, change: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        create_job(tmp_path, CLASSIFICATION.replace(change, ""))
    with pytest.raises(ConfigurationError, match="tset"):
        create_job(tmp_path, CLASSIFICATION + "[split]\ntset = 0.1")


# Kinds


KINDS: dict[str, tuple[Json, Json, Json]] = {
    "chat": (
        {"prompt": "What is it?", "reply": "A lamp.", "system": "Be brief."},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "What is it?"},
                {"role": "assistant", "content": "A lamp."},
            ]
        },
        {"messages": [{"role": "user", "text": "What is it?"}]},
    ),
    "instruction": (
        {"instruction": "Name it.", "input": "A lamp", "output": "lamp"},
        {"instruction": "Name it.", "input": "A lamp", "output": "lamp"},
        {"instruction": "Name it.", "output": ""},
    ),
    "preference": (
        {"prompt": "What is it?", "chosen": "A lamp.", "rejected": "No idea."},
        {
            "prompt": [{"role": "user", "content": "What is it?"}],
            "chosen": [{"role": "assistant", "content": "A lamp."}],
            "rejected": [{"role": "assistant", "content": "No idea."}],
        },
        {"prompt": "What is it?", "chosen": "A lamp.", "rejected": "A lamp."},
    ),
    "classification": (
        {"text": "What is it?", "label": 7},
        {"text": "What is it?", "label": "7"},
        {"text": "What is it?", "label": ""},
    ),
    "spans": (
        {"text": "Ada lives here", "spans": [{"start": 0, "end": 3, "label": "person"}]},
        {"text": "Ada lives here", "spans": [{"start": 0, "end": 3, "label": "person"}]},
        {"text": "Ada lives here", "spans": [{"start": 9, "end": 99, "label": "person"}]},
    ),
    "retrieval": (
        {"query": "What is it?", "positives": "It is a lamp."},
        {"query": "What is it?", "positives": ["It is a lamp."], "negatives": []},
        {"query": "What is it?", "positives": []},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_what_its_kind_says_or_is_dropped(tmp_path: Path, kind: str) -> None:
    good, expected, wrong = KINDS[kind]
    write_rows(tmp_path / "rows.jsonl", [good, wrong])
    job = prepare(tmp_path, CLASSIFICATION.replace("classification", kind))
    [row] = rows_of(job)
    assert {name: row[name] for name in expected} == expected
    schema = jsonschema_rs.validator_for(manifest(job)["schema"])
    assert schema.is_valid(row)
    assert not schema.is_valid({"id": row["id"]})
    assert sum(manifest(job)["steps"]["read"]["dropped"].values()) == 1


# Cleaning


def test_rows_are_dropped_for_a_reason_that_is_counted(tmp_path: Path) -> None:
    reasons = {
        "too short": "a",
        "too long": sentence(1, 400),
        "boilerplate": "All rights reserved by the company",
        "language de": "Das Wetter ist heute wirklich schön, und wir gehen in den Garten.",
        "repetition": "ship the box to the port " * 30,
        "symbols": "!#$%&'()*+,-./:;<=>?@[]^_{|}~ what",
    }
    rows = [{"text": text, "label": reason} for reason, text in reasons.items()]
    rows.append(
        {"text": "The weather is\u200b nice\r\n\r\n\r\n\r\ntoday,  e\u0301h?", "label": "good"}
    )
    write_rows(tmp_path / "rows.jsonl", rows)
    rules = '[clean]\nlanguages = ["en"]\nmax_characters = 2000\nboilerplate = ["rights +reserved"]'
    job = prepare(tmp_path, CLASSIFICATION + rules)
    assert manifest(job)["steps"]["clean"]["dropped"] == dict.fromkeys(reasons, 1)
    [row] = rows_of(job)
    assert row["text"] == "The weather is nice\n\ntoday, éh?"
    profile = (job.path / "profile.html").read_text("utf-8")
    assert all(reason in profile for reason in reasons)


def test_texts_in_the_profile_are_no_html(tmp_path: Path) -> None:
    text = "<script>alert(1)</script> is what somebody has written here"
    write_rows(tmp_path / "rows.jsonl", [{"text": text, "label": "<b>"}] * 2)
    profile = (prepare(tmp_path, CLASSIFICATION).path / "profile.html").read_text("utf-8")
    assert "&lt;script&gt;" in profile
    assert "<script" not in profile
    assert "<b>" not in profile


# Duplicates


def test_the_same_and_nearly_the_same_rows_are_dropped(tmp_path: Path) -> None:
    text = sentence(1, 20)
    other = text.replace(text.split()[0], "Changed", 1)
    rows = [
        {"text": text, "label": "a"},
        {"text": text, "label": "a"},
        {"text": other, "label": "a"},
        {"text": text, "label": "b"},
        {"text": sentence(2, 20), "label": "a"},
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    job = prepare(tmp_path, CLASSIFICATION)
    dropped = manifest(job)["steps"]["deduplicate"]["dropped"]
    assert dropped == {"the same as another row": 1, "nearly the same as another row": 1}
    assert [row["label"] for row in rows_of(job) if row["text"] == text].count("b") == 1
    kept = prepare(tmp_path, CLASSIFICATION + "[duplicates]\nkeep = true", name="kept")
    assert len(rows_of(kept)) == 4
    assert len({row["group"] for row in rows_of(kept)}) == 2, "they are in one part"


def test_questions_with_the_same_answer_are_no_duplicates(tmp_path: Path) -> None:
    answer = sentence(1, 60)
    rows = [
        {"prompt": "Where is my parcel?", "reply": answer},
        {"prompt": "How do I pay by card?", "reply": answer},
        {"prompt": "Where is my parcel!", "reply": f"{answer}."},
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    job = prepare(tmp_path, CLASSIFICATION.replace("classification", "chat"))
    assert len(rows_of(job)) == 2


# The split


def near_duplicates(count: int) -> list[Json]:
    """Return sentences, every third of them with small changes four times."""
    rows = []
    for number in range(count):
        text = sentence(number, 20)
        rows.append({"text": text, "label": "x"})
        if number % 3 == 0:
            words = text.split()
            for at in range(0, 20, 5):
                changed = [*words[:at], WORDS[(number + at) % len(WORDS)], *words[at + 1 :]]
                rows.append({"text": f"{' '.join(changed)}!", "label": "x"})
    return rows


def count_leaks(parts: dict[str, set[str]]) -> int:
    """Count the rows of the test part that differ in at most two words from one for training."""
    train = [set(text.split()) for text in parts["train"]]
    return sum(
        any(len(set(text.split()) ^ words) <= 4 for words in train) for text in parts["test"]
    )


def test_a_random_split_leaks_and_this_one_does_not(tmp_path: Path) -> None:
    rows = near_duplicates(120)
    write_rows(tmp_path / "rows.jsonl", rows)
    job = prepare(tmp_path, CLASSIFICATION + "[duplicates]\nkeep = true\nsimilarity = 0.6")
    ours = {part: texts_of(rows_of(job, part)) for part in ("train", "test")}
    shuffled = random.Random(0).sample(rows, len(rows))
    at_random = {"test": texts_of(shuffled[:28]), "train": texts_of(shuffled[28:])}
    assert count_leaks(at_random) >= 5
    assert count_leaks(ours) == 0
    assert min(len(texts) for texts in ours.values()) >= 10


def test_a_group_stays_together_and_rows_that_are_added_move_nothing(tmp_path: Path) -> None:
    rows = [{"text": sentence(n), "label": "x", "article": n // 4} for n in range(160)]
    recipe = CLASSIFICATION + 'group = "{article}"\n[split]\nseed = 3'
    write_rows(tmp_path / "rows.jsonl", rows)
    before = prepare(tmp_path, recipe, name="before")
    more = [{"text": sentence(n), "label": "x", "article": n // 4} for n in range(160, 240)]
    write_rows(tmp_path / "rows.jsonl", rows + more)
    after = prepare(tmp_path, recipe, name="after")
    articles = {row["text"]: row["article"] for row in rows + more}
    for part in ("train", "validation", "test"):
        assert texts_of(rows_of(before, part)) <= texts_of(rows_of(after, part))
        others = {
            articles[row["text"]]
            for p in ("train", "validation", "test")
            if p != part
            for row in rows_of(after, p)
        }
        assert others.isdisjoint(articles[row["text"]] for row in rows_of(after, part))
    other = prepare(tmp_path, recipe.replace("seed = 3", "seed = 4"), name="other")
    assert texts_of(rows_of(other, "test")) != texts_of(rows_of(after, "test"))


def test_all_rows_of_a_person_may_be_in_one_part(tmp_path: Path) -> None:
    rows = [{"text": sentence(n), "label": "x", "who": f"p{n % 30}"} for n in range(120)]
    write_rows(tmp_path / "rows.jsonl", rows)
    recipe = CLASSIFICATION + 'person = "{who}"\n[split]\nby_person = '
    for by_person, name in (("true", "together"), ("false", "apart")):
        job = prepare(tmp_path, recipe + by_person, name=name)
        parts = ("train", "validation", "test")
        people = [{row["people"][0] for row in rows_of(job, part)} for part in parts]
        assert (sum(map(len, people)) == 30) == (by_person == "true")


# Resumption


def recipe_with_people(tmp_path: Path) -> str:
    write_rows(tmp_path / "rows.jsonl", [row | {"who": "ada"} for row in near_duplicates(60)])
    return CLASSIFICATION + 'person = "{who}"'


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_killed_preparation_goes_on_and_writes_the_same_bytes(tmp_path: Path, step: str) -> None:
    recipe = recipe_with_people(tmp_path)
    expected = run(create_job(tmp_path, recipe, name="expected"))
    killed = create_job(tmp_path, recipe, name="killed")
    (killed.path / "people.key").write_bytes((expected.path / "people.key").read_bytes())
    store = JobStore(tmp_path / "jobs", in_background=False)
    store.start(killed)
    deadline = time.monotonic() + 60
    while not (killed.path / "work" / f"{step}.jsonl.part").exists():
        if (killed.path / "work" / f"{step}.json").exists() or killed.state() == "finished":
            break  # it was faster than this test
        assert time.monotonic() < deadline
        threading.Event().wait(0.0005)
    process = killed.process()
    assert process is not None
    if killed.state() == "running":
        os.killpg(process.pid, signal.SIGKILL)
    while killed.state() == "running":
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    if killed.state() != "finished":
        run(killed)
    written, wanted = files_of(killed), files_of(expected)
    wanted["profile.html"] = wanted["profile.html"].replace(b"expected", b"killed")
    assert written == wanted
    assert not (killed.path / "work").exists(), "no text from before the redaction is left"


def test_an_input_that_has_changed_since_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", labelled(3))
    job = create_job(tmp_path, CLASSIFICATION)
    write_rows(tmp_path / "rows.jsonl", labelled(4))
    with pytest.raises(Conflict, match=r"rows\.jsonl' has changed"):
        run(job)


def test_what_leaks_is_compared_in_the_same_form_as_in_evaluations(tmp_path: Path) -> None:
    rows = [
        {"text": "Please send 3 boxes to the harbour", "label": "x"},
        {"text": "To the harbour please send 12 boxes", "label": "x"},
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert normal_form(rows[0]["text"]) == normal_form(rows[1]["text"])
    [one, other] = rows_of(prepare(tmp_path, CLASSIFICATION))
    assert one["group"] == other["group"]
