"""Program of a replica with the endpoint of MCP, for the proof that its clients need no certain
one."""

from tests.chaos.fork_server import OnReady, Options
from tests.proofs import replica_program

from palaver.seals import Seals
from palaver.server import Server

PROGRAM = "tests.proofs.mcp_program:serve"


async def serve(options: Options, on_ready: OnReady) -> None:
    """Run a replica until SIGTERM. The option ``own_seals`` is the mutant: each replica has a
    secret of its own, and reads nothing that another one has sealed."""
    if options.get("own_seals"):
        Server.seals = lambda self, purpose: Seals((), purpose)  # type: ignore[method-assign]
    await replica_program.serve(options, on_ready)
