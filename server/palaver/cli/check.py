"""``palaver check``: report what a configuration guarantees and what is wrong with it."""

import click

from palaver.cli.console import Console, echo

MARKS = {"good": ("✓", "green"), "note": ("!", "yellow"), "bad": ("✗", "red")}


@click.command()
@click.option(
    "--engine",
    is_flag=True,
    help="Load the model and generate one token; the engine may fill its cache.",
)
@click.option("--redis", metavar="URL", help="Check this Redis as the ledger.")
@click.pass_obj
def check(console: Console, engine: bool, redis: str | None) -> None:
    """Explain what works, and what does not.

    ✓ works, ! is a limitation, ✗ does not work. Without --engine, nothing is created or changed.
    With a ✗ the exit code is 78 (correct the configuration) or 69 (a service is unavailable, try
    again).
    """
    from palaver.cli.findings import check_configuration  # imports the web framework, slowly

    if redis:
        console = console.override("ledger.use=redis", f"ledger.redis.url={redis}")
    codes = {0}
    for grade, text, code in check_configuration(console, load_engine=engine):
        codes.add(code)
        for line in text.splitlines():
            mark, colour = MARKS[grade]
            echo(mark, nl=False, fg=colour)
            echo(f" {line}")
    click.get_current_context().exit(max(codes))
