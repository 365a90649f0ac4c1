"""Train the starter model within a budget of minutes, and export it.

    python -m training.starter.train --data data/train --work build/starter --minutes 75

Run again with `--resume` to continue from the last checkpoint (with more `--minutes`, to train
longer). Matrices are trained by Muon, everything else by AdamW; the learning rate is constant
at first and then falls to zero over the rest of the budget.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from training.starter import corpus, mixture, tokenization
from training.starter.model import (
    SIZES,
    Network,
    count_parameters,
    export_network,
    load_network,
    shape_fields,
)
from training.starter.packing import Batch

log = logging.getLogger("starter")

DrawnStep = tuple[list[Batch], dict[str, int]]
"""The batches of a step, and the cursors of the sources after them."""

WARM_UP, CONSTANT = 0.015, 0.35
"""Shares of the budget: rising learning rate; then constant until here; then falling."""
MUON_RATE, ADAM_RATE, EMBEDDING_RATE = 0.02, 2e-3, 4e-3


@dataclass(slots=True)
class Progress:
    """Progress of a training run; `seconds` excludes pauses between runs."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    targets: int = 0


def learning_rate_factor(share: float) -> float:
    """Return the learning rate's factor at a share (0 to 1) of the budget."""
    if share < WARM_UP:
        return max(share, 0.05 * WARM_UP) / WARM_UP
    return min(1.0, max(0.01, (1.0 - share) / (1.0 - CONSTANT)))


