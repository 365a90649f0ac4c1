"""A module that fails with an error that has no text."""


class Unprintable(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("no text")


raise Unprintable
