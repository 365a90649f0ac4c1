"""Process that connects a model for a running server; see `palaver.models.setup_job`.

It reads a `SetupRequest` as one line of JSON, and writes one line for each `SetupProgress`. It ends
when its standard input does, because the server is gone then.
"""

import logging
import os
import sys
import threading
from typing import BinaryIO

import msgspec

from palaver.cli.connecting import Connector
from palaver.errors import PalaverError, describe_error, ends_process
from palaver.models.choices import ServerChoice, SetupProgress, SetupRequest
from palaver.private_files import set_private_umask

REPORT_SHARE = 500
"""Parts of a download after which its progress is told."""


def main() -> None:
    """Connect the model that standard input names."""
    set_private_umask()
    logging.disable()  # a server may repeat its key in an error
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=SetupRequest)
    threading.Thread(target=_end_with_server, daemon=True).start()
    with _take_standard_output() as stream:
        reporter = _Reporter(stream)
        reporter.report(_run(request, reporter))


def _take_standard_output() -> BinaryIO:
    """Return a stream to standard output; what libraries print goes to standard error instead."""
    stream = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return stream


def _run(request: SetupRequest, reporter: "_Reporter") -> SetupProgress:
    try:
        connector = Connector(request.launch, reporter.report)
        model = connector.connect(request.choice)
        connector.remove_old_key()  # the server restarts at once
        return SetupProgress(step="done", model=model)
    except PalaverError as error:
        problem = str(error)
    except BaseException as error:  # of an engine or a library
        if ends_process(error):
            raise
        problem = f"the trial failed: {describe_error(error)}"
    if isinstance(request.choice, ServerChoice) and request.choice.key:
        problem = problem.replace(request.choice.key, "[key]")
    return SetupProgress(step="failed", problem="; ".join(problem.splitlines()))


class _Reporter:
    """Writes the progress, of a download not more often than it can be seen."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._part = -1

    def report(self, progress: SetupProgress) -> None:
        part = progress.done * REPORT_SHARE // (progress.total or 1)
        if progress.step == "downloading" and progress.total and part == self._part:
            return
        self._part = part
        self._stream.write(msgspec.json.encode(progress) + b"\n")


def _end_with_server() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
