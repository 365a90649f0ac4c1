"""Which passage supports an answer to a question."""

import pytest

from palaver_skills.support import find_support

HANDBOOK = (
    (
        "Delivery\nDelivery takes four days. Delivery costs 6 euros, and it is free for orders "
        "above 80 euros."
    ),
    (
        "Opening hours\nThe workshop is open from Tuesday to Friday, from 9:00 to 18:00. It is "
        "closed on Mondays."
    ),
    "Illness\nIf you are ill, call Nora Whitfield before 8:30.",
    "Kitchen\nThe kitchen needs at least two people.",
)
TITLES = ("Handbook of Larkspur Bicycles",) * 4


@pytest.mark.parametrize(
    ("question", "answer", "passage"),
    [
        ("How much does delivery cost?", "6 euros.", 1),
        ("From which order value on is delivery free?", "Above 80 euros.", 1),
        ("From which order value on is delivery free?", "6 euros.", None),
        ("How much does delivery cost?", "80 euros.", None),
        ("How much does delivery cost?", "7 euros.", None),
        ("How long does delivery take?", "Four days.", 1),
        ("Whom do I call when I am ill?", "Nora Whitfield.", 3),
        ("Whom does Jonas call when he is ill?", "Nora Whitfield.", None),
        ("When is the workshop of Larkspur Bicycles open?", "From Tuesday to Friday.", 2),
        ("How long is parental leave?", "Four days.", None),
        ("How many people does the kitchen need at least?", "Two people.", 4),
        ("How many people does the kitchen need at most?", "Two people.", None),
        ("Is the workshop closed on Mondays?", "Yes.", 2),
        ("Is the workshop closed on Sundays?", "Yes.", None),
        ("When is the workshop open?", "The workshop.", None),
        ("Why?", "Four days.", None),
        ("How long does delivery take?", "", None),
    ],
)
def test_an_answer_needs_a_sentence_that_says_it_and_is_about_the_question(
    question: str, answer: str, passage: int | None
) -> None:
    assert find_support(answer, question, HANDBOOK, TITLES) == passage


def test_chinese_is_compared_by_pairs_of_characters() -> None:
    passages = ("配送\n配送需要四天。配送费是六欧元。", "休假\n员工每年有28天假期。")
    titles = ("手册", "手册")
    assert find_support("28天", "员工每年有多少天假期？", passages, titles) == 2
    assert find_support("30天", "员工每年有多少天假期？", passages, titles) is None


def test_the_sentence_before_may_name_the_subject() -> None:
    passage = "The garage has two gates. They open at six in the morning."
    assert find_support("At six.", "When do the gates open?", [passage], [""]) == 1
