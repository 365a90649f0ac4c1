"""Metrics: each against a case computed by hand, and against a second implementation."""

import itertools
import math
import random
import re
import statistics
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.server.evaluation.cases import case, chosen

from palaver.errors import ConfigurationError
from palaver.evaluation.cases import Case
from palaver.evaluation.measures import draw_weights, interval_of, mean_of, score_all
from palaver.evaluation.metrics import _PLAIN, Prices, cost_metrics, find_metric
from palaver.evaluation.squad import exact_match, token_f1
from palaver.messages import Usage

sklearn_metrics = pytest.importorskip("sklearn.metrics")
for library in ("ir_measures", "rouge_score", "sacrebleu"):
    pytest.importorskip(library)

pytestmark = pytest.mark.slow

WORDS = ["the", "cat", "sat", "on", "a", "red", "mat", "and", "slept", "well", "today"]


def score(name: str, cases: Sequence[Case]) -> float:
    return score_all(find_metric(name).measure(cases), len(cases))


def random_texts(seed: int, count: int = 30) -> list[tuple[str, str]]:
    """Return pairs of a text and one that is a little different."""
    chooser = random.Random(seed)
    pairs = []
    for _ in range(count):
        words = chooser.choices(WORDS, k=chooser.randint(5, 14))
        changed = [chooser.choice(WORDS) if chooser.random() < 0.3 else word for word in words]
        pairs.append((" ".join(words), " ".join(changed)))
    return pairs


def random_choices(seed: int, count: int = 200) -> list[Case]:
    chooser = random.Random(seed)
    cases = []
    for _ in range(count):
        label, probability = chooser.choice("abc"), chooser.random()
        skill = label if chooser.random() < probability else chooser.choice("abc")
        cases.append(chosen(label, skill, probability))
    return cases


# Choice of the skill

FOUR = [chosen("a", "a", 0.9), chosen("a", "b", 0.6), chosen("b", "b", 0.8), chosen("c", "c", 0.55)]


def test_accuracy_and_recall_by_hand() -> None:
    assert score("accuracy", FOUR) == 3 / 4
    assert score("recall:a", FOUR) == 1 / 2
    assert score("recall:c", FOUR) == 1
    assert math.isnan(score("recall:d", FOUR))


def test_macro_f1_by_hand() -> None:
    # a: precision 1, recall 1/2; b: precision 1/2, recall 1; c: both 1.
    assert score("macro_f1", FOUR) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_a_label_that_was_only_given_has_no_f1() -> None:
    assert score("macro_f1", [chosen("a", "a"), chosen("a", "z")]) == pytest.approx(2 / 3)


def test_choices_agree_with_a_second_implementation() -> None:
    cases = random_choices(1)
    pairs = Counter((each.example.expected[0], each.output.skill) for each in cases)
    f1 = []
    for label in "abc":
        given = sum(count for (_, skill), count in pairs.items() if skill == label)
        wanted = sum(count for (expected, _), count in pairs.items() if expected == label)
        f1.append(2 * pairs[label, label] / (given + wanted))
    assert score("macro_f1", cases) == pytest.approx(sum(f1) / 3)
    right = sum(pairs[label, label] for label in "abc")
    assert score("accuracy", cases) == right / len(cases)
    assert score("recall:b", cases) == pairs["b", "b"] / sum(
        count for (expected, _), count in pairs.items() if expected == "b"
    )


def test_auroc_by_hand() -> None:
    # Of the three right choices, two are above the wrong one with 0.6.
    assert score("auroc", FOUR) == pytest.approx(2 / 3)
    assert math.isnan(score("auroc", FOUR[:1]))


def test_auroc_agrees_with_the_rank_statistic() -> None:
    cases = random_choices(2)
    right = [c.output.score or 0 for c in cases if c.output.skill in c.example.expected]
    wrong = [c.output.score or 0 for c in cases if c.output.skill not in c.example.expected]
    wins = sum((a > b) + (a == b) / 2 for a in right for b in wrong)
    assert score("auroc", cases) == pytest.approx(wins / len(right) / len(wrong))


