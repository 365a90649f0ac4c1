"""Assemble the folder of the shipped model: weights, tokenizer, `card.json` and `README.md`.

    python -m training.starter.card --work build/starter --scores build/starter/scores.json \\
        --hardware "two CPU cores" --output plugins/palaver_plugins/starter

Everything in the card comes from the run: scores from `training.starter.evaluate`, tokens and
time from the run's own record, examples from the model's replies.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

from training.starter import corpus, translation_data
from training.starter.tokenization import write_json

from palaver_skills import prompts

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
         "tokenizer_config.json")  # fmt: skip
ROOT = Path(__file__).parents[2]
NAME = "palaver-starter"
LICENSE = "apache-2.0"
REACH: dict[str, dict[str, Any]] = {
    "passages": {"requests": ["en"]},
    "translation": {
        "languages": list(prompts.LANGUAGES),
        "words": translation_data.MEASURED_WORDS,
        "confidence": 0.6,
    },
    "summarization": {"languages": ["en"], "words": 150},
    "programming": {"languages": ["Python"], "requests": ["en"], "confidence": 0.8},
    "small_talk": {"confidence": 0.8},
}
"""What the model was made for. Of held-out translations with a confidence of 0.6 and more, 70 %
have a chrF above 45; of all, 39 %."""


def make_card(options: argparse.Namespace) -> dict[str, Any]:
    """Return the machine-readable card."""
    config = json.loads((options.work / "model" / "config.json").read_text("utf-8"))
    progress = json.loads((options.work / "progress.json").read_text("utf-8"))
    return {
        "name": NAME,
        "license": LICENSE,
        "demonstration": True,
        "parameters": count_parameters(options.work / "model" / "model.safetensors"),
        "context_length": config["max_position_embeddings"],
        "languages": list(prompts.LANGUAGES),
        "reach": REACH,
        "scores": json.loads(options.scores.read_text("utf-8")),
        "trained": {
            "date": datetime.date.today().isoformat(),
            "hardware": options.hardware,
            "minutes": round(progress["seconds"] / 60),
            "steps": progress["step"],
            "tokens": progress["tokens"],
            "answer_tokens": progress["targets"],
        },
    }


def count_parameters(weights: Path) -> int:
    """Count the weights in a safetensors file from its header."""
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            size = 1
            for length in entry["shape"]:
                size *= length
            total += size
    return total


def split_sections(path: Path) -> list[str]:
    """Split a Markdown document at its headings of the second level, the heading kept."""
    text = path.read_text("utf-8")
    parts = re.split(r"^## ", text, flags=re.M)[1:]
    return [re.sub(r"(?<=\S)\n(?=\S)", " ", part.strip()) for part in parts]


def best_passages(question: str, passages: list[str], most: int) -> list[tuple[int, str]]:
    """Return the numbered passages that share the most words with a question."""
    wanted = corpus.word_set(question)
    order = sorted(passages, key=lambda text: -len(wanted & corpus.word_set(text)))
    return list(enumerate(order[:most], 1))


def example_chats() -> list[tuple[str, str, list[dict[str, str]]]]:
    """Return the examples of the documentation as (skill, request, chat)."""
    examples = corpus.read_examples()
    found = [("chat", q, prompts.CHAT, q) for q in examples["chat"]["questions"]]
    passages = split_sections(ROOT / examples["qa"]["document"])
    for q in examples["qa"]["questions"]:
        text = prompts.build_grounded_question(best_passages(q, passages, 3), q)
        found.append(("qa", q, prompts.GROUNDED, text))
    found += [
        (
            f"translation into {item['target']}",
            item["text"],
            prompts.build_translation_system(item["source"], item["target"]),
            item["text"],
        )
        for item in examples["translation"]
    ]
    found += [
        (
            f"summary in {item['length']}",
            item["text"],
            prompts.build_summarization_system(item["length"]),
            item["text"],
        )
        for item in examples["summarization"]
    ]
    found += [
        ("codegen", item["text"], prompts.build_codegen_system(item["language"]), item["text"])
        for item in examples["codegen"]
    ]
    choice = prompts.build_routing_system(prompts.SKILLS.items())
    found += [("routing", q, choice, q) for q in examples["routing"]["questions"]]
    return [
        (skill, asked, [{"role": "system", "content": system}, {"role": "user", "content": text}])
        for skill, asked, system, text in found
    ]


def generate_replies(folder: Path) -> list[tuple[str, str, str]]:
    """Ask the model the examples; return (skill, question, reply) tuples."""
    from training.starter.evaluate import ChatModel

    chats = example_chats()
    said = ChatModel(folder).generate_replies([chat for _, _, chat in chats], 160)
    return [(skill, asked, text) for (skill, asked, _), text in zip(chats, said, strict=True)]


def write_readme(path: Path, card: dict[str, Any], said: list[tuple[str, str, str]]) -> None:
    """Write the model card for people."""
    trained = card["trained"]
    facts = {
        "parameters": f"{card['parameters'] / 1e6:.1f} million",
        "context": card["context_length"],
        "tokens": f"{trained['tokens'] / 1e6:.1f} million",
        "answers": f"{trained['answer_tokens'] / 1e6:.1f} million",
        "minutes": trained["minutes"],
        "hardware": trained["hardware"],
        "date": trained["date"],
        "languages": "\n".join(f"  - {code}" for code in card["languages"]),
        "scores": "\n".join(f"| {name} | {value} |" for name, value in card["scores"].items()),
        "sources": "\n".join(_source_row(item) for item in read_sources()),
        "examples": "\n\n".join(_example_block(*item) for item in said),
    }
    template = Path(__file__).with_name("card.md").read_text("utf-8")
    path.write_text(template.format(**facts), encoding="utf-8")


def read_sources() -> list[dict[str, str]]:
    """Read the sources of the training data: name, licence and, if any, address."""
    text = Path(__file__).with_name("sources.toml").read_text("utf-8")
    found: list[dict[str, str]] = tomllib.loads(text)["source"]
    return found


def _source_row(item: dict[str, str]) -> str:
    return f"| {item['name']} | {item['licence']} | {item.get('address', '')} |"


def _example_block(skill: str, asked: str, reply: str) -> str:
    quoted = "\n".join("> " + line for line in asked.splitlines())
    return f"**{skill}**\n\n{quoted}\n\n````text\n{reply}\n````"


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="training.starter.card", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/starter"))
    parser.add_argument("--scores", type=Path, default=Path("build/starter/scores.json"))
    parser.add_argument("--hardware", default="CPU")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(options.work / "model" / name, options.output / name)
    card = make_card(options)
    write_json(options.output / "card.json", card)
    write_readme(options.output / "README.md", card, generate_replies(options.output))


if __name__ == "__main__":
    main()
