"""Program of a replica for the proof that the streams of Responses have the same numbers
everywhere."""

from typing import Any

from tests.chaos.fork_server import OnReady, Options
from tests.proofs import replica_program

from palaver.server import Server

PROGRAM = "tests.proofs.responses_program:serve"


async def serve(options: Options, on_ready: OnReady) -> None:
    """Run a replica until SIGTERM. The option ``live_numbers`` is the mutant: a stream has the text
    as this replica gets it, and not as the ledger has it."""
    if options.get("live_numbers"):
        _follow_live_text()
    await replica_program.serve(options, on_ready)


def _follow_live_text() -> None:
    subscribe = Server.subscribe

    async def subscribe_live(*args: Any, stored_only: bool = False, **more: Any) -> Any:
        return await subscribe(*args, **more)

    Server.subscribe = subscribe_live  # type: ignore[method-assign]