def test_calibration_error_by_hand() -> None:
    # Bins: 0.9 right; 0.6 wrong; 0.8 right; 0.55 right.
    assert score("calibration_error", FOUR) == pytest.approx((0.1 + 0.6 + 0.2 + 0.45) / 4)
    same_bin = [chosen("a", "a", 0.62), chosen("a", "b", 0.68)]
    assert score("calibration_error", same_bin) == pytest.approx(0.65 - 0.5)


def test_calibration_error_agrees_with_sklearn() -> None:
    cases = random_choices(3)
    scores = np.array([each.output.score for each in cases])
    right = np.array([each.output.skill in each.example.expected for each in cases])
    curve = pytest.importorskip("sklearn.calibration").calibration_curve(right, scores, n_bins=10)
    sizes = np.histogram(scores, bins=np.linspace(0, 1, 11))[0]
    expected = (np.abs(curve[0] - curve[1]) * sizes[sizes > 0]).sum() / len(cases)
    assert score("calibration_error", cases) == pytest.approx(expected)


def test_the_probability_of_the_default_skill_does_not_count() -> None:
    default = case(
        "b", skill="b", score=0.01, reason="No skill clearly fits, so the default answers."
    )
    assert score("calibration_error", [*FOUR, default]) == score("calibration_error", FOUR)
    assert score("auroc", [*FOUR, default]) == score("auroc", FOUR)


# Search


def test_ranking_by_hand() -> None:
    found = case(relevant=("b", "x"), documents=("a", "b", "b", "c"))
    nothing = case(relevant=("a",))
    unasked = case(documents=("a",))
    ideal = 1 + 1 / math.log2(3)
    assert score("ndcg@10", [found]) == pytest.approx(1 / math.log2(3) / ideal)
    assert score("recall@10", [found]) == 1 / 2
    assert score("recall@1", [found]) == 0
    assert score("recall@10", [found, nothing, unasked]) == 1 / 4


def test_the_ranking_of_one_way_is_measured_beside_the_search() -> None:
    both = case(
        relevant=("a",), documents=("a",), baselines={"words": ("b", "a"), "vectors": ("b",)}
    )
    words_alone = case(relevant=("a",), documents=("b",), baselines={"words": ("a",)})
    cases = [both, words_alone]
    assert score("recall@1", cases) == 1 / 2
    assert score("recall@1:words", cases) == 1 / 2
    assert score("ndcg@10:words", [both]) == pytest.approx(1 / math.log2(3))
    assert score("recall@1:vectors", cases) == 0
    assert math.isnan(score("recall@1:vectors", [words_alone]))


def test_ranking_agrees_with_sklearn() -> None:
    chooser = random.Random(4)
    cases, expected = [], []
    for _ in range(40):
        documents = [f"d{n}" for n in chooser.sample(range(30), 15)]
        relevant = tuple(chooser.sample(documents, 3))
        cases.append(case(relevant=relevant, documents=tuple(documents)))
        gains = [[float(document in relevant) for document in documents]]
        expected.append(sklearn_metrics.ndcg_score(gains, [list(range(15, 0, -1))], k=10))
    assert score("ndcg@10", cases) == pytest.approx(np.mean(expected))


def test_recall_agrees_with_a_second_implementation() -> None:
    chooser = random.Random(12)
    cases, expected = [], []
    for _ in range(40):
        documents = chooser.choices([f"d{n}" for n in range(12)], k=15)  # some several times
        relevant = tuple(chooser.sample([f"d{n}" for n in range(12)], 3))
        cases.append(
            case(relevant=relevant, documents=tuple(documents), baselines={"words": documents[5:]})
        )
        expected.append([len(set(relevant) & set(first(documents, k))) / 3 for k in (1, 4)])
    for k, wanted in zip((1, 4), np.mean(expected, axis=0), strict=True):
        assert score(f"recall@{k}", cases) == pytest.approx(wanted)
    by_words = [
        case(relevant=c.example.relevant, documents=c.output.baselines["words"]) for c in cases
    ]
    for metric in ("recall@4", "ndcg@10"):
        assert score(f"{metric}:words", cases) == score(metric, by_words)