def make_optimizers(network: Network, parts: int = 1) -> list[torch.optim.Optimizer]:
    """Give matrices to `parts` Muons (for as many threads), everything else to AdamW."""
    inner = dict(network.layers.named_parameters())
    matrices = [weight for weight in inner.values() if weight.ndim == 2]
    vectors = [weight for weight in inner.values() if weight.ndim == 1] + [network.norm.weight]
    adam = [
        {"params": vectors, "lr": ADAM_RATE},
        {"params": [network.embed_tokens.weight], "lr": EMBEDDING_RATE},
    ]
    found: list[torch.optim.Optimizer] = [
        *(
            torch.optim.Muon(matrices[n::parts], lr=MUON_RATE, weight_decay=0.02)
            for n in range(parts)
        ),
        torch.optim.AdamW(adam, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    for optimizer in found:
        for group in optimizer.param_groups:
            group["base"] = group["lr"]
    return found


def make_replica(network: Network) -> Network:
    """Return a network that shares the weights and has its own gradients."""
    other = Network(network.shape).to(network.embed_tokens.weight.device)
    for mine, theirs in zip(other.parameters(), network.parameters(), strict=True):
        mine.data = theirs.data
    return other


class TrainingRun:
    """Training run: network, optimizers, data and progress.

    Each of `workers` threads computes whole batches on its own replica with one core: no
    operation waits for another core, so a busy machine slows training down only in proportion.
    """

    def __init__(
        self,
        network: Network,
        mix: mixture.Mixture,
        device: torch.device,
        dtype: torch.dtype,
        workers: int,
    ) -> None:
        self.network, self.mix, self.device, self.dtype = network, mix, device, dtype
        self.optimizers = make_optimizers(network, workers)
        self.replicas = [network, *(make_replica(network) for _ in range(workers - 1))]
        self.progress = Progress()
        self.cursors = mix.cursors()
        self._pool = ThreadPoolExecutor(
            workers + 1, initializer=torch.set_num_threads, initargs=(1,)
        )
        self._ahead: Future[DrawnStep] | None = None

    def step(self, share: float, boost: float = 1.0) -> dict[str, float]:
        """Do one step at a share of the budget; return the loss of every task in it."""
        batches = self._next_batches()
        total = float(sum(batch.weights.sum() for batch in batches))
        losses: dict[str, list[float]] = {}
        for found in self._add_gradients(batches, total):
            for name, loss in found.items():
                losses.setdefault(name, []).append(loss)
        self._update(learning_rate_factor(share) * boost)
        self.progress.step += 1
        self.progress.tokens += sum(batch.tokens.size for batch in batches)
        self.progress.targets += sum(int((batch.targets >= 0).sum()) for batch in batches)
        return {name: float(np.mean(values)) for name, values in losses.items()}

    def _draw_step(self, step: int) -> DrawnStep:
        return self.mix.draw_step(step), self.mix.cursors()

    def _next_batches(self) -> list[Batch]:
        """Return this step's batches and begin to draw those of the next one."""
        step = self.progress.step
        ahead = self._ahead or self._pool.submit(self._draw_step, step)
        batches, self.cursors = ahead.result()
        self._ahead = self._pool.submit(self._draw_step, step + 1)
        return batches

    def _add_gradients(self, batches: list[Batch], total: float) -> list[dict[str, float]]:
        """Add the gradients of all batches; a free worker takes the next batch."""
        waiting = deque(batches)
        free = [
            self._pool.submit(self._process_batches, net, waiting, total) for net in self.replicas
        ]
        found = [losses for future in free for losses in future.result()]
        for other in self.replicas[1:]:
            for mine, theirs in zip(self.network.parameters(), other.parameters(), strict=True):
                if theirs.grad is not None:
                    mine.grad = theirs.grad if mine.grad is None else mine.grad.add_(theirs.grad)
                    theirs.grad = None
        return found

    def _process_batches(
        self, network: Network, waiting: deque[Batch], total: float
    ) -> list[dict[str, float]]:
        found = []
        while waiting:
            try:
                batch = waiting.popleft()
            except IndexError:  # another thread took the last one
                break
            found.append(self.add_gradients(network, batch, total))
        return found

    def _update(self, factor: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * factor
        for future in [self._pool.submit(optimizer.step) for optimizer in self.optimizers]:
            future.result()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def add_gradients(self, network: Network, batch: Batch, total: float) -> dict[str, float]:
        """Add the gradients of a batch; `total` is the weight of the whole step's targets."""
        place = np.flatnonzero(batch.targets.reshape(-1) >= 0)
        hidden = network(
            self._move(batch.tokens),
            self._move(batch.positions),
            self._move(batch.mask()),
            self.dtype,
        )
        wanted = self._move(batch.targets.reshape(-1)[place])
        weights = self._move(batch.weights.reshape(-1)[place] / total)
        chosen = hidden.flatten(0, 1)[self._move(place)]
        loss, each = network.losses(chosen, wanted, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        answers = batch.answers.reshape(-1)[place]
        return _by_task(batch, place[answers], each.cpu().numpy()[answers])

    def _move(self, array: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        done = self.progress
        return {
            "shape": shape_fields(self.network.shape),
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "cursors": self.cursors,
            "progress": [done.step, done.seconds, done.tokens, done.targets],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.mix.restore(state["cursors"])
        self.cursors = dict(state["cursors"])
        self.progress = Progress(*state["progress"])
        self._ahead = None

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)


def _by_task(batch: Batch, place: Any, losses: Any) -> dict[str, float]:
    length = batch.targets.shape[1]
    names = np.array(batch.names)[place // length]
    return {str(name): float(losses[names == name].mean()) for name in np.unique(names)}


def save_checkpoint(run: TrainingRun, folder: Path) -> None:
    """Write the checkpoint atomically."""
    partial = folder / "checkpoint.part"
    torch.save(run.state(), partial)
    partial.replace(folder / "checkpoint.pt")
    tokenization.write_json(folder / "progress.json", asdict(run.progress))


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the checkpoint."""
    state: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return state


def open_run(options: argparse.Namespace) -> TrainingRun:
    """Prepare tokenizer, data and network; with `--resume`, their saved state."""
    work: Path = options.work
    shape = SIZES[options.size]
    if options.start_from:
        tokenization.copy_tokenizer(options.start_from, work / "model")
    if not (work / "model" / "tokenizer.json").exists():
        log.info("training the tokenizer")
        texts = mixture.tokenizer_texts(options.data, options.tokenizer_texts)
        tokenization.save_tokenizer(
            tokenization.train_tokenizer(texts, shape.vocabulary), work / "model", shape.context
        )
    tokenizer = tokenization.load_tokenizer(work / "model")
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    start: Path | None = options.start_from
    network = (load_network(start, shape) if start else Network(shape)).to(device)
    streams = mixture.training_sources(options.data)
    mix = mixture.Mixture.open(
        streams,
        tokenizer,
        options.batch,
        options.prompt_weight,
        options.copy_weight,
        revises=start is not None,
    )
    workers = options.threads if device.type == "cpu" else 1
    run = TrainingRun(network, mix, device, getattr(torch, options.dtype), workers)
    if options.resume:
        run.restore(load_checkpoint(work))
    log.info("%s parameters, at step %s", count_parameters(network), run.progress.step)
    return run


def export_run(run: TrainingRun, folder: Path) -> None:
    """Export the weights as they are now."""
    encoder = run.mix.encoder
    export_network(run.network, folder, end=encoder.end, pad=encoder.pad)


def append_losses(path: Path, run: TrainingRun, losses: dict[str, float]) -> None:
    """Append one line per task to the log of losses."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "seconds", "tokens", "task", "loss"])
        done = run.progress
        for name, loss in sorted(losses.items()):
            writer.writerow([done.step, round(done.seconds), done.tokens, name, round(loss, 4)])


def update_averages(average: dict[str, float], losses: dict[str, float]) -> None:
    """Update running averages of the losses by task."""
    for name, loss in losses.items():
        average[name] = 0.95 * average.get(name, loss) + 0.05 * loss


def train(run: TrainingRun, options: argparse.Namespace) -> None:
    """Train until the budget of minutes is spent."""
    budget = options.minutes * 60.0
    average: dict[str, float] = {}
    saved = run.progress.seconds
    while run.progress.seconds < budget and run.progress.step < options.steps:
        started = time.monotonic()
        update_averages(average, run.step(run.progress.seconds / budget, options.boost))
        run.progress.seconds += time.monotonic() - started
        if run.progress.step % options.log_every == 0:
            append_losses(options.work / "losses.csv", run, average)
            log.info(
                "step %d, %.1f min, %.2f M tokens: %s",
                run.progress.step,
                run.progress.seconds / 60,
                run.progress.tokens / 1e6,
                json.dumps(_rounded(average)),
            )
        if run.progress.seconds - saved > options.save_every * 60:
            saved = run.progress.seconds
            save_checkpoint(run, options.work)
            export_run(run, options.work / "model")
    save_checkpoint(run, options.work)
    export_run(run, options.work / "model")


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in sorted(values.items())}


def argument_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    found = argparse.ArgumentParser(prog="training.starter.train", description=__doc__)
    found.add_argument("--data", type=Path, default=corpus.default_data_folder())
    found.add_argument("--work", type=Path, default=Path("build/starter"))
    found.add_argument("--size", choices=sorted(SIZES), default="tiny")
    found.add_argument("--start-from", type=Path, help="go on from the weights of this model")
    found.add_argument("--minutes", type=float, default=75.0)
    found.add_argument("--steps", type=int, default=10**9, help="stop here at the latest")
    found.add_argument("--batch", type=int, default=4096, help="tokens of half a step")
    found.add_argument("--prompt-weight", type=float, default=0.0, help="of a translation's source")
    found.add_argument(
        "--copy-weight", type=float, default=0.2, help="of repeated words in passages"
    )
    found.add_argument("--boost", type=float, default=1.0, help="of the learning rate")
    found.add_argument("--tokenizer-texts", type=int, default=12_000)
    found.add_argument("--device", default="cpu")
    found.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    found.add_argument("--threads", type=int, default=2)
    found.add_argument("--seed", type=int, default=7)
    found.add_argument("--save-every", type=float, default=4.0, help="minutes")
    found.add_argument("--log-every", type=int, default=20, help="steps")
    found.add_argument("--resume", action="store_true")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    options = argument_parser().parse_args(arguments)
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    run = open_run(options)
    train(run, options)
    run.close()


if __name__ == "__main__":
    main()
