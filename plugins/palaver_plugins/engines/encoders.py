"""Embeddings and classes from encoder models, as sentence-transformers and transformers do it."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from palaver import ConfigurationError
from palaver_plugins.engines.tokenization import read_json

BATCH = 32
Any_ = Any  # torch is absent from most installations that are type-checked


class Encoder:
    """Text to a model's tensors. Longer texts than the model takes are cut off."""

    def __init__(self, network: Any_, folder: Path) -> None:
        self._network = network
        read_json(folder, "tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the package raises nothing narrower
            raise ConfigurationError(f"model {str(folder)!r}: tokenizer.json: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(longest(network, folder))
        self._pad = getattr(network.config, "pad_token_id", None) or 0

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[Any_, Any_]]:
        """The model's outputs for some of the texts at a time, with their masks."""
        import torch

        rest = iter(texts)
        while part := list(islice(rest, BATCH)):
            rows = [encoding.ids for encoding in self._tokenizer.encode_batch(part)]
            width = max(1, *map(len, rows))
            ids = [row + [self._pad] * (width - len(row)) for row in rows]
            mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
            device = self._network.device
            ids_, mask_ = torch.tensor(ids, device=device), torch.tensor(mask, device=device)
            with torch.inference_mode():
                yield self._network(input_ids=ids_, attention_mask=mask_), mask_


def longest(network: Any_, folder: Path) -> int:
    """Tokens of a text that the model can take: the least that any of its files says."""
    settings = read_json(folder, "tokenizer_config.json", required=False)
    sentences = read_json(folder, "sentence_bert_config.json", required=False)
    positions: int = getattr(network.config, "max_position_embeddings", 512)
    found = (settings.get("model_max_length"), sentences.get("max_seq_length"), positions)
    return int(min(it for it in found if it))


class Embedder(Encoder):
    """One vector of unit length per text, pooled as ``1_Pooling`` says, else by the mean."""

    def __init__(self, network: Any_, folder: Path) -> None:
        super().__init__(network, folder)
        pooling = read_json(folder, "1_Pooling/config.json", required=False)
        self._first = bool(pooling.get("pooling_mode_cls_token"))
        self._last = bool(pooling.get("pooling_mode_lasttoken"))

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for output, mask in self._batches(texts):
            pooled = self._pooled(output.last_hidden_state.float(), mask)
            unit = pooled / pooled.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            vectors += unit.tolist()
        return vectors

    def _pooled(self, states: Any_, mask: Any_) -> Any_:
        if self._first:
            return states[:, 0]
        if self._last:
            return states[range(len(states)), mask.sum(-1) - 1]
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(1) / weights.sum(1).clamp_min(1)


class Classifier(Encoder):
    """A probability for each label of the model; they add up to 1."""

    def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        labels = self._network.config.id2label
        return [
            {str(labels[index]): chance for index, chance in enumerate(row)}
            for output, _ in self._batches(texts)
            for row in output.logits.float().softmax(-1).tolist()
        ]
