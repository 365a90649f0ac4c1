"""Makes steps with a torch model: for each job its next token, each with a cache of its own."""

import dataclasses
import inspect
import random
from collections.abc import Callable, Sequence
from typing import Any

from palaver.engine import Sampling
from palaver_plugins.engines.stepper import Job, Output

Any_ = Any  # torch is absent from most installations that are type-checked
Pick = Callable[[Any_, Any_], int]
"""Picks the next token, from the tokens so far and the scores of all."""


@dataclasses.dataclass(slots=True)
class Stream:
    """A job's state: the tokens that the model has yet to read, and its cache of the others."""

    sampling: Sampling
    pick: Pick
    unread: list[int]
    tokens: list[int]
    made: int = 0
    cache: Any_ = None


class TorchRunner:
    """`Runner` over a causal language model. A step reads at most ``step_tokens`` of one prompt,
    and makes one token for each job whose prompt has been read."""

    def __init__(self, network: Any_, step_tokens: int) -> None:
        self._network = network
        self._step_tokens = step_tokens
        self._jobs: dict[Job, Stream] = {}
        # Scores of the last position are all that is needed; most models can leave out the others.
        forward = inspect.signature(network.forward).parameters if network else ()
        self._extra = {"logits_to_keep": 1} if "logits_to_keep" in forward else {}

    def add(self, job: Job) -> None:
        sampling: Any_ = job.options
        self._jobs[job] = Stream(
            sampling, picker(sampling), unread=list(job.prompt), tokens=list(job.prompt)
        )

    def remove(self, job: Job) -> None:
        del self._jobs[job]

    def step(self) -> list[tuple[Job, Output]]:
        outputs = []
        room = self._step_tokens
        for job, stream in list(self._jobs.items()):
            size = 1 if stream.made else min(len(stream.unread), room)
            room -= 0 if stream.made else size
            scores = self._read(stream, size) if size else None
            if stream.unread:
                continue
            output = self._next(stream, scores, job.ends)
            if output.finish:
                del self._jobs[job]
            outputs.append((job, output))
        return outputs

    def _read(self, stream: Stream, size: int) -> Any_:
        """Let the model read ``size`` tokens. Returns the scores of what may follow."""
        import torch

        part, stream.unread = stream.unread[:size], stream.unread[size:]
        with torch.inference_mode():
            ids = torch.tensor([part], device=self._network.device)
            out = self._network(ids, past_key_values=stream.cache, use_cache=True, **self._extra)
        stream.cache = out.past_key_values
        return out.logits[:, -1].float()

    def _next(self, stream: Stream, scores: Any_, ends: frozenset[int]) -> Output:
        token = stream.pick(stream.tokens, scores)
        stream.tokens.append(token)
        stream.unread = [token]
        stream.made += 1
        output = Output(tokens=[token])
        if stream.sampling.logprobs is not None:
            output.logprobs, output.alternatives = probabilities(scores, token, stream.sampling)
        if token in ends:
            output.finish = "stop"
        elif stream.made >= stream.sampling.max_tokens:
            output.finish = "length"
        return output

    def close(self) -> None:
        self._jobs.clear()
        del self._network


def probabilities(
    scores: Any_, token: int, sampling: Sampling
) -> tuple[list[float], list[list[tuple[int, float]]]]:
    """Log-probability of ``token`` before temperature and filters, and of the most likely ones."""
    logs = scores.log_softmax(-1)[0]
    best = logs.topk(sampling.logprobs or 0)
    return [logs[token].item()], [
        list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    ]


def picker(sampling: Sampling) -> Pick:
    """How ``sampling`` picks, with a random generator of its own."""
    import torch
    from transformers import LogitsProcessorList

    process = LogitsProcessorList(processors(sampling))
    seed = random.getrandbits(63) if sampling.seed is None else sampling.seed
    chance = torch.Generator().manual_seed(seed & (2**63 - 1))

    def pick(tokens: Sequence[int], scores: Any_) -> int:
        ids: Any_ = torch.tensor([tokens])
        scores = process(ids, scores.cpu())
        if sampling.temperature == 0:
            return int(scores.argmax(-1).item())
        return int(torch.multinomial(scores.softmax(-1), 1, generator=chance).item())

    return pick


def processors(sampling: Sampling) -> list[Any_]:
    from transformers import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    found: list[Any_] = []
    if sampling.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature not in (0, 1):
        found.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.temperature and sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.temperature and sampling.top_p < 1:
        found.append(TopPLogitsWarper(sampling.top_p))
    return found
