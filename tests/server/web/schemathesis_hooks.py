"""Hooks of schemathesis: what the OpenAPI document cannot say about a request."""

import re
from typing import Any
from urllib.parse import unquote

import schemathesis

_NOT_IN_NAMES = re.compile(r"[{}:*/\x00-\x1f\x7f]")


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out requests that are invalid although each of their parts is valid."""
    return not (_is_misread(case) or _has_two_ids(case))


def _is_misread(case: Any) -> bool:
    """Return whether a valid name is sent as an invalid one: schemathesis takes the `%18` of a
    name `%18k` for an escape, and sends a control character."""
    names = [unquote(str(name)) for name in (case.path_parameters or {}).values()]
    is_valid = case.meta is None or case.meta.generation.mode.is_positive
    return is_valid and any(_NOT_IN_NAMES.search(name) for name in names)


def _has_two_ids(case: Any) -> bool:
    """Return whether the header and the body of a message have different ids."""
    key = case.headers.get("Idempotency-Key")
    body = case.body if isinstance(case.body, dict) else {}
    return key is not None and body.get("id") not in (None, key)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """End the event streams: without ``until`` they go on for ever."""
    if case.path.endswith("/events"):
        case.query = {"until": "finished", **(case.query or {})}
