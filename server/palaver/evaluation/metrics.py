"""Metrics: each turns cases into a `Measure`."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from palaver.errors import ConfigurationError
from palaver.evaluation.cases import Case
from palaver.evaluation.leaks import normal_form
from palaver.evaluation.libraries import load_library
from palaver.evaluation.measures import Measure, Values, divide, each_set, mean_of
from palaver.evaluation.squad import exact_match, token_f1
from palaver.evaluation.suites import Suite
from palaver.knowledge import SearchWay
from palaver.routing.router import EVIDENCE_REASONS

IR_MEASURES, ROUGE = "ir_measures", "rouge_score.rouge_scorer"
SACREBLEU, SKLEARN = "sacrebleu.metrics", "sklearn.metrics"
CALIBRATION_BINS = 10


class Metric(NamedTuple):
    """A metric with its name in suites, as ``recall@10`` or ``recall:oos``. ``library``: the module
    that its measure needs."""

    name: str
    title: str
    is_better_high: bool
    measure: Callable[[Sequence[Case]], Measure]
    library: str = ""
    unit: str = ""


# Choice of the skill


def _right(case: Case) -> bool:
    return case.output.skill in case.example.expected


def accuracy(cases: Sequence[Case]) -> Measure:
    return mean_of(float(_right(case)) for case in cases)


def label_recall(label: str) -> Callable[[Sequence[Case]], Measure]:
    """Return the measure of the share of the cases with a label that got it."""
    return lambda cases: mean_of(
        float(_right(case)) if label in case.example.expected else math.nan for case in cases
    )


def macro_f1(cases: Sequence[Case]) -> Measure:
    """Measure the mean F1 of the labels that cases have."""
    f1_score = load_library(SKLEARN).f1_score
    labels = sorted({case.example.expected[0] for case in cases} | {c.output.skill for c in cases})
    index = {label: number for number, label in enumerate(labels)}
    true = np.array([index[case.example.expected[0]] for case in cases])
    given = np.array([index[case.output.skill] for case in cases])

    def score(weights: Values) -> float:
        present = np.unique(true[weights > 0])
        return float(f1_score(true, given, labels=present, average="macro", sample_weight=weights))

    return Measure(np.where(true == given, 1.0, 0.0), each_set(score))


class Confidence(NamedTuple):
    """The router's probabilities, whether the choices were right, and which cases they are of."""

    scores: Values
    right: npt.NDArray[np.bool_]
    cases: npt.NDArray[np.bool_]


def read_confidence(cases: Sequence[Case]) -> Confidence:
    """Return the probabilities of the choices by the skills' examples.

    The default skill is chosen when none is likely, so its probability says nothing.
    """
    has = [case.output.reason in EVIDENCE_REASONS for case in cases]
    kept = [case for case, is_kept in zip(cases, has, strict=True) if is_kept]
    scores = np.array([case.output.score for case in kept], dtype=np.float64)
    return Confidence(scores, np.array([_right(c) for c in kept], dtype=bool), np.array(has))


def auroc(cases: Sequence[Case]) -> Measure:
    """Measure how well the router's probability tells right choices from wrong ones."""
    roc_auc_score = load_library(SKLEARN).roc_auc_score
    confidence = read_confidence(cases)

    def score(weights: Values) -> float:
        used = weights[confidence.cases]
        drawn = used > 0
        if len(set(confidence.right[drawn])) < 2:
            return math.nan
        return float(
            roc_auc_score(
                confidence.right[drawn], confidence.scores[drawn], sample_weight=used[drawn]
            )
        )

    return Measure(None, each_set(score))


