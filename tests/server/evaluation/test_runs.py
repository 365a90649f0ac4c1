"""Runs: examples go through a real server, and an interrupted run goes on."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.server.evaluation.runs import registry, run_suite, write_suite

from palaver.config.settings import (
    EmbeddingSettings,
    KnowledgeSettings,
    PluginSettings,
    RoutingSettings,
    Settings,
)
from palaver.embedding import EmbedderInfo
from palaver.engine import EngineInfo, Generation, GenerationRequest, OnText, TokenLogprob
from palaver.errors import EngineRefused, InvalidInput
from palaver.evaluation.feedback import write_feedback_suite
from palaver.evaluation.runs import Run, RunOptions
from palaver.hooks import Backend
from palaver.testing import ListKnowledge, ScriptedEngine, ScriptedReply

pytest.importorskip("sklearn")
pytest.importorskip("ir_measures")

pytestmark = pytest.mark.slow

CHAT = """
description = "Small talk"
target = "server"
metrics = ["exact_match"]
[rows]
files = ["rows.jsonl"]
split = "test"
id = "{id}"
text = "{text}"
expected = "{expected}"
"""


def numbered(count: int) -> list[dict[str, str]]:
    return [
        {"id": f"row-{n}", "text": f"hello number {n}", "expected": f"Reply {n}"}
        for n in range(count)
    ]


def reply(request: GenerationRequest) -> str:
    """Reply to ``hello number 3`` with ``Reply 3``."""
    last = request.messages[-1].content
    return f"Reply {last.rpartition(' ')[2]}"


def asked(engine: ScriptedEngine) -> list[GenerationRequest]:
    """Return the requests of examples."""
    return [request for request in engine.requests if request.channel == "evaluation"]


def test_each_example_is_a_message_of_its_own(tmp_path: Path) -> None:
    engine = ScriptedEngine(reply)
    path = write_suite(tmp_path, CHAT, numbered(6))
    result, directory = run_suite(path, engine)
    assert result.scores["exact_match"].value == 1
    assert (result.cases, result.about.model) == (6, "scripted")
    cases = {case.example.id: case.output for case in directory.cases()}
    output = cases["row-3"]
    assert (output.text, output.skill, output.outcome) == ("Reply 3", "chat", "done")
    assert output.usage.completion_tokens == 2
    assert output.first_token_seconds is not None
    assert 0 < output.first_token_seconds <= output.seconds
    assert len({request.person for request in asked(engine)}) == 6
    assert all(len(request.messages) == 2 for request in asked(engine))


def test_the_users_own_data_is_not_touched(tmp_path: Path) -> None:
    settings = Settings.model_validate({"server": {"data": tmp_path / "data"}})
    run_suite(write_suite(tmp_path, CHAT, numbered(1)), ScriptedEngine(reply), settings=settings)
    assert not (tmp_path / "data").exists()


def test_examples_run_in_parallel(tmp_path: Path) -> None:
    class Counting(ScriptedEngine):
        running = most = 0

        async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                return await super().generate(request, on_text)
            finally:
                self.running -= 1

    path = write_suite(tmp_path, CHAT, numbered(12))
    engine = Counting(reply, seconds_per_token=0.02)
    run_suite(path, engine, parallel=3)
    assert engine.most == 3


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    path = write_suite(tmp_path, CHAT, numbered(8))

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_suite(path, ScriptedEngine(reply), on_progress=interrupt, parallel=1)
    cases = tmp_path / "run" / "cases.jsonl"
    assert cases.read_bytes().count(b"\n") == 3
    with cases.open("ab") as stream:
        stream.write(b'[{"id": "row-')  # a kill in the middle of a line
    engine = ScriptedEngine(reply)
    seen: list[tuple[int, int]] = []
    result, directory = run_suite(path, engine, on_progress=lambda *counts: seen.append(counts))
    assert len(asked(engine)) == 5
    assert (seen[0], seen[-1]) == ((3, 8), (8, 8))
    assert sorted(case.example.id for case in directory.cases()) == [f"row-{n}" for n in range(8)]
    assert result.scores["exact_match"].value == 1


def test_another_run_does_not_go_on(tmp_path: Path) -> None:
    path = write_suite(tmp_path, CHAT, numbered(3))
    run_suite(path, ScriptedEngine(reply))
    with pytest.raises(InvalidInput, match="has another run: limit is 'None' there and '2' now"):
        run_suite(path, ScriptedEngine(reply), limit=2)
    write_suite(tmp_path, CHAT, numbered(4))
    with pytest.raises(InvalidInput, match="has another run: files is"):
        run_suite(path, ScriptedEngine(reply))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InvalidInput, match="holds files that are not of a run"):
        run_suite(path, ScriptedEngine(reply), output="other")


def test_a_failed_turn_is_a_case(tmp_path: Path) -> None:
    def fail_second(request: GenerationRequest) -> str | ScriptedReply:
        is_second = request.messages[-1].content.endswith("1")
        return ScriptedReply(error=EngineRefused("no")) if is_second else reply(request)

    result, directory = run_suite(
        write_suite(tmp_path, CHAT, numbered(2)), ScriptedEngine(fail_second)
    )
    assert result.scores["failures"].value == 1 / 2
    assert result.scores["exact_match"].value == 1 / 2
    failed = next(case.output for case in directory.cases() if case.output.outcome == "failed")
    assert failed.error


def test_a_message_that_is_refused_is_a_failed_case(tmp_path: Path) -> None:
    rows = [*numbered(1), {"id": "long", "text": "/nope hello", "expected": ""}]
    result, directory = run_suite(write_suite(tmp_path, CHAT, rows), ScriptedEngine(reply))
    assert result.scores["failures"].value == 1 / 2
    assert "nope" in next(case.output.error for case in directory.cases() if case.output.error)


def test_history_comes_before_the_message(tmp_path: Path) -> None:
    rows = [{**numbered(1)[0], "before": [{"role": "user", "text": "I am Bob"},
                                          {"role": "assistant", "text": "Hello Bob"}]}]  # fmt: skip
    engine = ScriptedEngine(reply)
    run_suite(write_suite(tmp_path, CHAT + 'history = "{before}"\n', rows), engine)
    [request] = asked(engine)
    texts = [message.content for message in request.messages[-3:]]
    assert texts == ["I am Bob", "Hello Bob", "hello number 0"]


def test_samples_have_seeds_of_their_own(tmp_path: Path) -> None:
    suite = CHAT + "[sampling]\nsamples = 3\ntemperature = 0.7\nmax_tokens = 5\n"
    engine = ScriptedEngine(reply)
    _, directory = run_suite(write_suite(tmp_path, suite, numbered(1)), engine, seed=10)
    sampling = [request.sampling for request in asked(engine)]
    assert [each.seed for each in sampling] == [10, 11, 12]
    assert {(each.temperature, each.max_tokens) for each in sampling} == {(0.7, 5)}
    [case] = directory.cases()
    assert len(case.outputs) == 3


def test_perplexity_is_of_the_tokens_that_were_written(tmp_path: Path) -> None:
    class Sure(ScriptedEngine):
        async def start(self) -> EngineInfo:
            info = await super().start()
            return dataclasses.replace(info, capabilities=info.capabilities | {"logprobs"})

        async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
            asked_for = request.sampling.logprobs
            sampling = dataclasses.replace(request.sampling, logprobs=None)
            request = dataclasses.replace(request, sampling=sampling)
            found = await super().generate(request, on_text)
            if asked_for is None:  # the health probe
                return found
            tokens = tuple(TokenLogprob(word, -0.5) for word in found.text.split())
            return Generation(
                text=found.text,
                finish_reason=found.finish_reason,
                usage=found.usage,
                logprobs=tokens,
            )

    suite = CHAT.replace('["exact_match"]', '["perplexity"]')
    result, directory = run_suite(write_suite(tmp_path, suite, numbered(3)), Sure(reply))
    assert result.scores["perplexity"].value == pytest.approx(2.718281828**0.5)
    assert {case.output.logprob_tokens for case in directory.cases()} == {2}


def test_an_engine_without_logprobs_has_no_perplexity(tmp_path: Path) -> None:
    suite = CHAT.replace('["exact_match"]', '["exact_match", "perplexity"]')
    path = write_suite(tmp_path, suite, numbered(1))
    scores = run_suite(path, ScriptedEngine(reply, missing_capabilities=["logprobs"]))[0].scores
    assert (scores["perplexity"].value, scores["exact_match"].value) == (None, 1)


CODE = """
description = "Code"
target = "skill"
skill = "codegen"
metrics = ["pass@1"]
[rows]
files = ["rows.jsonl"]
split = "test"
[program]
function = "f"
test = "assert f() == {value}"
"""


def test_code_of_a_reply_is_run_if_that_is_allowed(tmp_path: Path) -> None:
    path = write_suite(tmp_path, CODE, [{"text": "a", "value": 4}, {"text": "b", "value": 5}])
    engine = ScriptedEngine(lambda request: "```python\ndef f():\n    return 4\n```")
    with pytest.raises(InvalidInput, match="--run-code"):
        run_suite(path, engine)
    result, directory = run_suite(path, engine, run_code=True)
    assert result.scores["pass@1"].value == 1 / 2
    assert [case.output.passed for case in directory.cases()].count(True) == 1


def test_the_rest_of_a_function_may_be_the_reply(tmp_path: Path) -> None:
    suite = CODE.replace('function = "f"', 'prelude = "def f():\\n"\nfunction = "f"')
    path = write_suite(tmp_path, suite, [{"text": "a", "value": 4}])
    engine = ScriptedEngine(lambda request: "    x = 4\n    return x")
    assert run_suite(path, engine, run_code=True)[0].scores["pass@1"].value == 1


def test_a_question_of_a_skill_is_noted(tmp_path: Path) -> None:
    suite = CODE.partition("[program]")[0].replace("codegen", "translation")
    suite = suite.replace('["pass@1"]', '["perplexity"]')
    _, directory = run_suite(write_suite(tmp_path, suite, [{"text": "a cat"}]), ScriptedEngine("x"))
    [case] = directory.cases()
    assert case.output.outcome == "asked"
    assert case.output.error.startswith("it asked: ")


SEARCH = """
description = "Search"
target = "retriever"
metrics = ["ndcg@10", "recall@1"]
[rows]
files = ["rows.jsonl"]
split = "test"
text = "{question}"
relevant = "{page}"
[documents]
title = "{page}"
text = "{text}"
key = "{page}"
"""
PAGES = [
    {"page": "cats", "question": "how long do cats sleep", "text": "Cats sleep sixteen hours."},
    {"page": "trains", "question": "when do trains leave", "text": "Trains leave every hour."},
]


def test_a_search_needs_no_engine(tmp_path: Path) -> None:
    result, directory = run_suite(write_suite(tmp_path, SEARCH, PAGES))
    assert (result.scores["ndcg@10"].value, result.scores["recall@1"].value) == (1, 1)
    assert result.about.model == ""
    assert "first_token_seconds" not in result.scores
    assert {case.output.documents[0] for case in directory.cases()} == {"cats (1)", "trains (2)"}


class CountEmbedder:
    """An embedder whose vectors are a text's numbers of the words "sleep" and "train"."""

    async def start(self) -> EmbedderInfo:
        return EmbedderInfo(model="counts")

    async def close(self) -> None:
        pass

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        counts = [(text.count("sleep"), text.lower().count("train"), 0.1) for text in texts]
        return [[n / math.hypot(*row) for n in row] for row in counts]


