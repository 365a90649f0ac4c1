"""Measure what the Universal Sentence Encoder costs: memory, loading and time per text.

OPENBLAS_NUM_THREADS=1 python -m benchmarks.embedding
"""

import asyncio
import resource
import statistics
import time

from palaver import echo
from palaver_plugins.embedders.universal_sentence_encoder import UniversalSentenceEncoder

TEXTS = {
    "a question": "How do I get my money back ({})?",
    "a passage": "Customers can return goods within 30 days. The money goes back to the card. {} "
    * 3,
}
ROUNDS = 50


async def main() -> None:
    before = _peak_megabytes()
    embedder = UniversalSentenceEncoder()
    await embedder.start()
    began = time.process_time()
    await embedder.embed(["first"])
    loaded = time.process_time() - began
    echo(f"loading     {loaded:.2f} s of the processor, {_peak_megabytes() - before:.0f} MB")
    for name, text in TEXTS.items():
        times = []
        for number in range(ROUNDS):
            began = time.perf_counter()
            await embedder.embed([text.replace("{}", str(number))])
            times.append(time.perf_counter() - began)
        echo(f"{name:11} {len(text)} characters, p50 {1000 * statistics.median(times):.1f} ms")
    await embedder.close()


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    asyncio.run(main())
