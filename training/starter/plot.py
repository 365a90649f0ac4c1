"""Draw the losses of a training run.

python -m training.starter.plot --work build/starter --output training/starter/loss.png
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

Curve = list[tuple[float, float]]


def read_curves(path: Path) -> dict[str, Curve]:
    """Read task -> (millions of tokens, loss) from the log of losses."""
    found: dict[str, Curve] = defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["task"]].append((int(row["tokens"]) / 1e6, float(row["loss"])))
    return dict(found)


def draw_curves(found: dict[str, Curve], output: Path) -> None:
    """Draw translations on the left and the other tasks on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for name, curve in sorted(found.items()):
        tokens, losses = zip(*curve, strict=True)
        axes = left if "-" in name else right
        axes.plot(tokens, losses, label=name, linewidth=1.2)
    for axes, title in ((left, "translation"), (right, "other tasks")):
        axes.set_title(title)
        axes.set_xlabel("million tokens")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    left.set_ylabel("loss of answers (nats per token)")
    figure.tight_layout()
    figure.savefig(output, dpi=90)


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="training.starter.plot", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/starter"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("loss.png"))
    options = parser.parse_args(arguments)
    draw_curves(read_curves(options.work / "losses.csv"), options.output)


if __name__ == "__main__":
    main()
