"""Rows of different lengths that a causal language model reads with one forward.

Their keys and values lie side by side in one block per layer and end at the same column: rows are
padded on the left, as transformers itself pads them, so that masks, positions and biases by
distance hold for every architecture that keeps all keys. Rows join and leave between forwards.
"""

import inspect
from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeVar

Member = TypeVar("Member", bound=Hashable)
Untyped = Any  # torch is absent from most installations that are type-checked
SPARE_COLUMNS = 64
"""The least room that a block gets for the tokens to come."""
PROBES = ((3, 5), (11, 2, 9, 4, 7, 6, 8))
"""Prompts of the trial, as seeds of token numbers."""
EXACT, ROUNDED = 1e-4, 0.05
"""By how much scores may differ in the trial, in their own deviations: in float32, and below."""
CACHES = ("past_key_values", "cache_params", "state")
"""The names that architectures have for what they keep of the tokens that they have read."""


class CausalModel:
    """The forward of a causal language model."""

    def __init__(self, network: Untyped) -> None:
        self.network = network
        takes = inspect.signature(network.forward).parameters if network else ()
        self.cache = next((name for name in CACHES if name in takes), CACHES[0])
        self.takes_positions = "position_ids" in takes
        # The last position's scores are all that is needed; most models can leave out the others.
        self._last: dict[str, int] = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def forward(
        self, tokens: Sequence[Sequence[int]], cache: Untyped, **more: Untyped
    ) -> tuple[Untyped, Untyped]:
        """Read equally many tokens per row after those in ``cache``. Returns the scores of what
        may follow, row × vocabulary, and the cache that has grown."""
        import torch

        ids = torch.tensor(tokens, device=self.network.device)
        with torch.inference_mode():
            more |= {self.cache: cache, "use_cache": True}
            out = self.network(input_ids=ids, **self._last, **more)
            return out.logits[:, -1].float(), out[self.cache]


class LayerCache:
    """One layer's keys and values of all rows: row × head × column × width."""

    def __init__(self, keys: Untyped, values: Untyped) -> None:
        self.keys, self.values = keys, values
        self._first = self._end = 0
        self.layer = new_layer()
        self.layer.lazy_initialization(keys, values)
        # The layer would copy all that it has with each token; it is to grow in place instead.
        self.layer.update = self._grow

    def show(self, rows: int, first: int, end: int) -> None:
        """Let the model see the columns from ``first`` to ``end``, and write the next one."""
        self._first, self._end = first, end
        self.layer.keys = self.keys[:rows, :, first:end]
        self.layer.values = self.values[:rows, :, first:end]

    def _grow(
        self, keys: Untyped, values: Untyped, *_: object, **__: object
    ) -> tuple[Untyped, Untyped]:
        rows = len(keys)
        self.keys[:rows, :, self._end : self._end + 1] = keys
        self.values[:rows, :, self._end : self._end + 1] = values
        self.show(rows, self._first, self._end + 1)
        return self.layer.keys, self.layer.values

    def fill(self, row: int, start: int, keys: Untyped, values: Untyped) -> None:
        """Write a row that begins at ``start``; what another has left before it goes."""
        for target, source in ((self.keys, keys), (self.values, values)):
            # The model does not see these, but a number that is none would spread all the same.
            target[row, :, :start] = 0
            target[row, :, start : start + source.shape[-2]] = source

    def move(self, rows: int, columns: int, first: int, end: int, to: int) -> None:
        """Go to a new block of another size, with the columns from ``first`` to ``end`` so that
        they end before ``to``."""
        self.keys = moved(self.keys, rows, columns, first, end, to)
        self.values = moved(self.values, rows, columns, first, end, to)


def new_layer() -> Untyped:
    from transformers.cache_utils import DynamicLayer

    kind: Untyped = DynamicLayer
    return kind()


def moved(old: Untyped, rows: int, columns: int, first: int, end: int, to: int) -> Untyped:
    new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
    new[: len(old), :, to - (end - first) : to] = old[:, :, first:end]
    return new