def first(documents: Sequence[str], count: int) -> list[str]:
    """Return the first different documents."""
    return list(Counter(documents))[:count]


def test_citation_precision_agrees_with_sklearn() -> None:
    chooser = random.Random(13)
    cases, expected = [], []
    for _ in range(40):
        cited = tuple(chooser.choices("abcdef", k=chooser.randint(0, 5)))
        relevant = tuple(chooser.sample("abcdef", chooser.randint(0, 3)))
        cases.append(case(relevant=relevant, documents=cited))
        if cited and relevant:
            right = [document in relevant for document in cited]
            expected.append(sklearn_metrics.precision_score(right, [True] * len(cited)))
    assert score("citation_precision", cases) == pytest.approx(np.mean(expected))


def test_citation_precision_by_hand() -> None:
    half = case(relevant=("a",), documents=("a", "b"))
    none = case(relevant=("a",))
    assert score("citation_precision", [half, none]) == 1 / 2
    assert math.isnan(score("citation_precision", [none]))


# Texts


def test_squad_by_hand() -> None:
    assert exact_match("The  Normans!", "normans") == 1
    assert exact_match("a Norman", "normans") == 0
    assert token_f1("in the north of France", "France") == pytest.approx(2 / 5)
    assert token_f1("", "") == 1
    assert token_f1("France", "") == token_f1("", "France") == 0
    cases = [case(("France", "in France"), "in the France"), case((), ""), case((), "Paris")]
    assert score("exact_match", cases) == pytest.approx(2 / 3)
    assert score("f1", cases) == pytest.approx(2 / 3)
    assert score("no_answer_accuracy", cases) == pytest.approx(2 / 3)


def second_squad(text: str, expected: str) -> tuple[float, float]:
    """Return exact match and F1, by pairing off tokens one by one."""
    sides = []
    for side in (text, expected):
        letters = "".join(c for c in side.lower() if c not in string.punctuation)
        sides.append(
            [word for word in re.findall(r"\S+", letters) if word not in ("a", "an", "the")]
        )
    given, wanted = sides
    if not given or not wanted:
        return (float(given == wanted),) * 2
    left, common = list(wanted), 0
    for token in given:
        if token in left:
            left.remove(token)
            common += 1
    precision, recall = common / len(given), common / len(wanted)
    f1 = 2 * precision * recall / (precision + recall) if common else 0.0
    return float(given == wanted), f1


def test_squad_agrees_with_a_second_implementation() -> None:
    for expected, text in [*random_texts(5), ("", ""), ("a cat", ""), ("The", "an"), ("x-y", "xy")]:
        found = exact_match(text, expected), token_f1(text, expected)
        assert found == pytest.approx(second_squad(text, expected))


def test_the_answer_or_none_agrees_with_sklearn() -> None:
    chooser = random.Random(14)
    cases = [
        case(chooser.choice(((), "a", ("a", "b"))), chooser.choice(("", "a text")))
        for _ in range(60)
    ]
    has = [bool(each.example.expected) for each in cases]
    gives = [bool(each.output.text) for each in cases]
    assert score("no_answer_accuracy", cases) == pytest.approx(
        sklearn_metrics.accuracy_score(has, gives)
    )


def test_the_answers_of_a_suite_agree_with_a_second_implementation() -> None:
    pairs = random_texts(15)
    cases = [case((a, b), c) for (a, c), (b, _) in itertools.pairwise(pairs)]
    best = [
        np.max([second_squad(c.output.text, a) for a in c.example.expected], axis=0) for c in cases
    ]
    expected = np.mean(best, axis=0)
    assert (score("exact_match", cases), score("f1", cases)) == pytest.approx(tuple(expected))


