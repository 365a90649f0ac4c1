"""``palaver export`` and ``palaver erase``: what is held about one person.

The commands open the ledger themselves. With SQLite, which serves one process, the server must be
stopped meanwhile; a person can do the same over HTTP while it runs, see docs/protocol.md.
"""

from pathlib import Path

import click
import msgspec

from palaver.cli.console import Console, print_json
from palaver.errors import PalaverError
from palaver.messages import check_name, encode

tenant_option = click.option("--tenant", default="default", show_default=True, help="Whose data.")
person_option = click.option("--person", required=True, help="The person's id in the tenant.")


@click.command()
@tenant_option
@person_option
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file."
)
@click.pass_obj
def export(console: Console, tenant: str, person: str, output: Path | None) -> None:
    """Print everything that is held about a person, as JSON.

    With SQLite, stop the server first.
    """
    check_name(tenant, "tenant")
    check_name(person, "person")
    held = console.run_with_ledger(lambda ledger: ledger.export(tenant, person))
    if output is None:
        print_json(held)
        return
    try:
        output.touch(mode=0o600)  # it holds what was said in confidence
        output.write_bytes(msgspec.json.format(encode(held)) + b"\n")
    except OSError as error:
        raise PalaverError(f"{str(output)!r} cannot be written: {error.strerror}") from error
    click.echo(f"Wrote {output}.")


@click.command()
@tenant_option
@person_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
@click.pass_obj
def erase(console: Console, tenant: str, person: str, yes: bool, as_json: bool) -> None:
    """Remove everything that is held about a person, and print the receipt.

    With SQLite, stop the server first.
    """
    check_name(tenant, "tenant")
    check_name(person, "person")
    if not yes:
        click.confirm(f"Erase all of {person!r} in tenant {tenant!r} for good?", abort=True)
    receipt = console.run_with_ledger(lambda ledger: ledger.erase(tenant, person))
    if as_json:
        print_json(receipt)
        return
    click.echo(
        f"Erased {person!r} of tenant {tenant!r}: {receipt.messages} messages and "
        f"{receipt.events} events in {receipt.conversations} conversations, "
        f"{receipt.dead_letters} dead letters, {receipt.memories} memories."
    )
