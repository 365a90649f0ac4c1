"""Batches of sequences of different lengths for a causal language model of transformers.

All keys and values of a layer lie in one tensor and end at the same column: rows are padded on the
left, as transformers itself pads them, so that masks, positions and biases by distance are correct
for every architecture that stores all keys. Rows are added and removed between forward passes.
"""

import inspect
from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeVar

RowKey = TypeVar("RowKey", bound=Hashable)
Untyped = Any  # torch is absent from most installations that are type-checked
MIN_SPARE_COLUMNS = 64
"""Columns reserved at least for the tokens to come."""
PROBE_PROMPTS = ((3, 5), (11, 2, 9, 4, 7, 6, 8))
"""Prompts of the trial run, as seeds of token numbers."""
TOLERANCE_FLOAT32, TOLERANCE_HALF = 1e-4, 0.05
"""Differences of scores allowed in the trial run, in standard deviations of the scores."""
KEY_VALUE_CACHE = "past_key_values"
CACHE_ARGUMENTS = (KEY_VALUE_CACHE, "cache_params", "state")
"""Names that architectures have for their cache of the tokens read so far."""


class CausalModel:
    """The forward pass of a causal language model."""

    def __init__(self, network: Untyped) -> None:
        self.network = network
        parameters = inspect.signature(network.forward).parameters if network else ()
        self.cache_argument = next(
            (name for name in CACHE_ARGUMENTS if name in parameters), KEY_VALUE_CACHE
        )
        self.takes_positions = "position_ids" in parameters
        # Only the scores of the last position are needed; most models can skip the others.
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def forward(
        self, tokens: Sequence[Sequence[int]], cache: Untyped, **more: Untyped
    ) -> tuple[Untyped, Untyped]:
        """Read ``tokens`` (row × token, equally many per row) after those in ``cache``. Return the
        scores of the next token (row × vocabulary) and the extended cache."""
        import torch

        ids = torch.tensor(tokens, device=self.network.device)
        more = {name: self._move(value) for name, value in more.items()}
        with torch.inference_mode():
            more |= {self.cache_argument: cache, "use_cache": True}
            out = self.network(input_ids=ids, **self._options, **more)
            return out.logits[:, -1].float(), out[self.cache_argument]

    def _move(self, value: Untyped) -> Untyped:
        """Return a tensor on the network's device, and numbers of images in its precision."""
        dtype = self.network.dtype if value.is_floating_point() else None
        return value.to(device=self.network.device, dtype=dtype)


class LayerCache:
    """Keys and values of one layer for all rows: row × head × column × width."""

    def __init__(self, keys: Untyped, values: Untyped) -> None:
        from transformers.cache_utils import DynamicLayer

        self.keys, self.values = keys, values
        self._first = self._end = 0
        layer: Untyped = DynamicLayer
        self.layer = layer()
        self.layer.lazy_initialization(keys, values)
        # DynamicLayer's own update would copy the whole cache for each token.
        self.layer.update = self._append

    def expose(self, rows: int, first: int, end: int) -> None:
        """Show the model the columns from ``first`` to ``end``; it appends the next one."""
        self._first, self._end = first, end
        self.layer.keys = self.keys[:rows, :, first:end]
        self.layer.values = self.values[:rows, :, first:end]

    def _append(
        self, keys: Untyped, values: Untyped, *_: object, **__: object
    ) -> tuple[Untyped, Untyped]:
        rows = len(keys)
        self.keys[:rows, :, self._end : self._end + 1] = keys
        self.values[:rows, :, self._end : self._end + 1] = values
        self.expose(rows, self._first, self._end + 1)
        return self.layer.keys, self.layer.values

    def write_row(self, row: int, start: int, keys: Untyped, values: Untyped) -> None:
        """Overwrite ``row`` with keys and values that begin at column ``start``."""
        for target, source in ((self.keys, keys), (self.values, values)):
            # The mask hides these columns, but a NaN in them would spread all the same.
            target[row, :, :start] = 0
            target[row, :, start : start + source.shape[-2]] = source

    def resize(self, rows: int, columns: int, first: int, end: int, new_end: int) -> None:
        """Move the columns from ``first`` to ``end`` to tensors of another size, so that they end
        before ``new_end``."""
        self.keys = resized(self.keys, rows, columns, first, end, new_end)
        self.values = resized(self.values, rows, columns, first, end, new_end)


def resized(old: Untyped, rows: int, columns: int, first: int, end: int, new_end: int) -> Untyped:
    new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
    new[: len(old), :, new_end - (end - first) : new_end] = old[:, :, first:end]
    return new


