"""Runner of the generation thread for a torch model."""

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
Untyped = Any  # torch is absent from most installations that are type-checked
Sampler = Callable[[Untyped, Untyped], int]
"""Chooses the next token from the tokens so far and the scores of the vocabulary."""


@dataclasses.dataclass(slots=True, eq=False)
class SequenceState:
    """State of one job: the tokens so far and those that the model has yet to read, and the cache
    of the tokens read until the batch takes it over."""

    job: Job
    sample: Sampler
    unread: list[int]
    tokens: list[int]
    new_tokens: int = 0
    cache: Untyped = None

    def sample_token(self, scores: Untyped) -> StepOutput:
        """Append a token chosen by ``scores`` (1 × vocabulary), to be read next."""
        try:
            token = self.sample(self.tokens, scores)
        except (RuntimeError, ValueError) as error:
            # NaN scores, which this prompt causes in half precision.
            return StepOutput(tokens=[], failure=f"sampling failed: {error}")
        self.tokens.append(token)
        self.unread = [token]
        self.new_tokens += 1
        output = StepOutput(tokens=[token])
        if (count := self.job.request.sampling.logprobs) is not None:
            logprobs = scores.log_softmax(-1)[0]
            best = logprobs.topk(count)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            output.logprobs, output.alternatives = [logprobs[token].item()], [list(pairs)]
        if token in self.job.end_tokens:
            output.finish = "stop"
        elif self.new_tokens >= self.job.max_new_tokens:
            output.finish = "length"
        return output


@dataclasses.dataclass(frozen=True, slots=True)
class BatchingPlan:
    """Ways to run an architecture: many sequences in one batch, and prompts in chunks."""

    batched: bool
    chunked_prefill: bool


class TorchRunner:
    """`Runner` over a causal language model.

    A step reads at most ``max_prefill_tokens`` tokens of prompts (or one whole prompt, without
    chunked prefill and for a prompt with images), one prompt after the other, and generates one
    token for each job that has read its prompt: with one forward pass for all of them, or with one
    for each.
    """

    def __init__(self, network: Untyped, max_prefill_tokens: int, plan: BatchingPlan) -> None:
        self._model = CausalModel(network)
        self._chunked_prefill = plan.chunked_prefill
        self._max_prefill_tokens = max_prefill_tokens
        self._jobs: dict[Job, SequenceState] = {}
        self._batch: PaddedBatch[SequenceState] | None = None
        if plan.batched:
            self._batch = PaddedBatch(self._model)
        self.closed = False

    def add(self, job: Job) -> None:
        self._jobs[job] = SequenceState(
            job, make_sampler(job.request.sampling), unread=[*job.prompt], tokens=[*job.prompt]
        )

    def remove(self, job: Job) -> None:
        state = self._jobs.pop(job)
        if self._batch and state in self._batch.rows:
            self._batch.remove(state)

    def step(self) -> list[tuple[Job, StepOutput]]:
        decoding = [state for state in self._jobs.values() if state.new_tokens]
        scores = self._decode(decoding) | self._prefill()
        outputs = []
        for job, state in list(self._jobs.items()):
            if state not in scores:
                continue
            output = state.sample_token(scores[state])
            if output.finish or output.failure:
                self.remove(job)
            outputs.append((job, output))
        return outputs

    def _decode(self, states: Sequence[SequenceState]) -> dict[SequenceState, Untyped]:
        """Read the last token of each sequence. Return the scores of the next tokens."""
        if self._batch is None:
            return {state: self._read(state, 1) for state in states}
        for state in states:
            if state.cache is not None:
                self._batch.add(state, state.cache)
                state.cache = None
        rows = self._batch.rows
        if not rows:
            return {}
        scores = self._batch.forward([state.unread[0] for state in rows])
        return dict(zip(rows, scores.split(1), strict=True))

    def _prefill(self) -> dict[SequenceState, Untyped]:
        """Read unread prompts, the oldest first. Return the scores after those that are read."""
        finished = {}
        budget = self._max_prefill_tokens
        for state in self._jobs.values():
            if state.new_tokens or budget <= 0:
                continue
            size = self._chunk_size(state, budget)
            budget -= size
            scores = self._read(state, size)
            if not state.unread:
                finished[state] = scores
        return finished

    def _read(self, state: SequenceState, size: int) -> Untyped:
        """Read ``size`` tokens of one sequence. Return the scores of the next token."""
        tokens, state.unread = state.unread[:size], state.unread[size:]
        images = state.job.images if state.cache is None else {}
        scores, state.cache = self._model.forward([tokens], state.cache, **images)
        return scores

    def _chunk_size(self, state: SequenceState, budget: int) -> int:
        """Return the number of tokens of a prompt to read: images are read with all of it."""
        if state.job.images and state.cache is None:
            return state.job.prompt_tokens
        return min(len(state.unread), budget) if self._chunked_prefill else len(state.unread)

    def close(self) -> None:
        self.closed = True
        self._jobs.clear()
        del self._model, self._batch


def make_plan(network: Untyped) -> BatchingPlan:
    """Try out the network with a few forward passes and log its limits. Raises
    `ConfigurationError` when it cannot generate token by token."""
    model = CausalModel(network)
    try:
        chunked_prefill = supports_chunked_prefill(model)
    except Exception as error:  # each architecture has errors of its own
        kind = network.config.model_type
        raise ConfigurationError(
            f"models of type {kind!r} cannot generate token by token: {error!r}"
        ) from error
    if not chunked_prefill:
        log.warning("prompts are read whole, which may delay other requests")
    obstacle = batching_obstacle(model)
    if obstacle:
        log.warning("requests are computed one at a time: %s", obstacle)
    return BatchingPlan(batched=not obstacle, chunked_prefill=chunked_prefill)


def make_sampler(sampling: Sampling) -> Sampler:
    """Return a function that samples as ``sampling`` says, with its own random generator."""
    import torch
    from transformers import LogitsProcessorList

    process = LogitsProcessorList(logits_processors(sampling))
    seed = random.getrandbits(63) if sampling.seed is None else sampling.seed
    generator = torch.Generator().manual_seed(seed & (2**63 - 1))

    def sample(tokens: Sequence[int], scores: Untyped) -> int:
        ids: Untyped = torch.tensor([tokens])
        scores = process(ids, scores.cpu())
        if sampling.temperature == 0:
            return int(scores.argmax(-1).item())
        return int(torch.multinomial(scores.softmax(-1), 1, generator=generator).item())

    return sample


def logits_processors(sampling: Sampling) -> list[Untyped]:
    from transformers import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    found: list[Untyped] = []
    if sampling.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature not in (0, 1):
        found.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.temperature and sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.temperature and sampling.top_p < 1:
        found.append(TopPLogitsWarper(sampling.top_p))
    return found