def test_a_search_is_compared_with_words_and_vectors_alone(tmp_path: Path) -> None:
    backend = Backend(
        name="counts",
        settings=PluginSettings,
        build=lambda settings, build_context: CountEmbedder(),
    )
    suite = SEARCH.replace('"recall@1"', '"recall@1", "recall@1:words", "recall@1:vectors"')
    path = write_suite(tmp_path, suite, PAGES)
    plain, _ = run_suite(path, output="plain")
    assert plain.scores["recall@1:words"].value == 1
    assert plain.scores["recall@1:vectors"].value is None
    plugins = registry()
    owners = {**plugins.owners, ("embedders", "counts"): plugins.owners["skills", "chat"]}
    able = dataclasses.replace(plugins, embedders={"counts": backend}, owners=owners)
    settings = Settings(embedding=EmbeddingSettings(use="counts"))
    result, directory = run_suite(path, settings=settings, plugins=able)
    assert result.scores["recall@1:vectors"].value == 1
    assert all(set(case.output.baselines) == {"words", "vectors"} for case in directory.cases())


QA = """
description = "Answers"
target = "skill"
skill = "qa"
metrics = ["f1", "citation_precision"]
[rows]
files = ["rows.jsonl"]
split = "test"
text = "{question}"
expected = "{answer}"
relevant = "{page}"
[documents]
title = "{page}"
text = "{text}"
key = "{page}"
[reply]
remove = '\\s*\\[\\d+\\]'
no_answer = ["The documents do not say"]
"""


