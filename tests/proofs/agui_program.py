"""Program of a replica with the channel of AG-UI, for the proof that a run goes on at any."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from tests.chaos.fork_server import OnReady, Options
from tests.proofs import replica_program

from palaver.messages import new_id
from palaver_plugins.channels.agui import channel
from palaver_plugins.channels.agui.reply import AguiReply
from palaver_plugins.channels.agui.run_events import RunEvents

PROGRAM = "tests.proofs.agui_program:serve"


def _send_no_snapshots() -> None:
    """What a client has when it comes back is not replaced, but sent again."""

    def replace(self: RunEvents, reply: AguiReply) -> Iterator[dict[str, Any]]:
        reply.was_reset = False
        return iter(())

    RunEvents._replace = replace  # type: ignore[method-assign]


def _make_new_messages() -> None:
    """A run that is posted again is a new message."""
    user_message = vars(channel)["user_message"]

    def make(*about: Any, **more: Any) -> Any:
        return msgspec.structs.replace(user_message(*about, **more), id=new_id())

    vars(channel)["user_message"] = make


MUTANTS: dict[str, Callable[[], None]] = {
    "no snapshots": _send_no_snapshots,
    "no deduplication": _make_new_messages,
}


async def serve(options: Options, on_ready: OnReady) -> None:
    """Run a replica until SIGTERM, with a mutant where the option ``agui_mutant`` names one."""
    if name := options.get("agui_mutant"):
        MUTANTS[name]()
    await replica_program.serve(options, on_ready)