def test_chinese_bleu_by_hand_and_by_nltk() -> None:
    pairs = [("猫在垫子上睡觉", "猫在垫子上坐着"), ("今天天气很好啊", "今天天气非常好")]
    # 5 + 5 of 7 + 7 characters, 4 + 3 of 6 + 6 pairs, 3 + 2 of 5 + 5 triples, 2 + 1 of 4 + 4.
    by_hand = 100 * (10 / 14 * 7 / 12 * 5 / 10 * 3 / 8) ** (1 / 4)
    cases = [case(*pair) for pair in pairs]
    assert score("bleu:zh", cases) == pytest.approx(by_hand)
    bleu_score = pytest.importorskip("nltk.translate.bleu_score")
    expected = bleu_score.corpus_bleu([[list(a)] for a, _ in pairs], [list(b) for _, b in pairs])
    assert score("bleu:zh", cases) == pytest.approx(100 * expected)


def test_bleu_by_hand() -> None:
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples; equally long.
    given = case("the cat sat on the mat", "the cat sat on a mat")
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4)
    assert score("bleu", [given]) == pytest.approx(expected)


def test_chrf_by_hand() -> None:
    # Of "ab" in "abc": characters 2/2 and 2/3, pairs 1/1 and 1/2, words 0/1 and 0/1.
    precision, recall = (1 + 1 + 0) / 3, (2 / 3 + 1 / 2 + 0) / 3
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert score("chrf++", [case("abc", "ab")]) == pytest.approx(expected)


def test_corpus_scores_agree_with_nltk() -> None:
    bleu_score = pytest.importorskip("nltk.translate.bleu_score")
    pairs = random_texts(6)
    cases = [case(*pair) for pair in pairs]
    expected = bleu_score.corpus_bleu(
        [[a.split()] for a, _ in pairs], [b.split() for _, b in pairs]
    )
    assert score("bleu", cases) == pytest.approx(100 * expected)


def chrf_pp(reference: str, text: str) -> float:
    """Return chrF++ of one sentence without punctuation, as Popović (2017) defines it."""

    def grams(tokens: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
        return (
            Counter(itertools.pairwise(tokens))
            if size == 2
            else Counter(tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1))
        )

    units = [
        (list(reference.replace(" ", "")), list(text.replace(" ", "")), n) for n in range(1, 7)
    ]
    units += [(reference.split(), text.split(), n) for n in (1, 2)]
    precisions, recalls = [], []
    for wanted, given, size in units:
        right, total = grams(wanted, size), grams(given, size)
        if right and total:
            common = (right & total).total()
            precisions.append(common / total.total())
            recalls.append(common / right.total())
    precision, recall = np.mean(precisions), np.mean(recalls)
    return float(100 * 5 * precision * recall / (4 * precision + recall))


def test_chrf_agrees_with_a_second_implementation() -> None:
    for pair in random_texts(7):
        assert score("chrf++", [case(*pair)]) == pytest.approx(chrf_pp(*pair))


def test_corpus_scores_are_those_of_sacrebleu_with_several_references() -> None:
    metrics = pytest.importorskip("sacrebleu.metrics")
    pairs = random_texts(8)
    cases = [case((a, b), c) for (a, c), (b, _) in itertools.pairwise(pairs)]
    texts = [each.output.text for each in cases]
    references = [[each.example.expected[n] for each in cases] for n in (0, 1)]
    for name, scorer in (("bleu", metrics.BLEU()), ("chrf++", metrics.CHRF(word_order=2))):
        assert score(name, cases) == pytest.approx(scorer.corpus_score(texts, references).score)


def longest_common(a: list[str], b: list[str]) -> int:
    lengths = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            same = lengths[i - 1][j - 1] + 1
            lengths[i][j] = same if x == y else max(lengths[i - 1][j], lengths[i][j - 1])
    return lengths[-1][-1]


def test_rouge_by_hand() -> None:
    given = case(("nothing alike", "the cat sat on the mat"), "the mat sat")
    assert score("rouge1", [given]) == pytest.approx(2 * 3 / 9)
    assert score("rougeL", [given]) == pytest.approx(2 * 2 / 9)
    assert score("rouge2", [given]) == pytest.approx(2 * 1 / (2 + 5))


