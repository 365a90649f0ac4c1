"""Count the letter trigrams that language detection uses, and measure it.

    python benchmarks/language_detection.py --data DIR [--write]

``DIR/train`` contains the Tatoeba and product documentation pairs, ``DIR/eval`` FLORES. Every
tenth sentence is held out for measuring. ``--write`` rewrites the table in the skills package.
"""

import argparse
import json
import lzma
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from palaver import echo
from palaver_skills import language_detection

LANGUAGES = ("en", "de", "fr", "es")
PER_LANGUAGE = 300
FLORES = ("en", "de", "fr", "es", "zh", "ja", "ko", "ru", "ar", "it", "pt", "nl", "sv", "pl")
TABLE = Path(language_detection.__file__).with_name("trigrams.txt")


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def sentences(data: Path, language: str) -> list[str]:
    partners = LANGUAGES[1:] if language == "en" else (language,)
    files = (
        data / f"train/{kind}_en-{p}.jsonl.xz" for kind in ("tatoeba", "msdocs") for p in partners
    )
    return sorted({row[language] for file in files for row in read_rows(file)})


def is_held_out(sentence: str) -> bool:
    return zlib.crc32(sentence.encode()) % 10 == 0


def count_trigrams(data: Path) -> dict[str, Counter[str]]:
    return {
        language: Counter(
            trigram
            for sentence in sentences(data, language)
            if not is_held_out(sentence)
            for trigram in language_detection.split_trigrams(sentence)
        )
        for language in LANGUAGES
    }


def trigram_weights(counts: dict[str, Counter[str]]) -> dict[str, dict[str, float]]:
    """Return natural-log probabilities of the trigrams that distinguish the languages best."""
    totals = {language: sum(counter.values()) for language, counter in counts.items()}

    def probability(language: str, trigram: str) -> float:
        return (counts[language][trigram] + 1) / (totals[language] + 5000)

    def worth(language: str, trigram: str) -> float:
        others = [probability(other, trigram) for other in LANGUAGES if other != language]
        own = probability(language, trigram)
        return own * math.log(own * len(others) / sum(others))

    chosen: set[str] = set()
    for language, counter in counts.items():
        ranked = sorted(counter, key=lambda t: worth(language, t), reverse=True)
        chosen.update(ranked[:PER_LANGUAGE])
    return {t: {lang: math.log(probability(lang, t)) for lang in LANGUAGES} for t in sorted(chosen)}


def write_table(table: dict[str, dict[str, float]]) -> None:
    lines = (
        f"{trigram.replace(' ', '_')} " + " ".join(f"{-w[lang]:.1f}" for lang in LANGUAGES)
        for trigram, w in table.items()
    )
    TABLE.write_text(f"# {' '.join(LANGUAGES)}\n" + "\n".join(lines) + "\n", encoding="utf-8")


def accuracy(texts: list[str], language: str) -> float:
    found = [language_detection.detect_language(text) for text in texts]
    return sum(f is not None and f.code == language for f in found) / len(found)


def print_report(data: Path) -> None:
    for language in (*LANGUAGES, "zh"):
        for kind in ("tatoeba", "msdocs"):
            partner = "de" if language == "en" else language
            path = data / f"train/{kind}_en-{partner}.jsonl.xz"
            texts = sorted({r[language] for r in read_rows(path) if is_held_out(r[language])})
            texts = [t for t in texts if re.search(r"\w\w", t)]
            echo(f"{kind:8} {language} {len(texts):6} {accuracy(texts, language):.4f}")
    flores = list(read_rows(data / "eval/flores200_300.jsonl.xz"))
    for language in FLORES:
        texts = [row[language] for row in flores if language in row]
        if texts:
            echo(f"flores   {language} {len(texts):6} {accuracy(texts, language):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.write:
        write_table(trigram_weights(count_trigrams(options.data)))
    else:
        print_report(options.data)


if __name__ == "__main__":
    main()
