"""Measure the time of a routing decision among many skills.

    python -m benchmarks.routing.latency --data DIR [--skills 200] [--examples 20] [--words]

The skills are intents of CLINC150 and BANKING77, each with examples and a pattern; the messages are
other rows of both. Prints the processor's seconds until the router is ready, and the median and the
99th percentile of `Router.route`, the vector of the message included: no message is in the cache.
"""

import argparse
import asyncio
import itertools
import time
from pathlib import Path

import numpy as np

from benchmarks.routing.intents import make_skills, read_task
from palaver import Skill, echo
from palaver.config.settings import RoutingSettings
from palaver.embedding import Embeddings
from palaver.engine import EngineInfo
from palaver.messages import Conversation, Message
from palaver.routing import Router
from palaver.routing.evidence import RETRY_SECONDS
from palaver_plugins.embedders.universal_sentence_encoder import UniversalSentenceEncoder

NO_ENGINE = EngineInfo(model="none", context_window=0, capabilities=frozenset())
DATA_SETS = ("train/intent_clinc150_train.jsonl.xz", "train/intent_banking77_train.jsonl.xz")
MESSAGES = 1_000


def read_skills(data: Path, count: int, examples: int) -> tuple[dict[str, type[Skill]], list[str]]:
    """Return skills, and messages to them in turn."""
    skills: dict[str, type[Skill]] = {}
    texts: dict[str, list[str]] = {}
    for path in DATA_SETS:
        task = read_task(path, data / path, limit=examples)
        skills |= task.skills
        for text, intent in task.messages:
            texts.setdefault(intent, []).append(text)
    chosen = list(skills)[:count]
    if len(chosen) < count:
        raise SystemExit(f"the data sets have {len(chosen)} intents")
    made = make_skills({name: skills[name].examples for name in chosen})
    for name, skill in made.items():
        skill.patterns = (f"{name.replace('_', ' ')}: (?P<text>.+)",)
    rounds = itertools.zip_longest(*(texts[name] for name in chosen))
    messages = [text for text in itertools.chain.from_iterable(rounds) if text]
    return made, messages[:MESSAGES]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--skills", type=int, default=200)
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--words", action="store_true", help="without vectors")
    options = parser.parse_args()
    skills, texts = await asyncio.to_thread(
        read_skills, options.data, options.skills, options.examples
    )
    encoder = UniversalSentenceEncoder()
    await encoder.start()
    router = Router(
        skills,
        settings=RoutingSettings(default=next(iter(skills))),
        engine=None,
        engine_info=NO_ENGINE,
        embeddings=None if options.words else Embeddings("benchmark", encoder.embed),
    )
    began = time.process_time()
    router.start()
    ranking = await router.rank(make_message("warm up"))
    while not (ranking.embedded or options.words):  # a busy machine: it goes on in the background
        await asyncio.sleep(RETRY_SECONDS)
        ranking = await router.rank(make_message("warm up again"))
    ready = time.process_time() - began
    wall, cpu = [], []
    for text in texts:
        began, began_cpu = time.perf_counter(), time.process_time()
        await router.route(make_message(text))
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    kind = "words and vectors" if ranking.embedded else "words"
    echo(f"{len(skills)} skills of {options.examples} examples, {kind}: ready after {ready:.1f} s")
    for name, seconds in (("elapsed", wall), ("processor", cpu)):
        p50, p99 = 1000 * np.percentile(seconds, (50, 99))
        echo(f"  {name:10} p50 {p50:.2f} ms  p99 {p99:.2f} ms  ({len(seconds)} messages)")
    await router.close()
    await encoder.close()


def make_message(text: str) -> Message:
    conversation = Conversation("default", "benchmark", "latency")
    return Message(conversation=conversation, id="m", person="a", text=text)


if __name__ == "__main__":
    asyncio.run(main())
