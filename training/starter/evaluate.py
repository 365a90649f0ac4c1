"""Measure an exported starter model on held-out examples, through transformers.

    python -m training.starter.evaluate --data data/train --model build/starter/model --count 100

Scores: chrF (sacrebleu, 0 to 100) per direction of translation; exact match of grounded answers;
accuracy of routing; share of functions that parse and of those that pass their checks; ROUGE-L of
summaries; chrF of chat replies. All greedy.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from sacrebleu.metrics.chrf import CHRF
from training.starter import (
    code_data,
    corpus,
    dialogue_data,
    grounded_data,
    routing_data,
    summary_data,
    translation_data,
)
from training.starter.groups import Group
from training.starter.tokenization import write_json

from palaver import Passage
from palaver_skills import prompts
from palaver_skills.citations import CitationFilter

log = logging.getLogger("starter")

Messages = list[dict[str, str]]
BATCH = 32


class ChatModel:
    """Exported model that answers chats."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model = loaded.eval()

    def generate_replies(self, chats: Sequence[Messages], most: int) -> list[str]:
        """Answer chats greedily with at most `most` tokens each, in their order."""
        texts = [
            self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            for chat in chats
        ]
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found = [""] * len(texts)
        for places in _chunks(order, BATCH):
            for place, text in zip(
                places, self._batch([texts[p] for p in places], most), strict=True
            ):
                found[place] = text
        return found

    def _batch(self, texts: list[str], most: int) -> list[str]:
        asked = self.tokenizer(texts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=asked["input_ids"],
                attention_mask=asked["attention_mask"],
                max_new_tokens=most,
                do_sample=False,
            )
        replies = output[:, asked["input_ids"].shape[1] :]
        decoded: list[str] = self.tokenizer.batch_decode(replies, skip_special_tokens=True)
        return [text.strip() for text in decoded]


