"""Redaction: secrets that must not stay in a recording, by their form and by the environment."""

import os
import re
from collections.abc import Mapping
from typing import Any

MIN_SECRET = 8
"""Characters of a variable's value that is worth hiding; a shorter one may be a common word."""
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
_PATTERNS = {
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*-----END [A-Z ]*PRIVATE KEY-----": "PRIVATE_KEY",
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}": "JWT",
    r"\b(?:sk|pk|rk)[-_][\w-]{16,}": "API_KEY",
    r"\b(?:gh[pousr]_|github_pat_|glpat-|hf_)\w{16,}": "ACCESS_TOKEN",
    r"\bxox[a-z]-[\w-]{10,}": "SLACK_TOKEN",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b": "AWS_KEY",
    r"\bBearer [\w.~+/=-]{8,}": "BEARER_TOKEN",
    r"(?<=://)[^\s/@:]{1,100}:[^\s/@]{1,100}(?=@)": "USER_AND_PASSWORD",
}


class Redaction:
    """Replaces secrets by their names in brackets, such as ``[API_KEY]``.

    Replaced are the values of variables of the environment whose names say that they are secret,
    keys and tokens of usual forms, and what the regular expressions of ``patterns`` match; its
    values are the names.
    """

    def __init__(
        self, patterns: Mapping[str, str] = {}, environment: Mapping[str, str] = os.environ
    ) -> None:
        secrets = {
            re.escape(value): name
            for name, value in environment.items()
            if _SECRET_NAME.search(name) and len(value) >= MIN_SECRET
        }
        longest_first = dict(sorted(secrets.items(), key=lambda item: -len(item[0])))
        self._rules = [
            (re.compile(pattern), f"[{name}]".replace("\\", r"\\"))
            for pattern, name in {**longest_first, **_PATTERNS, **patterns}.items()
        ]

    def __call__(self, value: Any) -> Any:  # Any: a JSON value
        """Return a JSON value without the secrets, those in keys of objects included."""
        if isinstance(value, str):
            for pattern, name in self._rules:
                value = pattern.sub(name, value)
            return value
        if isinstance(value, list):
            return [self(each) for each in value]
        if isinstance(value, dict):
            return {self(key): self(each) for key, each in value.items()}
        return value
