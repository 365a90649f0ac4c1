"""Program of a replica with the channel of A2A, for the proof that a task is followed at any."""

from collections.abc import Iterator

from tests.chaos.fork_server import OnReady, Options
from tests.proofs import replica_program

from palaver_plugins.channels.a2a.shapes import Json
from palaver_plugins.channels.a2a.task_stream import TaskEvents

PROGRAM = "tests.proofs.a2a_program:serve"
MUTANT = "a subscription begins without the text so far"


def _leave_out_text_so_far() -> None:
    begin = TaskEvents.begin

    def begin_without(self: TaskEvents) -> Iterator[Json]:
        for event in begin(self):
            event["task"].artifacts = []
            yield event

    TaskEvents.begin = begin_without  # type: ignore[method-assign]


async def serve(options: Options, on_ready: OnReady) -> None:
    """Run a replica until SIGTERM, as the mutant where the option ``a2a_mutant`` is true."""
    if options.get("a2a_mutant"):
        _leave_out_text_so_far()
    await replica_program.serve(options, on_ready)
