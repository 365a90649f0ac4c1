"""Who sends a request of OpenAI's API, and the ids of what is made for it."""

import hashlib

from palaver import InvalidInput, Principal, check_name


def person_of(principal: Principal, user: str | None) -> str:
    """Return the person of a request that names a ``user``."""
    if not user or (principal.person and "impersonate" not in principal.rights):
        return principal.resolve_person(None)
    try:
        check_name(user, "user")
    except InvalidInput:
        user = hash_words(user)  # OpenAI accepts any text as a user
    return principal.resolve_person(user)


def hash_words(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()[:32]
