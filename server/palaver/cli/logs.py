"""Logs: one record is one line on standard error; only tracebacks have more, which are indented.

A record contains no control characters, so that no text from outside can begin a line that looks
like a record, and no text of exceptions, which may quote what a person wrote.
"""

import asyncio
import contextlib
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from palaver.control_characters import escape_controls
from palaver.errors import describe_error, error_chain

log = logging.getLogger(__name__)

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
INDENT = "    "


def configure_logging(level: int) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter(FORMAT))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("gguf").setLevel(logging.WARNING)  # logs every file that it writes


@contextlib.contextmanager
def logging_interpreter_errors() -> Iterator[None]:
    """Log what the interpreter prints of threads, finalizers and warnings; escape all records.

    Libraries add handlers of their own, and without a handler Python prints the message itself.
    """
    hooks = (
        (threading, "excepthook", _log_thread_error),
        (sys, "unraisablehook", _log_unraisable_error),
        (warnings, "showwarning", _log_warning),
        (logging.lastResort, "formatter", LogFormatter("%(message)s")),
    )
    with contextlib.ExitStack() as stack:
        for owner, name, hook in hooks:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, hook)
        stack.callback(logging.setLogRecordFactory, logging.getLogRecordFactory())
        logging.setLogRecordFactory(EscapedRecord)
        yield


def _log_thread_error(failed: threading.ExceptHookArgs) -> None:
    name = failed.thread.name if failed.thread else "?"
    log.error("the thread %r failed: %s", name, _describe(failed.exc_value))


def _log_unraisable_error(failed: "sys.UnraisableHookArgs") -> None:
    log.error("%s: %s", failed.err_msg or "an error was ignored", _describe(failed.exc_value))


def _log_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object
) -> None:
    log.warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)


def _describe(error: BaseException | None) -> str:
    return describe_error(error) if error else "no exception"


def log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that no task awaits, in place of asyncio, which logs the text of the error."""
    # The message about a callback quotes its arguments.
    what = "a callback failed" if "handle" in context else context["message"]
    log.error("%s: %s", what, _describe(context.get("exception")))


class EscapedRecord(logging.LogRecord):
    """Record without control characters in its message, whatever handler writes it."""

    def getMessage(self) -> str:
        return escape_controls(super().getMessage())


class LogFormatter(logging.Formatter):
    """Formatter that escapes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        try:
            record.message = record.getMessage()
        except Exception as error:  # noqa: BLE001 - the caller's mistake, which must not be lost
            record.message = f"{record.msg!s} ({type(error).__name__}: its arguments do not fit)"
        record.asctime = self.formatTime(record, self.datefmt)
        line = escape_controls(self.formatMessage(record))
        raised = record.exc_info[1] if record.exc_info else None
        further = [*_traceback_lines(raised), *(record.stack_info or "").splitlines()]
        return f"\n{INDENT}".join((line, *map(escape_controls, further)))


def _traceback_lines(error: BaseException | None) -> list[str]:
    """Return the traceback of an error and its causes, the innermost first, without their texts."""
    lines = []
    for each in reversed(error_chain(error)):
        frames = "".join(traceback.format_tb(each.__traceback__))
        lines += ["Traceback (most recent call last):", *frames.splitlines(), type(each).__name__]
    return lines
