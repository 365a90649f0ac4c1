"""Every error Palaver raises on purpose, by who must act.

    PalaverError
    ├── CallerError                 the caller's fault (4xx): correct the request
    │   ├── InvalidInput            400  a value is malformed
    │   │   └── UnusableImage       400  the engine cannot read an image
    │   ├── Unauthenticated         401  no valid credential
    │   ├── Forbidden               403  the credential does not own the thing
    │   │   ├── MissingRight        403  the key lacks a right
    │   │   └── ForeignHost         403  the request names another host
    │   ├── NotFound                404  no such conversation, turn, skill, model or document
    │   ├── MethodNotAllowed        405  the route has other methods
    │   ├── RequestTimeout          408  a request was not sent in time
    │   ├── Conflict                409  the same message id with another body
    │   ├── TooLarge                413  a message above the size limit
    │   │   ├── HeadTooLarge        431  a request line or headers above the size limit
    │   │   └── FileTooLarge        413  a file above the size limit
    │   ├── UnsupportedEncoding     415  a compressed body
    │   └── TooMany                 429  one's own quota or inbox is full
    ├── ConfigurationError          78   the settings cannot work (exit code of the command line)
    ├── ServerError                 ours (5xx)
    │   ├── Overloaded              503  shared capacity is used up
    │   ├── FilesUnavailable        503  the store of files cannot be reached
    │   ├── KnowledgeUnavailable    503  the store of documents cannot be reached
    │   ├── MaxAttemptsExceeded     500  no attempt at a turn came to its end
    │   └── LedgerError             500
    │       ├── LedgerUnavailable   503  the store cannot be reached
    │       │   └── LedgerInUse     503  another process uses a store that serves one
    │       ├── Fenced              500  another worker owns the turn now: stop at once
    │       └── IndexConflict       500  an append that does not continue the turn
    ├── PluginError                 a plugin's fault
    │   ├── PluginLoadError         500  a plugin could not be loaded or checked
    │   ├── NameCollision           500  two plugins contribute the same name
    │   └── SkillError              500  a skill failed, or used the Turn wrongly
    │       ├── ToolFailed          500  a tool reports that it has failed
    │       ├── OutcomeUnknown      500  a tool was started before a takeover; it may have run
    │       ├── UnusableAnswer      500  a person gave no usable answer to a question
    │       ├── Denied              500  a person did not approve the call of a tool
    │       └── LimitExceeded       500  the reply or the journal of a turn is too large
    └── EngineError                 502  the engine's fault
        ├── EngineUnavailable       503  dead, hung, restarting or not started
        ├── EngineTimeout           504  the request's deadline passed
        ├── EngineDied              502  the engine broke down at this request each time
        ├── PromptTooLong           400  the request does not fit the context window
        ├── EngineRefused           400  the engine, or the server behind it, refuses the request
        └── Unsupported             501  the engine declares that it cannot do this

``str(error)`` is the detail for the operator; ``error.public`` is a sentence safe to show to a
person; `describe_error` is what a log may keep of any error.
"""

import asyncio
import contextlib
import math
import os
from collections.abc import Iterator
from traceback import walk_tb
from typing import ClassVar

MAX_DESCRIBED_CAUSES, MAX_DESCRIBED_FRAMES = 4, 8


class PalaverError(Exception):
    """Root of the tree. ``retry_after`` is in seconds, or None when waiting does not help; where it
    is not given, that of the class."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    public_message: ClassVar[str] = "Something went wrong on our side."
    detail_is_public: ClassVar[bool] = False
    """Whether the detail is about the caller's own input and so may be shown to them."""
    detail_may_quote: ClassVar[bool] = True
    """Whether the detail may quote what a person or the engine wrote. Then it stays out of the log,
    which an erasure does not reach."""
    default_retry_after: ClassVar[float | None] = None
    """The usual ``retry_after``. Every 429 and 503 has one."""

    def __init__(
        self, detail: str = "", *, quoted: str = "", retry_after: float | None = None
    ) -> None:
        """``quoted``: what another program says about it; neither the log nor a person gets it."""
        detail = detail or self.public_message
        super().__init__(": ".join(filter(None, (detail, quoted))))
        self.log_detail = "" if self.detail_may_quote else detail
        self._detail = detail
        self.retry_after = self.default_retry_after if retry_after is None else retry_after

    @property
    def public(self) -> str:
        return self._detail if self.detail_is_public else self.public_message

    @property
    def retry_headers(self) -> dict[str, str]:
        """Return the HTTP headers that carry ``retry_after``, in seconds and in milliseconds."""
        if self.retry_after is None:
            return {}
        return {
            "Retry-After": str(max(1, math.ceil(self.retry_after))),
            "retry-after-ms": str(max(1, math.ceil(self.retry_after * 1000))),
        }