def test_answers_are_measured_without_their_marks(tmp_path: Path) -> None:
    rows = [{**PAGES[0], "answer": ["sixteen hours"]}, {**PAGES[1], "answer": []}]

    def answer(request: GenerationRequest) -> str:
        is_cats = "how long do cats" in request.messages[-1].content
        return "Sixteen hours. [1]" if is_cats else "The documents do not say."

    result, directory = run_suite(write_suite(tmp_path, QA, rows), ScriptedEngine(answer))
    assert result.scores["f1"].value == 1
    assert result.scores["citation_precision"].value == 1
    outputs = [case.output for case in sorted(directory.cases(), key=lambda c: c.example.id)]
    assert [(each.text, each.reply) for each in outputs] == [
        ("Sixteen hours.", "Sixteen hours. [1]"), ("", "The documents do not say.")
    ]  # fmt: skip


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text("utf-8")
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    for name, kind in (("questions.csv", "csv"), ("pages.jsonl", "json"), ("q.toml", "toml")):
        (tmp_path / name).write_text(blocks[kind], "utf-8")

    def answer(request: GenerationRequest) -> str:
        text = request.messages[-1].content
        return "Within 30 days [1]." if "Until when" in text else "The documents do not say."

    result, _ = run_suite(tmp_path / "q.toml", ScriptedEngine(answer))
    scores = {name: score.value for name, score in result.scores.items()}
    assert (result.cases, result.about.documents) == (3, 2)
    assert (scores["f1"], scores["no_answer_accuracy"]) == pytest.approx((2 / 3, 2 / 3))


