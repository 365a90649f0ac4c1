"""Measure the routing of messages.jsonl to the built-in skills, with the handbook.

    python -m benchmarks.routing.messages [--part tuning] [--embedding none] [--mistakes]

Mistakes are printed of the tuning part alone.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.own_plugins import load_own_plugins

from palaver import Document, Message, Settings, echo
from palaver.app import BackendBuilder
from palaver.embedding import Embeddings
from palaver.engine import EngineInfo
from palaver.messages import Conversation
from palaver.routing import Router

ROOT = Path(__file__).parents[2]
NO_ENGINE = EngineInfo(model="none", context_window=0, capabilities=frozenset())


async def measure(part: str, embedding: str, *, show_mistakes: bool) -> None:
    rows: list[dict[str, Any]] = [
        row
        for line in (Path(__file__).parent / "messages.jsonl").read_text("utf-8").splitlines()
        if (row := json.loads(line))["part"] == part
    ]
    registry = load_own_plugins()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.model_validate(
            {"server": {"data": folder}, "embedding": {"use": embedding}}
        )
        builder = BackendBuilder(settings, registry)
        knowledge: Any = builder.knowledge()
        embedder, embeddings = builder.embedder(), None
        await knowledge.start()
        if embedder is not None:
            embeddings = Embeddings((await embedder.start()).model, embedder.embed)
            knowledge.use_embeddings(embeddings, embeddings.model)
        handbook = (ROOT / "docs" / "example-handbook.md").read_text("utf-8")
        await knowledge.add("default", [Document(id="handbook", title="Handbook", text=handbook)])
        await knowledge.wait_until_embedded()
        router = Router(
            registry.skills,
            settings=settings.routing,
            engine=None,
            engine_info=NO_ENGINE,
            embeddings=embeddings,
            knowledge=knowledge,
        )
        await measure_router(router, rows, f"{part} part", show_mistakes=show_mistakes)
        await knowledge.close()
        if embedder is not None:
            await embedder.close()


async def measure_router(
    router: Router, rows: list[dict[str, Any]], label: str, *, show_mistakes: bool
) -> None:
    times: list[float] = []
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    await router.route(make_message("warm up", "0"))
    for number, row in enumerate(rows, 1):
        began = time.perf_counter()
        decision = await router.route(make_message(row["text"], str(number)))
        times.append(time.perf_counter() - began)
        for key in ("all", row["skill"], row["language"]):
            total[key] += 1
            right[key] += decision.skill == row["skill"]
        if show_mistakes and decision.skill != row["skill"]:
            ranking = await router.rank(make_message(row["text"], str(number)))
            shown = {name: round(chance, 2) for name, chance in ranking.examples.items()}
            echo(f"{row['skill']} not {decision.skill}: {row['text']}\n  {shown} {ranking.match}")
    shares = "  ".join(f"{key} {right[key]}/{total[key]}" for key in total)
    echo(f"{label}: {shares}  p50 {1000 * statistics.median(times):.1f} ms")


def make_message(text: str, id_: str) -> Message:
    return Message(
        conversation=Conversation("default", "benchmark", "routing"), id=id_, person="a", text=text
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("tuning", "test"), default="tuning")
    parser.add_argument("--embedding", default="")
    parser.add_argument("--mistakes", action="store_true")
    options = parser.parse_args()
    show = options.mistakes and options.part == "tuning"
    asyncio.run(measure(options.part, options.embedding, show_mistakes=show))


if __name__ == "__main__":
    main()