def calibration_error(cases: Sequence[Case]) -> Measure:
    """Measure the expected calibration error: the mean distance between probability and share of
    right choices, over `CALIBRATION_BINS` bins of equal width."""
    confidence = read_confidence(cases)
    bins = np.minimum((confidence.scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    member = np.eye(CALIBRATION_BINS)[bins]
    gap = (confidence.scores - confidence.right)[:, None] * member

    def score(weights: Values) -> Values:
        used = weights[:, confidence.cases]
        return divide(np.abs(used @ gap).sum(axis=1), used.sum(axis=1))

    return Measure(None, score)


# Search


def ranking(measure: str, depth: int, way: str = "") -> Callable[[Sequence[Case]], Measure]:
    """Return a measure of ``ir_measures``, such as ``nDCG`` at 10, of the documents found: by the
    search, or by one ``way`` alone."""

    def documents(case: Case) -> tuple[str, ...]:
        return case.output.baselines.get(way, ()) if way else case.output.documents

    def measure_cases(cases: Sequence[Case]) -> Measure:
        library = load_library(IR_MEASURES)
        wanted = getattr(library, measure) @ depth
        asked = [
            (str(n), case)
            for n, case in enumerate(cases)
            if case.example.relevant and (not way or way in case.output.baselines)
        ]
        relevant = [
            library.Qrel(query, document, 1)
            for query, case in asked
            for document in case.example.relevant
        ]
        found = [
            library.ScoredDoc(query, document, -rank)
            for query, case in asked
            for rank, document in enumerate(dict.fromkeys(documents(case)))
        ]
        values = np.full(len(cases), np.nan)
        for query, _ in asked:
            values[int(query)] = 0.0  # a query without a document is left out of the results
        for result in library.iter_calc([wanted], relevant, found):
            values[int(result.query_id)] = result.value
        return mean_of(values)

    return measure_cases


def citation_precision(cases: Sequence[Case]) -> Measure:
    """Measure the share of a reply's citations that name a document with the answer."""

    def precision(case: Case) -> float:
        cited, relevant = case.output.documents, set(case.example.relevant)
        if not cited or not relevant:
            return math.nan
        return sum(document in relevant for document in cited) / len(cited)

    return mean_of(map(precision, cases))


# Texts


def _best_answer(compare: Callable[[str, str], float]) -> Callable[[Sequence[Case]], Measure]:
    """Return the measure of the best agreement with one of the expected answers, where an empty
    text says that there is none."""
    return lambda cases: mean_of(
        max(compare(case.output.text, answer) for answer in case.example.expected or ("",))
        for case in cases
    )


def no_answer_accuracy(cases: Sequence[Case]) -> Measure:
    """Measure how often the reply gives an answer exactly where there is one."""
    return mean_of(float((not case.output.text) == (not case.example.expected)) for case in cases)


def corpus_score(metric: str, **options: object) -> Callable[[Sequence[Case]], Measure]:
    """Return a corpus score of sacrebleu, from the counts of the single cases.

    sacrebleu adds up the counts of the sentences and computes the score of the sums. So does this,
    for each resample, with the methods by which sacrebleu resamples itself.
    """

    def measure(cases: Sequence[Case]) -> Measure:
        kind = getattr(load_library(SACREBLEU), metric)
        scorer = kind(**options)
        of_sentences = kind(**options, **({"effective_order": True} if metric == "BLEU" else {}))
        texts = [case.output.text for case in cases]
        most = max(len(case.example.expected) for case in cases)
        references = [
            [case.example.expected[n] if n < len(case.example.expected) else None for case in cases]
            for n in range(most)
        ]
        counts = np.array(scorer._extract_corpus_statistics(texts, references), dtype=np.float64)

        def score(row: Values) -> float:
            return float(scorer._compute_score_from_stats((row @ counts).tolist()).score)

        values = [
            of_sentences.sentence_score(text, list(case.example.expected)).score
            for text, case in zip(texts, cases, strict=True)
        ]
        return Measure(np.array(values), each_set(score))

    return measure


def rouge(kind: str) -> Callable[[Sequence[Case]], Measure]:
    """Return a measure of ``rouge_score``: the best F1, of the expected texts."""

    def measure(cases: Sequence[Case]) -> Measure:
        scorer = load_library(ROUGE).RougeScorer([kind], use_stemmer=True)
        return mean_of(
            scorer.score_multi(list(case.example.expected), case.output.text)[kind].fmeasure
            for case in cases
        )

    return measure


def perplexity(cases: Sequence[Case]) -> Measure:
    """Measure the model's own perplexity: how surprised it was by the tokens that it wrote."""
    sums = np.array([case.output.logprob for case in cases])
    tokens = np.array([case.output.logprob_tokens for case in cases], dtype=np.float64)
    return Measure(
        np.exp(-divide(sums, tokens)),
        lambda weights: np.exp(-divide(weights @ sums, weights @ tokens)),
    )


# Code


def pass_at(k: int) -> Callable[[Sequence[Case]], Measure]:
    """Return the measure of the chance that one of ``k`` replies passes its test: Chen et al.,
    "Evaluating Large Language Models Trained on Code", 2021."""

    def chance(case: Case) -> float:
        passed = sum(bool(output.passed) for output in case.outputs)
        total = len(case.outputs)
        return 1 - math.comb(total - passed, k) / math.comb(total, k)

    return lambda cases: mean_of(map(chance, cases))


# Feedback


def liked_overlap(cases: Sequence[Case]) -> Measure:
    """Measure how much of the replies that people liked the new ones keep: ROUGE-L."""
    values = rouge("rougeL")(cases).values
    assert values is not None
    liked = np.array([case.example.rating == "up" for case in cases])
    return mean_of(np.where(liked, values, np.nan))


def disliked_repeats(cases: Sequence[Case]) -> Measure:
    """Measure the share of the replies that people disliked which are given again."""

    def repeats(case: Case) -> float:
        if case.example.rating != "down":
            return math.nan
        again = normal_form(case.output.text)
        return float(any(normal_form(text) == again for text in case.example.expected))

    return mean_of(map(repeats, cases))


# Costs


def _output_mean(read: Callable[[Case], float | None]) -> Callable[[Sequence[Case]], Measure]:
    def value(case: Case) -> float:
        found = read(case)
        return math.nan if found is None else float(found)

    return lambda cases: mean_of(map(value, cases))


class Prices(NamedTuple):
    """Price of a million tokens of prompts and of replies, in any currency."""

    prompt: float
    completion: float

    def of(self, case: Case) -> float:
        """Return the price of all outputs of a case."""
        used = sum((output.usage for output in case.outputs[1:]), case.output.usage)
        return (
            used.prompt_tokens * self.prompt + used.completion_tokens * self.completion
        ) / 1_000_000


def cost_metrics(prices: Prices | None, *, has_model: bool) -> list[Metric]:
    """Return what every run measures beside its suite's metrics."""
    found = [
        Metric(
            "failures", "Failed turns", False, _output_mean(lambda c: c.output.outcome == "failed")
        ),
        Metric(
            "seconds",
            "Time of the reply",
            False,
            _output_mean(lambda c: c.output.seconds),
            unit="s",
        ),
    ]
    if has_model:
        first = _output_mean(lambda c: c.output.first_token_seconds)
        prompt = _output_mean(lambda c: c.output.usage.prompt_tokens)
        written = _output_mean(lambda c: c.output.usage.completion_tokens)
        found += [
            Metric("first_token_seconds", "Time to first token", False, first, unit="s"),
            Metric("prompt_tokens", "Prompt tokens", False, prompt),
            Metric("completion_tokens", "Reply tokens", False, written),
        ]
    if prices is not None:
        found.append(Metric("cost", "Cost of a message", False, _output_mean(prices.of)))
    return found


# Registry

Measuring = Callable[[Sequence[Case]], Measure]
_PLAIN: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "Accuracy", True, accuracy),
        Metric("macro_f1", "Macro F1", True, macro_f1, SKLEARN),
        Metric("auroc", "AUROC of the router's probability", True, auroc, SKLEARN),
        Metric("calibration_error", "Expected calibration error", False, calibration_error),
        Metric("exact_match", "Exact match", True, _best_answer(exact_match)),
        Metric("f1", "Token F1", True, _best_answer(token_f1)),
        Metric("no_answer_accuracy", "Answer or none, accuracy", True, no_answer_accuracy),
        Metric("citation_precision", "Citation precision", True, citation_precision),
        Metric("bleu", "BLEU", True, corpus_score("BLEU"), SACREBLEU),
        Metric("bleu:zh", "BLEU, Chinese", True, corpus_score("BLEU", tokenize="zh"), SACREBLEU),
        Metric("chrf++", "chrF++", True, corpus_score("CHRF", word_order=2), SACREBLEU),
        Metric("rouge1", "ROUGE-1", True, rouge("rouge1"), ROUGE),
        Metric("rouge2", "ROUGE-2", True, rouge("rouge2"), ROUGE),
        Metric("rougeL", "ROUGE-L", True, rouge("rougeL"), ROUGE),
        Metric("perplexity", "Perplexity of the replies", False, perplexity),
        Metric("liked_overlap", "Overlap with liked replies", True, liked_overlap, ROUGE),
        Metric("disliked_repeats", "Disliked replies, repeated", False, disliked_repeats),
    )
}
_RANKINGS = {"ndcg": ("nDCG", "nDCG"), "recall": ("Recall", "R")}
_NUMBERED = re.compile(r"(\w+)@([1-9]\d{0,3})(?::(\w+))?")