ROUTER = """
description = "Choice"
target = "router"
metrics = ["accuracy"]
[rows]
files = ["rows.jsonl"]
split = "test"
expected = "{skill}"
"""


def test_the_router_chooses_as_in_the_server(tmp_path: Path) -> None:
    texts = [
        "good evening to you",
        "/translate to German: good evening",
        "put this into French: a cat",
        "a Python function that counts words",
        "when does the shop open on Sundays?",
    ]
    rows = [{"text": text, "skill": "chat"} for text in texts]
    choices = []
    for target, engine in (
        ("router", None),
        ("server", ScriptedEngine(lambda request: "x", missing_capabilities=["choice"])),
    ):
        suite = ROUTER.replace('"router"', f'"{target}"')
        path = write_suite(tmp_path, suite, rows)
        outputs = {
            case.example.text: case.output
            for case in run_suite(path, engine, output=target)[1].cases()
        }
        choices.append({text: (each.skill, each.score) for text, each in outputs.items()})
    assert choices[0] == choices[1]
    assert choices[0][texts[1]][0] == "translation"
    assert choices[0][texts[3]][0] == "codegen"


def test_labels_of_a_suite_are_skills(tmp_path: Path) -> None:
    suite = ROUTER + '[examples]\nlabel = "{skill}"\nper_label = 3\n'
    words = {"weather": "rain sun snow fog wind hail", "food": "bread soup rice cake fish salad"}
    rows = [
        {"text": f"{kind} {word}", "skill": label}
        for label, all_words in words.items()
        for word, kind in zip(all_words.split(), [label] * 6, strict=True)
    ]
    settings = Settings(routing=RoutingSettings(default="none"))
    result, _ = run_suite(write_suite(tmp_path, suite, rows), settings=settings)
    assert result.scores["accuracy"].value == 1
    assert result.cases == 6


FOLDER = """
description = "Search"
target = "retriever"
metrics = ["recall@1"]
[rows]
files = ["rows.jsonl"]
split = "test"
text = "{question}"
relevant = "{page}"
[documents]
paths = ["pages", "terms.txt"]
"""


def write_pages(folder: Path) -> Path:
    (folder / "pages" / "shops").mkdir(parents=True)
    (folder / "pages" / "shops" / "berlin.md").write_text("# Berlin\n\nOpen until eight.\n")
    (folder / "pages" / "returns.html").write_text("<h1>Returns</h1><p>Within 30 days.</p>")
    (folder / "pages" / "data.bin").write_bytes(b"\0")
    (folder / "terms.txt").write_text("The courts of Hamburg are competent.")
    rows = [
        {"question": "Until when is Berlin open?", "page": "pages/shops/berlin.md"},
        {"question": "Within how many days are returns?", "page": "pages/returns.html"},
        {"question": "Which courts are competent?", "page": "terms.txt"},
    ]
    return write_suite(folder, FOLDER, rows)


