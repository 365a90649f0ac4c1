"""``palaver export`` and ``palaver erase``: the data of one person.

The commands open the ledger. SQLite serves one process, so the server must be stopped first; a
person can do the same over HTTP while it runs, see docs/protocol.md.
"""

from pathlib import Path

import click

from palaver.cli.console import Console, echo, encode_json, print_json
from palaver.errors import InvalidInput
from palaver.exports import collect_export
from palaver.messages import check_name
from palaver.private_files import write_private_file

tenant_option = click.option(
    "--tenant", default="default", show_default=True, help="The person's tenant."
)
person_option = click.option("--person", required=True, help="The person's id in the tenant.")


@click.command()
@tenant_option
@person_option
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file."
)
@click.pass_obj
def export(console: Console, tenant: str, person: str, output: Path | None) -> None:
    """Print all data of a person as JSON.

    With SQLite, stop the server first.
    """
    check_name(tenant, "tenant")
    check_name(person, "person")
    data = console.run_with_ledger(lambda ledger: collect_export(ledger.export(tenant, person)))
    if output is None:
        print_json(data)
        return
    try:
        write_private_file(output, encode_json(data).encode() + b"\n")
    except OSError as error:
        raise InvalidInput(f"{str(output)!r} cannot be written: {error.strerror}") from error
    echo(f"Wrote {output}.")


@click.command()
@tenant_option
@person_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
@click.pass_obj
def erase(console: Console, tenant: str, person: str, yes: bool, as_json: bool) -> None:
    """Remove all data of a person, and print a receipt.

    With SQLite, stop the server first.
    """
    check_name(tenant, "tenant")
    check_name(person, "person")
    if not yes:
        click.confirm(f"Erase all data of {person!r} in tenant {tenant!r} permanently?", abort=True)
    receipt = console.run_with_ledger(lambda ledger: ledger.erase(tenant, person))
    if as_json:
        print_json(receipt)
        return
    echo(
        f"Erased {person!r} of tenant {tenant!r}: {receipt.messages} messages and "
        f"{receipt.events} events in {receipt.conversations} conversations, "
        f"{receipt.dead_letters} dead letters, {receipt.memories} memories."
    )
