"""Makes steps with a torch model: for each job its next token."""

import dataclasses
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from palaver import ConfigurationError, Sampling
from palaver_plugins.engines.generation_thread import Job, StepOutput
from palaver_plugins.engines.padded_batch import (
    CausalModel,
    PaddedBatch,
    batching_obstacle,
    supports_chunked_prefill,
)

log = logging.getLogger(__name__)
Any_ = Any  # torch is absent from most installations that are type-checked
Pick = Callable[[Any_, Any_], int]
"""Picks the next token, from the tokens so far and the scores of all."""


@dataclasses.dataclass(slots=True, eq=False)
class SequenceState:
    """A job's state: the tokens that the model has yet to read, and the cache of the others, until
    the batch takes that over."""

    sampling: Sampling
    pick: Pick
    ends: frozenset[int]
    unread: list[int]
    tokens: list[int]
    made: int = 0
    cache: Any_ = None

    def take(self, scores: Any_) -> StepOutput:
        """The next token by ``scores`` (1 × vocabulary), which the model has to read next."""
        try:
            token = self.pick(self.tokens, scores)
        except (RuntimeError, ValueError) as error:
            # Scores that are no numbers, in half precision: the fault of this prompt alone.
            return StepOutput(tokens=[], failure=f"no token could be picked: {error}")
        self.tokens.append(token)
        self.unread = [token]
        self.made += 1
        output = StepOutput(tokens=[token])
        if self.sampling.logprobs is not None:
            output.logprobs, output.alternatives = probabilities(scores, token, self.sampling)
        if token in self.ends:
            output.finish = "stop"
        elif self.made >= self.sampling.max_tokens:
            output.finish = "length"
        return output


@dataclasses.dataclass(frozen=True, slots=True)
class BatchingPlan:
    """How an architecture can be run: jobs together, and prompts in parts."""

    batched: bool
    chunked_prefill: bool


class TorchRunner:
    """`Runner` over a causal language model.

    A step reads at most ``step_tokens`` tokens of prompts (or one whole, where ``plan`` knows no
    parts), each prompt by itself, and makes one token for each job whose prompt has been read:
    with one forward for all of them, or with one for each.
    """

    def __init__(self, network: Any_, step_tokens: int, plan: BatchingPlan) -> None:
        self._reader = CausalModel(network)
        self._parts = plan.chunked_prefill
        self._step_tokens = step_tokens
        self._jobs: dict[Job, SequenceState] = {}
        self._batch: PaddedBatch[SequenceState] | None = (
            PaddedBatch(self._reader) if plan.batched else None
        )
        self.closed = False

    def add(self, job: Job) -> None:
        sampling: Any_ = job.options
        self._jobs[job] = SequenceState(
            sampling, picker(sampling), job.ends, unread=list(job.prompt), tokens=list(job.prompt)
        )

    def remove(self, job: Job) -> None:
        stream = self._jobs.pop(job)
        if self._batch and stream in self._batch.rows:
            self._batch.remove(stream)

    def step(self) -> list[tuple[Job, StepOutput]]:
        talking = [stream for stream in self._jobs.values() if stream.made]
        scores = self._go_on(talking) | self._read_prompts()
        outputs = []
        for job, stream in list(self._jobs.items()):
            if stream not in scores:
                continue
            output = stream.take(scores[stream])
            if output.finish or output.failure:
                self.remove(job)
            outputs.append((job, output))
        return outputs

    def _go_on(self, streams: Sequence[SequenceState]) -> dict[SequenceState, Any_]:
        """Let each read its last token. Returns the scores of what may follow."""
        if self._batch is None:
            return {stream: self._read(stream, 1) for stream in streams}
        for stream in streams:
            if stream.cache is not None:
                self._batch.add(stream, stream.cache)
                stream.cache = None
        members = self._batch.rows
        if not members:
            return {}
        scores = self._batch.forward([stream.unread[0] for stream in members])
        return dict(zip(members, scores.split(1), strict=True))

    def _read_prompts(self) -> dict[SequenceState, Any_]:
        """Read on in the prompts, the oldest first. Returns the scores after those that ended."""
        found = {}
        room = self._step_tokens
        for stream in self._jobs.values():
            if stream.made or room <= 0:
                continue
            size = min(len(stream.unread), room) if self._parts else len(stream.unread)
            room -= size
            scores = self._read(stream, size)
            if not stream.unread:
                found[stream] = scores
        return found

    def _read(self, stream: SequenceState, size: int) -> Any_:
        """Let the model read ``size`` tokens. Returns the scores of what may follow."""
        part, stream.unread = stream.unread[:size], stream.unread[size:]
        scores, stream.cache = self._reader.forward([part], stream.cache)
        return scores

    def close(self) -> None:
        self.closed = True
        self._jobs.clear()
        del self._reader, self._batch


def make_plan(network: Any_) -> BatchingPlan:
    """Try the network out with a few forwards; what it cannot do is logged. Raises
    `ConfigurationError` when it cannot generate token by token."""
    reader = CausalModel(network)
    try:
        parts = supports_chunked_prefill(reader)
    except Exception as error:  # each architecture has errors of its own
        kind = network.config.model_type
        raise ConfigurationError(
            f"models of type {kind!r} do not go on from tokens that they have read: {error!r}"
        ) from error
    if not parts:
        log.warning("prompts are read whole, and may hold up other requests")
    reason = batching_obstacle(reader)
    if reason:
        log.warning("requests are computed one at a time: %s", reason)
    return BatchingPlan(batched=not reason, chunked_prefill=parts)


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