def test_files_and_folders_are_documents(tmp_path: Path) -> None:
    path = write_pages(tmp_path)
    result, directory = run_suite(path)
    assert result.scores["recall@1"].value == 1
    assert result.about.documents == 3
    read = {file.path: file.sha256 for file in result.about.files}
    assert sorted(read) == [
        "pages/returns.html", "pages/shops/berlin.md", "rows.jsonl", "terms.txt"
    ]  # fmt: skip
    content = (tmp_path / "terms.txt").read_bytes()
    assert read["terms.txt"] == hashlib.sha256(content).hexdigest()
    found = [case.output.documents[0] for case in directory.cases()]
    assert sorted(found) == ["berlin.md", "returns.html", "terms.txt"], "as people see them"


def test_rows_and_files_are_documents_of_one_suite(tmp_path: Path) -> None:
    path = write_pages(tmp_path)
    path.write_text(FOLDER + 'text = "{question}"\nkey = "{question}"\n')
    assert run_suite(path)[0].about.documents == 6


def test_a_file_that_cannot_be_a_document_is_named(tmp_path: Path) -> None:
    path = write_pages(tmp_path)
    (tmp_path / "terms.txt").unlink()
    with pytest.raises(InvalidInput, match=r"terms.txt' cannot be read: it cannot be opened"):
        run_suite(path)


def test_a_knowledge_base_without_files_reads_none(tmp_path: Path) -> None:
    class Rows(PluginSettings):
        """Settings of the knowledge base."""

    plugins = registry()
    backend = Backend(name="rows", settings=Rows, build=lambda settings, context: ListKnowledge())
    owners = {**plugins.owners, ("knowledge", "rows"): plugins.owners["skills", "chat"]}
    plugins = dataclasses.replace(plugins, knowledge={"rows": backend}, owners=owners)
    settings = Settings(knowledge=KnowledgeSettings(use="rows"))
    with pytest.raises(InvalidInput, match="the knowledge base 'rows' reads no files"):
        run_suite(write_pages(tmp_path), settings=settings, plugins=plugins)


def test_what_people_liked_is_compared_with_what_is_said_now(tmp_path: Path) -> None:
    before = [{"role": "user", "text": "I am Bob"}, {"role": "assistant", "text": "Hello"}]
    rows = [
        {"id": "a", "rating": "up", "history": before, "message": "hello", "reply": "Reply hello"},
        {"id": "b", "rating": "down", "history": [], "message": "hi", "reply": "Reply  HI!"},
        {"id": "c", "rating": "down", "history": [], "message": "bye", "reply": "Go away"},
    ]
    export = tmp_path / "export.jsonl"
    export.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert write_feedback_suite(export, tmp_path / "rated.toml") == 3
    engine = ScriptedEngine(reply)
    result, directory = run_suite(tmp_path / "rated.toml", engine)
    scores = result.scores
    page = (directory.path / "report.html").read_text("utf-8")
    assert page.index("Reply hello") < page.index("Go away"), "a case without the metric is last"
    assert (scores["liked_overlap"].value, scores["disliked_repeats"].value) == (1, 1 / 2)
    prompts = [[message.content for message in request.messages] for request in asked(engine)]
    assert any(prompt[-3:] == ["I am Bob", "Hello", "hello"] for prompt in prompts)


def test_a_suite_of_an_unknown_skill_is_refused(tmp_path: Path) -> None:
    path = write_suite(tmp_path, QA.replace('"qa"', '"poetry"'), PAGES)
    with pytest.raises(InvalidInput, match=r"no skill 'poetry'; there are: chat, codegen"):
        Run(path, tmp_path, RunOptions(), Settings(), registry())


def test_a_skill_keeps_its_own_model(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "engine": {"models": {"big": {"use": "scripted"}}},
            "skills": {"chat": {"model": "big"}},
        }
    )
    big, default = ScriptedEngine(reply), ScriptedEngine(reply)
    path = write_suite(tmp_path, CHAT, numbered(2))
    result, _ = run_suite(path, default, settings=settings, models={"big": big})
    assert result.scores["exact_match"].value == 1
    assert (len(asked(big)), len(asked(default))) == (2, 0)
