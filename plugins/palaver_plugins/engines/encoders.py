"""Embeddings and label probabilities from encoder models, computed with torch."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from palaver_plugins.engines.tokenization import (
    check_ids,
    load_tokenizer,
    read_optional_json,
    vocabulary_size,
)

BATCH_SIZE = 32
DEFAULT_POSITIONS = 512
"""Tokens of a text where a model does not tell its limit."""
Pooling = Literal["mean", "first", "last"]
Untyped = Any  # torch is absent from most installations that are type-checked


class Encoder:
    """An encoder model with its tokenizer. Texts longer than the model's limit are truncated."""

    def __init__(self, network: Untyped, folder: Path) -> None:
        self._network = network
        self._tokenizer = load_tokenizer(folder)
        positions = getattr(network.config, "max_position_embeddings", None)
        self._tokenizer.enable_truncation(max_text_tokens(positions, folder))
        self._vocabulary_size = vocabulary_size(folder)
        self._pad = getattr(network.config, "pad_token_id", None) or 0

    def _outputs(self, texts: Sequence[str]) -> Iterator[tuple[Untyped, Untyped]]:
        """Yield the model's outputs and the attention mask (text × token) of each batch."""
        import torch

        rest = iter(texts)
        while batch := list(islice(rest, BATCH_SIZE)):
            rows = [encoding.ids for encoding in self._tokenizer.encode_batch(batch)]
            for row in rows:
                check_ids(self._tokenizer, row, self._vocabulary_size)
            width = max(1, *map(len, rows))
            ids = [row + [self._pad] * (width - len(row)) for row in rows]
            mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
            device = self._network.device
            ids_, mask_ = torch.tensor(ids, device=device), torch.tensor(mask, device=device)
            with torch.inference_mode():
                yield self._network(input_ids=ids_, attention_mask=mask_), mask_


def max_text_tokens(positions: int | None, folder: Path) -> int:
    """Return the smallest limit of a text's tokens: the network's positions, and what the model's
    files say."""
    limits = (
        read_optional_json(folder / "tokenizer_config.json").get("model_max_length"),
        read_optional_json(folder / "sentence_bert_config.json").get("max_seq_length"),
        positions or DEFAULT_POSITIONS,
    )
    return int(min(limit for limit in limits if limit))


def read_pooling(folder: Path) -> Pooling:
    """Return what becomes the vector of a text, as ``1_Pooling/config.json`` of
    sentence-transformers says: the mean of its tokens, by default, or its first or last one."""
    pooling = read_optional_json(folder / "1_Pooling" / "config.json")
    if pooling.get("pooling_mode_cls_token"):
        return "first"
    return "last" if pooling.get("pooling_mode_lasttoken") else "mean"


class Embedder(Encoder):
    """Encoder that returns one vector of unit length per text; see `read_pooling`."""

    def __init__(self, network: Untyped, folder: Path) -> None:
        super().__init__(network, folder)
        self._pooling = read_pooling(folder)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for output, mask in self._outputs(texts):
            pooled = self._pool(output.last_hidden_state.float(), mask)
            unit = pooled / pooled.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            vectors += unit.tolist()
        return vectors

    def _pool(self, states: Untyped, mask: Untyped) -> Untyped:
        match self._pooling:
            case "first":
                return states[:, 0]
            case "last":
                return states[range(len(states)), mask.sum(-1) - 1]
            case "mean":
                weights = mask.unsqueeze(-1).float()
                return (states * weights).sum(1) / weights.sum(1).clamp_min(1)


class Classifier(Encoder):
    """Encoder that returns a probability for each label; they add up to 1."""

    def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        labels = self._network.config.id2label
        return [
            {str(labels[index]): probability for index, probability in enumerate(row)}
            for output, _ in self._outputs(texts)
            for row in output.logits.float().softmax(-1).tolist()
        ]