class CallerError(PalaverError):
    status = 400
    code = "bad_request"
    public_message = "The request cannot be understood."
    detail_is_public = True


class InvalidInput(CallerError):
    code = "invalid_input"


class UnusableImage(InvalidInput):
    """``detail``: what the engine, or the server behind it, says."""

    code = "unusable_image"
    public_message = (
        "The language model cannot read an image: it may be damaged, or of a kind that it does not "
        "know."
    )
    detail_is_public = False


class Unauthenticated(CallerError):
    status = 401
    code = "unauthenticated"
    public_message = "A valid credential is needed."


class Forbidden(CallerError):
    status = 403
    code = "forbidden"
    public_message = "This credential does not give access to that."


class MissingRight(Forbidden):
    """The caller lacks a ``right``."""

    def __init__(self, detail: str = "", *, right: str = "") -> None:
        super().__init__(detail)
        self.right = right


class ForeignHost(Forbidden):
    """The header ``Host`` names a host that this server is not."""


class NotFound(CallerError):
    status = 404
    code = "not_found"
    public_message = "There is no such thing here."


class MethodNotAllowed(CallerError):
    status = 405
    code = "method_not_allowed"
    public_message = "This address takes other methods; see the Allow header."


class RequestTimeout(CallerError):
    status = 408
    code = "request_timeout"
    public_message = "The request was not sent in time."


class Conflict(CallerError):
    status = 409
    code = "conflict"
    public_message = "This message id was used before with another body."


class TooLarge(CallerError):
    status = 413
    code = "too_large"
    public_message = "The message is too large."
    limit = "max_message_bytes"
    """Name of the limit in the metric of limits."""


class HeadTooLarge(TooLarge):
    status = 431
    public_message = "The request line or the headers are too large."
    limit = "head_size"


class FileTooLarge(TooLarge):
    public_message = "The file is too large."
    limit = "max_file_bytes"


class UnsupportedEncoding(CallerError):
    status = 415
    code = "unsupported_encoding"
    public_message = "Send the body without compression."


class TooMany(CallerError):
    status = 429
    code = "too_many"
    public_message = "Too many messages are waiting. Please wait for a reply first."
    default_retry_after = 1.0

    def __init__(
        self, detail: str = "", *, retry_after: float | None = None, reason: str = "inbox"
    ) -> None:
        """``reason``: the limit's name in the metric of refusals."""
        super().__init__(detail, retry_after=retry_after)
        self.reason = reason


class ConfigurationError(PalaverError):
    detail_may_quote = False
    code = "configuration"
    public_message = "The server is not configured correctly."


class ServerError(PalaverError):
    """Our own fault."""

    detail_may_quote = False


class Overloaded(ServerError):
    status = 503
    code = "overloaded"
    public_message = "The server is busy. Please try again in a moment."
    default_retry_after = 2.0


class FilesUnavailable(ServerError):
    status = 503
    code = "files_unavailable"
    public_message = "Files cannot be stored or read right now. Please try again in a moment."
    default_retry_after = 5.0


class KnowledgeUnavailable(ServerError):
    status = 503
    code = "knowledge_unavailable"
    public_message = "The documents cannot be searched right now. Please try again in a moment."
    default_retry_after = 5.0


class MaxAttemptsExceeded(ServerError):
    code = "max_attempts_exceeded"
    public_message = "This message could not be answered: each attempt broke down."


class LedgerError(ServerError):
    code = "ledger"


class LedgerUnavailable(LedgerError):
    status = 503
    code = "ledger_unavailable"
    public_message = "Messages cannot be stored right now. Please try again in a moment."
    default_retry_after = 2.0

    def __init__(self, detail: str = "", *, retry_after: float | None = 2.0) -> None:
        super().__init__(detail, retry_after=retry_after)


class LedgerInUse(LedgerUnavailable):
    code = "ledger_in_use"


class Fenced(LedgerError):
    code = "fenced"


class IndexConflict(LedgerError):
    code = "index_conflict"


class PluginError(PalaverError):
    code = "plugin"