def test_rouge_agrees_with_a_second_implementation() -> None:
    pairs = random_texts(9)  # of words that the stemmer leaves alone, or cuts alike
    expected = [
        2 * longest_common(a.split(), b.split()) / (len(a.split()) + len(b.split()))
        for a, b in pairs
    ]
    assert score("rougeL", [case(*pair) for pair in pairs]) == pytest.approx(np.mean(expected))


def test_rouge_of_words_and_pairs_agrees_with_a_second_implementation() -> None:
    pairs = random_texts(16)
    for size, name in ((1, "rouge1"), (2, "rouge2")):
        expected = []
        for sides in pairs:
            grams = [
                Counter(zip(*(side.split()[n:] for n in range(size)), strict=False))
                for side in sides
            ]
            common = (grams[0] & grams[1]).total()
            expected.append(2 * common / (grams[0].total() + grams[1].total()))
        assert score(name, [case(*pair) for pair in pairs]) == pytest.approx(np.mean(expected))


def test_perplexity_agrees_with_the_entropy_of_torch() -> None:
    torch = pytest.importorskip("torch")
    chooser = random.Random(17)
    tokens = [[chooser.uniform(0.05, 1) for _ in range(chooser.randint(1, 9))] for _ in range(12)]
    cases = [
        case(logprob=math.fsum(map(math.log, each)), logprob_tokens=len(each)) for each in tokens
    ]
    every = torch.tensor([p for each in tokens for p in each], dtype=torch.float64)
    loss = torch.nn.functional.nll_loss(every.log()[:, None], torch.zeros(len(every), dtype=int))
    assert score("perplexity", cases) == pytest.approx(float(loss.exp()))


def test_perplexity_by_hand() -> None:
    sure = case(logprob=math.log(0.5), logprob_tokens=1)
    unsure = case(logprob=3 * math.log(0.25), logprob_tokens=3)
    silent = case()
    assert score("perplexity", [sure]) == pytest.approx(2)
    assert score("perplexity", [sure, unsure, silent]) == pytest.approx(2 ** (7 / 4))
    assert math.isnan(score("perplexity", [silent]))


# Code, feedback, costs


@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at_k_agrees_with_all_draws(k: int) -> None:
    passed = (True, False, False, True, False)
    draws = list(itertools.combinations(passed, k))
    expected = sum(any(draw) for draw in draws) / len(draws)
    assert score(f"pass@{k}", [case(passed=passed)]) == pytest.approx(expected)


def test_pass_at_1_by_hand() -> None:
    cases = [case(passed=(True,)), case(passed=(False,)), case()]
    assert score("pass@1", cases) == pytest.approx(1 / 3)


def test_feedback_by_hand() -> None:
    liked = case("the cat sat", "the cat slept", rating="up")
    repeated = case("It is  Four.", "it is four", rating="down")
    changed = case("It is four.", "It is five.", rating="down")
    assert score("liked_overlap", [liked, repeated]) == pytest.approx(2 / 3)
    assert score("disliked_repeats", [liked, repeated, changed]) == 1 / 2


def test_feedback_agrees_with_a_second_implementation() -> None:
    pairs = random_texts(18) + [("same", "SAME!")] * 3
    rated = [case(*pair, rating=("up", "down", "")[n % 3]) for n, pair in enumerate(pairs)]
    up = [pair for n, pair in enumerate(pairs) if n % 3 == 0]
    down = [pair for n, pair in enumerate(pairs) if n % 3 == 1]
    overlaps = [
        2
        * longest_common(a.lower().split(), re.findall(r"\w+", b.lower()))
        / (len(a.split()) + len(b.split()))
        for a, b in up
    ]
    assert score("liked_overlap", rated) == pytest.approx(np.mean(overlaps))
    words = [[sorted(re.findall(r"\w+", side.lower())) for side in pair] for pair in down]
    assert score("disliked_repeats", rated) == pytest.approx(np.mean([a == b for a, b in words]))


def test_the_cost_of_a_message_is_that_of_all_its_samples() -> None:
    usage = Usage(prompt_tokens=1_000, completion_tokens=100)
    asked = case(passed=(True, False), usage=usage)
    assert Prices(2.0, 10.0).of(asked) == pytest.approx(2 * (0.002 + 0.001))