class PaddedBatch(Generic[Member]):
    """The rows, each with the member that it belongs to. Of one thread."""

    def __init__(self, reader: CausalModel) -> None:
        self._reader = reader
        self.rows: list[Member] = []
        self._starts: list[int] = []  # each row's first column
        self._end = 0  # the column after the last, the same for all rows
        self._blocks: list[LayerCache] = []
        self._cache: Untyped = None

    def add(self, member: Member, cache: Untyped) -> None:
        """Give ``member`` the last row, with all that its own ``cache`` holds."""
        import torch

        length = cache.get_seq_length()
        with torch.inference_mode():
            if not self._blocks:
                self._open(cache)
            self._reserve(len(self.rows) + 1, length)
            start = self._end - length
            for block, layer in zip(self._blocks, cache.layers, strict=True):
                block.fill(len(self.rows), start, layer.keys[0], layer.values[0])
        self.rows.append(member)
        self._starts.append(start)

    def remove(self, member: Member) -> None:
        """Free the row of ``member``; the last row takes its place."""
        import torch

        row, last = self.rows.index(member), len(self.rows) - 1
        start = self._starts[last]
        if row < last:
            with torch.inference_mode():
                for block in self._blocks:
                    keys, values = block.keys[last], block.values[last]
                    live = slice(start, self._end)
                    block.fill(row, start, keys[:, live], values[:, live])
        self.rows[row], self._starts[row] = self.rows[last], start
        self.rows.pop()
        self._starts.pop()
        if not self.rows:
            self._blocks, self._cache, self._end = [], None, 0

    def forward(self, tokens: Sequence[int]) -> Untyped:
        """Let each row read its token, in the order of ``members``. Returns the scores of what
        may follow, row × vocabulary."""
        import torch

        device = self._reader.network.device
        with torch.inference_mode():
            self._reserve(len(self.rows), 0)
            first = min(self._starts)
            for block in self._blocks:
                block.show(len(self.rows), first, self._end)
            starts = torch.tensor(self._starts, device=device)[:, None]
            mask = (torch.arange(first, self._end + 1, device=device) >= starts).long()
        more = {"position_ids": self._end - starts} if self._reader.takes_positions else {}
        ids = [[token] for token in tokens]
        scores, _ = self._reader.forward(ids, self._cache, attention_mask=mask, **more)
        self._end += 1
        return scores

    def _open(self, cache: Untyped) -> None:
        """Make empty blocks for what a ``cache`` of one row holds."""
        from transformers import DynamicCache

        self._blocks = [
            LayerCache(layer.keys[:, :, :0], layer.values[:, :, :0]) for layer in cache.layers
        ]
        self._cache = DynamicCache()
        self._cache.layers = [block.layer for block in self._blocks]

    def _reserve(self, rows: int, length: int) -> None:
        """Make room for ``rows`` rows, for ``length`` columns before the end and one after it."""
        have_rows, _, columns, _ = self._blocks[0].keys.shape
        if rows <= have_rows and length <= self._end < columns:
            return
        first = min(self._starts, default=self._end)
        to = max(self._end - first, length)
        rows = have_rows if rows <= have_rows else max(rows, 2 * have_rows)
        columns = to + max(SPARE_COLUMNS, to // 2)
        for block in self._blocks:
            block.move(rows, columns, first, self._end, to)
        self._starts = [start + to - self._end for start in self._starts]
        self._end = to


def batching_obstacle(reader: CausalModel) -> str:
    """Why rows cannot be read together; empty when they can.

    Tried out rather than looked up, with two short rows of different lengths, one of which leaves.
    """
    try:
        return try_out(reader)
    except Exception as error:  # noqa: BLE001  each architecture has errors of its own
        return f"{type(error).__name__}: {error}"


def prompts_of(reader: CausalModel) -> list[list[int]]:
    size = reader.network.config.get_text_config().vocab_size
    return [[7919 * seed % size for seed in seeds] for seeds in PROBES]


def supports_chunked_prefill(reader: CausalModel) -> bool:
    """Whether a prompt may be read in parts: some recurrent ones lose track between them. Raises
    anything when the architecture cannot generate step by step at all."""
    *_, prompt = prompts_of(reader)
    whole, _ = reader.forward([prompt], None)
    _, cache = reader.forward([prompt[:3]], None)
    parts, _ = reader.forward([prompt[3:]], cache)
    return reader.cache == CACHES[0] and not unlike(parts, whole, reader.network.dtype)


def try_out(reader: CausalModel) -> str:
    if reader.cache != CACHES[0]:
        return f"it keeps its state in {reader.cache}"
    prompts = prompts_of(reader)
    batch: PaddedBatch[int] = PaddedBatch(reader)
    caches = []
    for row, prompt in enumerate(prompts):
        _, cache = reader.forward([prompt], None)
        if kinds := unusual(cache):
            return f"it keeps its state in {kinds}"
        batch.add(row, cache)
        caches.append(cache)
    for members in ([0, 1], [1]):
        together = batch.forward([prompts[row][0] for row in members])
        for row, scores in zip(members, together, strict=True):
            alone, caches[row] = reader.forward([prompts[row][:1]], caches[row])
            if difference := unlike(scores, alone[0], reader.network.dtype):
                return difference
        batch.remove(members[0])
    return ""


def unusual(cache: Untyped) -> str:
    """The kinds of layers in ``cache`` that keep something else than all keys and values. Short
    rows would not show a window that slides."""
    from transformers.cache_utils import DynamicLayer

    kinds = {type(layer) for layer in cache.layers} - {DynamicLayer}
    return ", ".join(sorted(kind.__name__ for kind in kinds))


def unlike(scores: Untyped, expected: Untyped, dtype: Untyped) -> str:
    import torch

    limit = EXACT if dtype == torch.float32 else ROUNDED
    share = float((scores - expected).square().mean().sqrt() / expected.std())
    return "" if share <= limit else f"scores differ by {share:.2g} of their deviation"
