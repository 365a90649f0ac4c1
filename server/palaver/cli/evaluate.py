"""``palaver evaluate``: run a suite, compare two runs, make a suite of feedback."""

import contextlib
import dataclasses
import logging
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from palaver.cli.console import EXIT_INTERRUPTED, echo
from palaver.cli.logs import configure_logging
from palaver.errors import InvalidInput

if TYPE_CHECKING:
    from palaver.evaluation.results import ScoreRecord
    from palaver.evaluation.runs import OnProgress

EXIT_BEYOND_LIMIT = 3
"""A score is beyond a limit of ``--fail-below`` or ``--fail-above``."""
Limits = tuple[tuple[str, float], ...]


class SuiteGroup(click.Group):
    """A group in which any word that is no command is a suite to run."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["run", *args])


def read_limits(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Limits:
    """Return limits of scores, each given as ``METRIC=NUMBER``."""
    limits = []
    for value in values:
        metric, _, number = value.rpartition("=")
        try:
            limits.append((metric, float(number)))
        except ValueError:
            raise click.BadParameter(f"{value!r} is not of the form METRIC=NUMBER") from None
    return tuple(limits)


output_path = click.Path(file_okay=False, path_type=Path)
run_path = click.Path(exists=True, file_okay=False, path_type=Path)
seed_option = click.option("--seed", default=0, show_default=True, help="Seed of all choices.")
fail_below_option = click.option(
    "--fail-below",
    multiple=True,
    metavar="METRIC=NUMBER",
    callback=read_limits,
    help=f"Exit with {EXIT_BEYOND_LIMIT} when the score is below. May be given several times.",
)
fail_above_option = click.option(
    "--fail-above",
    multiple=True,
    metavar="METRIC=NUMBER",
    callback=read_limits,
    help="The same when it is above.",
)


@click.group(cls=SuiteGroup)
def evaluate() -> None:
    """Measure skills, router, retriever or the whole server.

    'palaver evaluate SUITE' is short for 'palaver evaluate run SUITE'.
    """


@evaluate.command("list")
def list_suites() -> None:
    """List the built-in suites."""
    from palaver.evaluation.suites import built_in_suites, load_suite

    for name, path in built_in_suites().items():
        echo(f"{name:<24} {load_suite(path).description}")


@evaluate.command()
@click.argument("suite")
@click.option("--data", type=run_path, help="Directory of the data (default: that of the suite).")
@click.option(
    "--output",
    type=output_path,
    help="Directory of the results (default: evaluations/SUITE-TIME). A run in it goes on.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only so many rows, chosen at random.")
@seed_option
@click.option(
    "--parallel", type=click.IntRange(min=1), default=4, show_default=True, help="Turns at once."
)
@click.option(
    "--engine/--no-engine",
    "with_engine",
    default=None,
    help="Whether the model is loaded (default: for skills and the server).",
)
@click.option("--run-code", is_flag=True, help="Run code that the model writes, in a sandbox.")
@click.option("--prompt-price", type=float, help="Price of a million tokens of prompts.")
@click.option("--completion-price", type=float, help="Price of a million tokens of replies.")
@fail_below_option
@fail_above_option
@click.pass_context
def run(
    ctx: click.Context,
    suite: str,
    data: Path | None,
    output: Path | None,
    limit: int | None,
    seed: int,
    parallel: int,
    with_engine: bool | None,
    run_code: bool,
    prompt_price: float | None,
    completion_price: float | None,
    fail_below: Limits,
    fail_above: Limits,
) -> None:
    """Run SUITE, built in or a file, and write a result and a report."""
    from palaver.evaluation.metrics import Prices
    from palaver.evaluation.results import REPORT_FILE, RunDirectory
    from palaver.evaluation.runs import Run, RunOptions, new_directory
    from palaver.evaluation.suites import find_suite, load_suite

    path = find_suite(suite)
    prices = None
    if prompt_price is not None or completion_price is not None:
        prices = Prices(prompt_price or 0.0, completion_price or 0.0)
    own = [f"{key}={_as_text(value)}" for key, value in load_suite(path).settings.items()]
    console = dataclasses.replace(ctx.obj, overrides=(*own, *ctx.obj.overrides))
    options = RunOptions(
        limit=limit, seed=seed, parallel=parallel, run_code=run_code, prices=prices
    )
    started = Run(path, data or path.parent, options, console.settings, console.registry)
    if with_engine is None:
        with_engine = started.suite.target in ("skill", "server")
    check_names([*fail_below, *fail_above], started.metric_names(has_model=with_engine))
    configure_logging(logging.ERROR)
    engine = console.builder.engine() if with_engine else None
    models = console.builder.models() if with_engine else {}
    directory = RunDirectory(output or new_directory(path))
    given = dict(override.split("=", 1) for override in console.overrides)
    try:
        with _showing_progress() as on_progress:
            result = started.run(
                directory, engine, on_progress, settings_given=given, models=models
            )
    except KeyboardInterrupt:
        echo(f"Interrupted. It goes on with --output {directory.path}", err=True)
        ctx.exit(EXIT_INTERRUPTED)
    for name, score in result.scores.items():
        echo(f"{name:<22} {format_score(score)}")
    echo(f"{'report':<22} {directory.path / REPORT_FILE}")
    check_limits(ctx, result.scores, fail_below, fail_above)


@evaluate.command()
@click.argument("first", type=run_path)
@click.argument("second", type=run_path)
@click.option(
    "--output", type=output_path, help="Directory of the report (default: 'compared' in SECOND)."
)
@seed_option
@fail_below_option
@fail_above_option
@click.pass_context
def compare(
    ctx: click.Context,
    first: Path,
    second: Path,
    output: Path | None,
    seed: int,
    fail_below: Limits,
    fail_above: Limits,
) -> None:
    """Compare the runs in the directories FIRST and SECOND, case by case.

    The limits are of the change: SECOND minus FIRST.
    """
    from palaver.evaluation.comparison import compare_runs, pair_cases
    from palaver.evaluation.reports import write_comparison_report
    from palaver.evaluation.results import REPORT_FILE, RunDirectory

    runs = RunDirectory(first), RunDirectory(second)
    before, after = pair_cases(*runs)
    comparison = compare_runs(runs[0].result(), runs[1].result(), before, after, seed=seed)
    target = output or second / "compared"
    write_comparison_report(target, comparison, before, after, [first.name, second.name])
    for name, (old, new) in comparison.changed.items():
        echo(f"{name}: {old} → {new}")
    for name, found in comparison.metrics.items():
        echo(f"{name:<22} {format_score(found.change, sign='+')}  {found.verdict}")
    echo(f"{'report':<22} {target / REPORT_FILE}")
    changes = {name: found.change for name, found in comparison.metrics.items()}
    check_names([*fail_below, *fail_above], changes)
    check_limits(ctx, changes, fail_below, fail_above)


@evaluate.command("from-feedback")
@click.argument("replies", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("suite", type=click.Path(dir_okay=False, path_type=Path))
def from_feedback(replies: Path, suite: Path) -> None:
    """Make a suite of REPLIES, a file of 'palaver feedback export'.

    SUITE is the file to write; it ends in .toml.
    """
    from palaver.evaluation.feedback import write_feedback_suite

    count = write_feedback_suite(replies, suite)
    echo(f"Wrote a suite of {count} rated replies to {suite}. Run it with:")
    echo(f"  palaver evaluate {suite}")


def _as_text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def format_score(score: "ScoreRecord", sign: str = "") -> str:
    """Return a score with its confidence interval, for people."""
    if score.value is None:
        return "-"
    text = f"{score.value:{sign}.4g}{score.unit and ' ' + score.unit}"
    if score.low is None or score.high is None:
        return text
    return f"{text}  [{score.low:{sign}.4g}, {score.high:{sign}.4g}]"


def check_names(limits: Iterable[tuple[str, float]], metrics: Collection[str]) -> None:
    """Refuse a limit of a metric that a run does not have."""
    for metric, _ in limits:
        if metric not in metrics:
            raise InvalidInput(f"the run has no metric {metric!r}; it has: {', '.join(metrics)}")


def check_limits(
    ctx: click.Context, scores: "Mapping[str, ScoreRecord]", below: Limits, above: Limits
) -> None:
    """Exit with `EXIT_BEYOND_LIMIT` when a score is beyond its limit, or has no value."""
    problems = []
    for metric, limit, is_lower in (*((*b, True) for b in below), *((*a, False) for a in above)):
        value = scores[metric].value
        if value is None or (value < limit if is_lower else value > limit):
            shown = "without a value" if value is None else f"{value:.4g}"
            problems.append(f"{metric} is {shown}, {'below' if is_lower else 'above'} {limit:g}")
    for problem in problems:
        echo(problem, err=True, fg="red")
    if problems:
        ctx.exit(EXIT_BEYOND_LIMIT)


@contextlib.contextmanager
def _showing_progress() -> "Iterator[OnProgress]":
    """Yield a function that shows the progress on a terminal, with an estimate of the time."""
    with contextlib.ExitStack() as stack:
        bars: list[Any] = []  # Any: click's own; none before the first call

        def show(done: int, total: int) -> None:
            if not bars:
                shown = click.progressbar(length=total, show_pos=True, file=sys.stderr)
                bars.append(stack.enter_context(shown))
            bars[0].update(done - bars[0].pos)

        yield show