def find_metric(name: str) -> Metric:
    """Return a metric by its name in a suite. Raises `ConfigurationError`."""
    if name in _PLAIN:
        return _PLAIN[name]
    if name.startswith("recall:"):
        label = name.removeprefix("recall:")
        return Metric(name, f"Recall of {label}", True, label_recall(label))
    if numbered := _NUMBERED.fullmatch(name):
        kind, number, way = numbered[1], int(numbered[2]), numbered[3] or ""
        if kind == "pass" and not way:
            return Metric(name, f"pass@{number}", True, pass_at(number))
        if kind in _RANKINGS and way in ("", *get_args(SearchWay)):
            title, measure = _RANKINGS[kind]
            by = f" by {way} alone" if way else ""
            return Metric(
                name, f"{title}@{number}{by}", True, ranking(measure, number, way), IR_MEASURES
            )
    ranked = (f"{kind}@NUMBER{way}" for kind in _RANKINGS for way in ("", ":words", ":vectors"))
    known = ", ".join([*_PLAIN, "recall:LABEL", "pass@NUMBER", *ranked])
    raise ConfigurationError(f"there is no metric {name!r}; there are: {known}")


def suite_metrics(suite: Suite) -> list[Metric]:
    """Return the metrics of a suite.

    Raises `ConfigurationError` for one that does not fit it, or whose library is not installed.
    """
    found = [find_metric(name) for name in suite.metrics]
    for metric in found:
        if missing := _find_missing(metric.name, suite):
            raise ConfigurationError(f"the metric {metric.name!r} needs {missing}")
        if metric.library:
            load_library(metric.library)
    return found


def _find_missing(metric: str, suite: Suite) -> str:
    """Return what a metric needs and the suite lacks, empty if nothing."""
    plain, _, way = metric.partition(":")
    base, _, number = plain.partition("@")
    if number and way and suite.target != "retriever":
        return "the target 'retriever'"
    if base == "pass":
        if suite.program is None:
            return "a table 'program'"
        too_few = suite.sampling.samples < int(number)
        return f"sampling.samples of {number} or more" if too_few else ""
    if number or metric == "citation_precision":
        return "" if suite.rows.relevant else "rows.relevant"
    return "" if suite.rows.expected or metric == "perplexity" else "rows.expected"
