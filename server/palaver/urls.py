"""URLs in the settings: says what is wrong with one, without quoting what may be a password."""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}")
_LABEL = re.compile(r"\w|\w[\w-]{0,62}\w")
"""Matches a part of a host's name; services of containers have names with an underscore."""
_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f]")
_HINT = "of a user or password, write / ? # @ : with %"


def check_url(url: str, schemes: Collection[str], expected: str, *, has_query: bool = False) -> str:
    """Return the URL when it has one of the schemes, and a host; a ``unix`` one, a path.

    Raises `ValueError` with what is wrong and ``expected``, a clause about the right form.
    """
    problem = _find_problem(url, schemes, has_query)
    if problem:
        raise ValueError(f"{problem}; {expected}")
    return url


def _find_problem(url: str, schemes: Collection[str], has_query: bool) -> str:
    if not url or _UNSAFE.search(url):
        return "it holds a space or a control character" if url else "it is empty"
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return "it does not begin with a scheme and '://'"
    scheme = scheme.lower()
    if scheme not in schemes:
        return f"its scheme is {scheme!r}, not {' or '.join(map(repr, schemes))}"
    if scheme == "unix":
        return "" if rest.startswith("/") and rest != "/" else "it lacks an absolute path"
    if not has_query and re.search(r"[?#]", rest):
        return f"it has a query or a fragment ({_HINT})"
    return _find_host_problem(url)


def _labels(host: str) -> list[str]:
    return host.removesuffix(".").split(".")


def _find_host_problem(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        wrong = "port" if "ort" in str(error) else "host"
        return f"its {wrong} is not valid ({_HINT})"
    if not parts.hostname:
        return f"it has no host ({_HINT})"
    if "[" not in parts.netloc and not all(map(_LABEL.fullmatch, _labels(parts.hostname))):
        return f"its host is not valid ({_HINT})"
    if port == 0:
        return "its port is 0"
    return f"it has an '@' after the host ({_HINT})" if "@" in parts.path else ""