def run_score(name: str, cases: Sequence[Case], prices: Prices | None = None) -> float:
    """Return a score that every run with a model has."""
    metrics = {metric.name: metric for metric in cost_metrics(prices, has_model=True)}
    return score_all(metrics[name].measure(cases), len(cases))


def test_what_every_run_measures_by_hand_and_by_the_mean() -> None:
    cases = [
        case(
            outcome="failed" if n == 0 else "done",
            seconds=float(n + 1),
            first_token_seconds=None if n == 0 else n / 4,
            usage=Usage(prompt_tokens=100 * n, completion_tokens=10 * n),
        )
        for n in range(4)
    ]
    by_hand = {
        "failures": 1 / 4,
        "seconds": 2.5,
        "first_token_seconds": 0.5,
        "prompt_tokens": 150,
        "completion_tokens": 15,
        "cost": (150 * 3 + 15 * 7) / 1_000_000,
    }
    prices = Prices(3.0, 7.0)
    found = {name: run_score(name, cases, prices) for name in by_hand}
    assert found == pytest.approx(by_hand)
    outputs = [each.output for each in cases]
    first_tokens = [o.first_token_seconds for o in outputs if o.first_token_seconds is not None]
    assert found["first_token_seconds"] == pytest.approx(statistics.fmean(first_tokens))
    assert found["seconds"] == pytest.approx(statistics.fmean(o.seconds for o in outputs))
    assert found["failures"] == statistics.fmean(o.outcome == "failed" for o in outputs)
    for kind, price in (("prompt_tokens", 3.0), ("completion_tokens", 7.0)):
        tokens = [getattr(o.usage, kind) for o in outputs]
        assert found[kind] == statistics.fmean(tokens)
        found["cost"] -= statistics.fmean(tokens) * price / 1_000_000
    assert found["cost"] == pytest.approx(0)


def test_every_metric_is_tested_here() -> None:
    """A new metric fails this test until it has its case by hand and its second implementation."""
    source = Path(__file__).read_text("utf-8")
    run = cost_metrics(Prices(1.0, 1.0), has_model=True)
    for name in [*_PLAIN, *(metric.name for metric in run), "recall:", "ndcg@", "recall@", "pass@"]:
        assert len(re.findall(f'"{re.escape(name)}', source)) >= 2, name


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"no metric 'blue'; there are: .*bleu"):
        find_metric("blue")


# Bootstrap


def test_an_interval_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).normal(5, 2, 80)
    measure = mean_of(values)
    resampled = map(measure.score, draw_weights(80, 1, resamples=20_000))
    found = interval_of(score_all(measure, 80), resampled)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_a_weight_counts_a_case_as_often() -> None:
    cases = random_choices(10, 12)
    weights = next(draw_weights(12, 5, resamples=1))[0]
    drawn = [each for each, times in zip(cases, weights, strict=True) for _ in range(int(times))]
    texts = [case(*pair) for pair in random_texts(11, 12)]
    drawn_texts = [
        each for each, times in zip(texts, weights, strict=True) for _ in range(int(times))
    ]
    for name, all_cases, some in [
        *((name, cases, drawn) for name in ("accuracy", "macro_f1", "auroc", "calibration_error")),
        *((name, texts, drawn_texts) for name in ("bleu", "chrf++", "rougeL", "f1")),
    ]:
        weighted = find_metric(name).measure(all_cases).score(weights[None])[0]
        assert weighted == pytest.approx(score(name, some)), name


def test_no_value_has_no_interval() -> None:
    measure = mean_of([math.nan, math.nan])
    found = interval_of(score_all(measure, 2), map(measure.score, draw_weights(2, 0)))
    assert all(map(math.isnan, found))


def test_resamples_do_not_depend_on_the_size_of_the_blocks() -> None:
    whole = np.concatenate(list(draw_weights(7, 3, resamples=50)))
    blocks = list(draw_weights(7, 3, resamples=50, block=30))
    assert len(blocks) == 13
    assert (np.concatenate(blocks) == whole).all()
    assert (whole.sum(axis=1) == 7).all()
