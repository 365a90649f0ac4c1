"""A hook that was forgotten to be decorated."""


def palaver_register_skills() -> None: ...