def _chunks(items: Sequence[int], size: int) -> Iterator[list[int]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def reply_pairs(speaker: ChatModel, groups: Sequence[Group], most: int) -> list[tuple[str, str]]:
    """Answer the last turn of every group's only branch; return (reply, reference) pairs."""
    asked = [group.prompts()[0] for group in groups]
    replies = speaker.generate_replies([messages for messages, _ in asked], most)
    return [(reply, answer) for reply, (_, answer) in zip(replies, asked, strict=True)]


def chrf(pairs: Sequence[tuple[str, str]]) -> float:
    """Return chrF2 of (reply, reference) pairs."""
    replies, references = [reply for reply, _ in pairs], [reference for _, reference in pairs]
    return round(float(CHRF().corpus_score(replies, [references]).score), 1)


def exact_match(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the share of replies that equal their reference."""
    return round(sum(reply == answer for reply, answer in pairs) / max(1, len(pairs)), 3)


def strip_citation(answer: str) -> str:
    """Return a grounded answer without the number of the passage."""
    return answer.rpartition(" [")[0]


def check_citations(reply: str, prompt: str) -> str:
    """Return a reply after the qa skill's check of its passage numbers."""
    blocks = prompt.partition("\n\nQuestion: ")[0].split("\n\n[")
    passages = [
        Passage(document="", title="", section="", number=at, text=block.partition("] ")[2])
        for at, block in enumerate(blocks, 1)
    ]
    check = CitationFilter(passages)
    return check.feed(reply) + check.end()


def rouge_l(reply: str, reference: str) -> float:
    """Return the F-measure of the longest common subsequence of words."""
    first, second = reply.lower().split(), reference.lower().split()
    row = [0] * (len(second) + 1)
    for word in first:
        before = row[:]
        for place, other in enumerate(second, 1):
            row[place] = (
                before[place - 1] + 1 if word == other else max(before[place], row[place - 1])
            )
    return 2 * row[-1] / max(1, len(first) + len(second))


def measure_code(speaker: ChatModel, count: int) -> dict[str, float]:
    """Measure generated functions."""
    tasks = code_data.held_out_groups(count)
    replies = reply_pairs(speaker, [group for _, group in tasks], 160)
    blocks = [code_data.extract_code(reply) for reply, _ in replies]
    good = [code_data.is_function(block) for block in blocks]
    right = [
        fine and code_data.passes_checks(block, task.checks)
        for fine, block, (task, _) in zip(good, blocks, tasks, strict=True)
    ]
    share = 1 / max(1, len(tasks))
    return {"code_parses": round(sum(good) * share, 3), "code_passes": round(sum(right) * share, 3)}


def measure_grounded(speaker: ChatModel, count: int) -> dict[str, float]:
    """Measure grounded answers: all, answerable ones and unanswerable ones."""
    groups = grounded_data.held_out_groups(count)
    pairs = reply_pairs(speaker, groups, 40)
    told_by = [group.prompts()[0][0][-1]["content"] for group in groups]
    open_ = [pair for pair in pairs if pair[1] == prompts.NOT_IN_DOCUMENTS]
    told = [pair for pair in pairs if pair[1] != prompts.NOT_IN_DOCUMENTS]
    return {
        "grounded_exact": exact_match(pairs),
        "grounded_answerable": exact_match(told),
        "grounded_value": exact_match(
            [(strip_citation(reply), strip_citation(answer)) for reply, answer in told]
        ),
        "grounded_unanswerable": exact_match(open_),
        "grounded_exact_checked": exact_match(
            [(check_citations(r, p), a) for (r, a), p in zip(pairs, told_by, strict=True)]
        ),
    }


def measure_translation(speaker: ChatModel, folder: Path, count: int) -> dict[str, float]:
    """Measure chrF of every direction."""
    found = {}
    for language in translation_data.FOREIGN:
        for into in (False, True):
            groups = translation_data.held_out_groups(
                folder, language, into_english=into, count=count
            )
            name = f"chrf_{language}_en" if into else f"chrf_en_{language}"
            found[name] = chrf(reply_pairs(speaker, groups, 40))
    return found


def measure_summaries(speaker: ChatModel, folder: Path, count: int) -> dict[str, float]:
    """Measure ROUGE-L of summaries, and how much shorter they are than the text."""
    groups = summary_data.held_out_groups(folder, count)
    pairs = reply_pairs(speaker, groups, 220)
    texts = [group.branches[0][0][0] for group in groups]
    scores = [rouge_l(reply, reference) for reply, reference in pairs]
    shares = [len(reply) / len(text) for (reply, _), text in zip(pairs, texts, strict=True)]
    return {
        "summary_rouge_l": round(sum(scores) / len(scores), 3),
        "summary_length_share": round(sum(shares) / len(shares), 3),
    }


def measure_scores(speaker: ChatModel, folder: Path, count: int) -> dict[str, float]:
    """Measure everything; `count` is the number of examples per direction or task."""
    found = measure_grounded(speaker, 2 * count)
    found |= measure_translation(speaker, folder, count)
    found |= {
        "routing_accuracy": exact_match(
            reply_pairs(speaker, routing_data.held_out_groups(folder, count), 8)
        )
    }
    found |= measure_code(speaker, count)
    found |= measure_summaries(speaker, folder, min(60, count))
    found |= {
        "chat_chrf": chrf(reply_pairs(speaker, dialogue_data.held_out_groups(folder, count), 60))
    }
    return found


def argument_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    found = argparse.ArgumentParser(prog="training.starter.evaluate", description=__doc__)
    found.add_argument("--data", type=Path, default=corpus.default_data_folder())
    found.add_argument("--model", type=Path, default=Path("build/starter/model"))
    found.add_argument("--count", type=int, default=100)
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--output", type=Path, help="write the scores as JSON")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    options = argument_parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    found = measure_scores(ChatModel(options.model), options.data, options.count)
    for name, value in found.items():
        sys.stdout.write(f"{name:24} {value}\n")
    if options.output:
        write_json(options.output, found)


if __name__ == "__main__":
    main()