def ends_process(error: BaseException) -> bool:
    """Return whether an error must end the task or the process: a cancellation of it, or Ctrl-C.

    Others that are no `Exception`, such as the `SystemExit` of a plugin's ``sys.exit()`` or the
    cancellation of something that the plugin waited for, end only what the plugin was doing.
    """
    if isinstance(error, asyncio.CancelledError):
        return _is_being_cancelled()
    return type(error) is KeyboardInterrupt


def _is_being_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs
        return False
    return task is not None and task.cancelling() > 0


@contextlib.contextmanager
def contained(part: str) -> Iterator[None]:
    """Raise `PluginError` for what a plugin raises to end the process; name its ``part``.

    An ordinary error is raised as it is, with a note.
    """
    try:
        yield
    except PalaverError:
        raise
    except Exception as error:
        error.add_note(f"raised by {part}")
        raise
    except BaseException as error:
        if ends_process(error):
            raise
        raise PluginError(f"{part} tried to end the process: {describe_raised(error)}") from error


def part_name(kind: str, part: object) -> str:
    """Return a part of the server by its class, which names the plugin's package."""
    return f"{kind} {type(part).__module__}.{type(part).__qualname__}"


def describe_raised(error: BaseException) -> str:
    """Return the kind and the text of an error that a plugin raised."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the text is the plugin's code too
        text = "its text cannot be made"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class PluginLoadError(PluginError):
    detail_may_quote = False
    code = "plugin_load"


class NameCollision(PluginError):
    detail_may_quote = False
    code = "name_collision"


class SkillError(PluginError):
    code = "skill"
    public_message = "The skill could not finish its answer."


class ToolFailed(SkillError):
    """``detail`` is what the tool says about it, for the model and the person."""

    code = "tool_failed"
    public_message = "The tool failed."
    detail_is_public = True


class OutcomeUnknown(SkillError):
    code = "outcome_unknown"


class UnusableAnswer(SkillError):
    code = "unusable_answer"
    detail_is_public = True


class Denied(SkillError):
    """A person did not approve the call of a tool. ``detail`` has what they wrote instead."""

    code = "denied"
    public_message = "It was not done, since it was not approved."
    detail_is_public = True


class LimitExceeded(SkillError):
    """A turn takes more than a limit allows, whose name in the metrics is ``limit``."""

    code = "limit_exceeded"
    public_message = "The answer became too large."
    detail_may_quote = False

    def __init__(self, detail: str = "", *, limit: str = "") -> None:
        super().__init__(detail)
        self.limit = limit


class EngineError(PalaverError):
    status = 502
    code = "engine"
    public_message = "The language model could not answer."


class EngineUnavailable(EngineError):
    detail_may_quote = False
    status = 503
    code = "engine_unavailable"
    public_message = "The language model is not available right now. Please try again in a moment."
    default_retry_after = 5.0


class EngineTimeout(EngineError):
    detail_may_quote = False
    status = 504
    code = "engine_timeout"
    public_message = "The language model took too long to answer."


class EngineDied(EngineError):
    detail_may_quote = False
    code = "engine_died"
    public_message = "The language model broke down at this message and cannot answer it."


class PromptTooLong(EngineError):
    status = 400
    code = "prompt_too_long"
    public_message = "The text is too long for the language model."
    limit: ClassVar[str] = "prompt"


class EngineRefused(EngineError):
    status = 400
    code = "engine_refused"
    public_message = "The language model refused the request."


class Unsupported(EngineError):
    detail_may_quote = False
    status = 501
    code = "unsupported"
    public_message = "The language model cannot do this."


def find_error_class(name: str) -> type[PalaverError] | None:
    """Return the class of this tree with that name, or None."""
    found = globals().get(name)
    is_class = isinstance(found, type) and issubclass(found, PalaverError)
    return found if is_class else None


def describe_error(error: BaseException) -> str:
    """Describe an error for the log.

    Returns the detail where it quotes nobody, else kinds and places of the error and its causes.
    """
    if isinstance(error, PalaverError) and error.log_detail:
        return error.log_detail
    return ", caused by ".join(map(_describe_place, error_chain(error)))


def error_chain(error: BaseException | None) -> list[BaseException]:
    """Return the error and its causes, the outermost first."""
    chain: list[BaseException] = []
    while error is not None and len(chain) < MAX_DESCRIBED_CAUSES:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain


def _describe_place(error: BaseException) -> str:
    frames = [
        f"{os.path.basename(frame.f_code.co_filename)}:{line} {frame.f_code.co_name}"
        for frame, line in walk_tb(error.__traceback__)
    ][-MAX_DESCRIBED_FRAMES:]
    return f"{type(error).__name__} ({' > '.join(frames) or 'not raised'})"