class PaddedBatch(Generic[RowKey]):
    """The batch: each row has the key that it was added with. Not thread-safe."""

    def __init__(self, model: CausalModel) -> None:
        self._model = model
        self.rows: list[RowKey] = []
        self._starts: list[int] = []  # each row's first column
        self._end = 0  # the column after the last, the same for all rows
        self._layers: list[LayerCache] = []
        self._cache: Untyped = None

    def add(self, key: RowKey, cache: Untyped) -> None:
        """Add a row with the contents of ``cache``, a cache of one row."""
        import torch

        length = cache.get_seq_length()
        with torch.inference_mode():
            if not self._layers:
                self._create_layers(cache)
            self._reserve(len(self.rows) + 1, length)
            start = self._end - length
            for layer, source in zip(self._layers, cache.layers, strict=True):
                layer.write_row(len(self.rows), start, source.keys[0], source.values[0])
        self.rows.append(key)
        self._starts.append(start)

    def remove(self, key: RowKey) -> None:
        """Remove the row of ``key``; the last row moves to its position."""
        import torch

        row, last = self.rows.index(key), len(self.rows) - 1
        start = self._starts[last]
        if row < last:
            with torch.inference_mode():
                for layer in self._layers:
                    keys, values = layer.keys[last], layer.values[last]
                    used = slice(start, self._end)
                    layer.write_row(row, start, keys[:, used], values[:, used])
        self.rows[row], self._starts[row] = self.rows[last], start
        self.rows.pop()
        self._starts.pop()
        if not self.rows:
            self._layers, self._cache, self._end = [], None, 0

    def forward(self, tokens: Sequence[int]) -> Untyped:
        """Read one token for each row, in the order of ``rows``. Return the scores of the next
        token, row × vocabulary."""
        import torch

        device = self._model.network.device
        with torch.inference_mode():
            self._reserve(len(self.rows), 0)
            first = min(self._starts)
            for layer in self._layers:
                layer.expose(len(self.rows), first, self._end)
            starts = torch.tensor(self._starts, device=device)[:, None]
            mask = (torch.arange(first, self._end + 1, device=device) >= starts).long()
        more = {"position_ids": self._end - starts} if self._model.takes_positions else {}
        ids = [[token] for token in tokens]
        scores, _ = self._model.forward(ids, self._cache, attention_mask=mask, **more)
        self._end += 1
        return scores

    def _create_layers(self, cache: Untyped) -> None:
        """Create empty layers of the shape of ``cache``, a cache of one row."""
        from transformers import DynamicCache

        self._layers = [
            LayerCache(layer.keys[:, :, :0], layer.values[:, :, :0]) for layer in cache.layers
        ]
        self._cache = DynamicCache()
        self._cache.layers = [layer.layer for layer in self._layers]

    def _reserve(self, rows: int, length: int) -> None:
        """Make room for ``rows`` rows, ``length`` columns before the end and one after it."""
        old_rows, _, columns, _ = self._layers[0].keys.shape
        if rows <= old_rows and length <= self._end < columns:
            return
        first = min(self._starts, default=self._end)
        new_end = max(self._end - first, length)
        rows = old_rows if rows <= old_rows else max(rows, 2 * old_rows)
        columns = new_end + max(MIN_SPARE_COLUMNS, new_end // 2)
        for layer in self._layers:
            layer.resize(rows, columns, first, self._end, new_end)
        self._starts = [start + new_end - self._end for start in self._starts]
        self._end = new_end


def batching_obstacle(model: CausalModel) -> str:
    """Return the reason why the model cannot run batches; empty when it can.

    This is tried out, with two short rows of different lengths, one of which is removed.
    """
    try:
        return try_batch(model)
    except Exception as error:  # noqa: BLE001  each architecture has errors of its own
        return f"{type(error).__name__}: {error}"


def probe_prompts(model: CausalModel) -> list[list[int]]:
    size = model.network.config.get_text_config().vocab_size
    return [[7919 * seed % size for seed in seeds] for seeds in PROBE_PROMPTS]


def supports_chunked_prefill(model: CausalModel) -> bool:
    """Return True when a prompt can be read in chunks: some recurrent models lose state between
    them. Raises any exception when the model cannot generate step by step."""
    *_, prompt = probe_prompts(model)
    whole, _ = model.forward([prompt], None)
    _, cache = model.forward([prompt[:3]], None)
    chunked, _ = model.forward([prompt[3:]], cache)
    difference = score_difference(chunked, whole, model.network.dtype)
    return model.cache_argument == KEY_VALUE_CACHE and not difference


def try_batch(model: CausalModel) -> str:
    if model.cache_argument != KEY_VALUE_CACHE:
        return f"it keeps its state in {model.cache_argument}"
    prompts = probe_prompts(model)
    batch: PaddedBatch[int] = PaddedBatch(model)
    caches = []
    for row, prompt in enumerate(prompts):
        _, cache = model.forward([prompt], None)
        if kinds := unsupported_layers(cache):
            return f"it keeps its state in {kinds}"
        batch.add(row, cache)
        caches.append(cache)
    for rows in ([0, 1], [1]):
        batched = batch.forward([prompts[row][0] for row in rows])
        for row, scores in zip(rows, batched, strict=True):
            single, caches[row] = model.forward([prompts[row][:1]], caches[row])
            if difference := score_difference(scores, single[0], model.network.dtype):
                return difference
        batch.remove(rows[0])
    return ""


def unsupported_layers(cache: Untyped) -> str:
    """Return the names of the layer types in ``cache`` that do not store all keys and values. A
    sliding window, for example, would not show in a trial with short rows."""
    from transformers.cache_utils import DynamicLayer

    kinds = {type(layer) for layer in cache.layers} - {DynamicLayer}
    return ", ".join(sorted(kind.__name__ for kind in kinds))


def score_difference(scores: Untyped, expected: Untyped, dtype: Untyped) -> str:
    """Return a description of a difference beyond the tolerance, or an empty string."""
    import torch

    tolerance = TOLERANCE_FLOAT32 if dtype == torch.float32 else TOLERANCE_HALF
    difference = float((scores - expected).square().mean().sqrt() / expected.std())
    return "" if difference <= tolerance else f"scores differ by {difference:.2g} deviations"
