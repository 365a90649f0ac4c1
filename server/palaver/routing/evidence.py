"""Sources of evidence: plugins that the routing asks, and that may fail, be slow or hang.

A message is routed by the evidence that there is.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from palaver.errors import (
    CallerError,
    EngineRefused,
    PalaverError,
    contained,
    describe_error,
    describe_raised,
)

log = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
"""Time for which a source is not asked after it has failed."""
EVIDENCE_TIMEOUT = 15.0
"""Seconds that a message waits for one source."""
T = TypeVar("T")


class EvidenceSource:
    """One source of evidence, by its ``name`` in the log.

    After a failure it is not asked for a while, so that not every message waits for it. An error
    about one message (`CallerError`, `EngineRefused`) says nothing about the others.
    """

    def __init__(self, name: str, *, timeout: float, clock: Callable[[], float]) -> None:
        self._name = name
        self._timeout = timeout
        self._clock = clock
        self._retry_at = 0.0
        self._is_failing = False

    async def ask(self, find: Callable[[], Awaitable[T]]) -> T | None:
        """Return what ``find`` finds; None where that fails or takes too long."""
        if self._clock() < self._retry_at:
            return None
        try:
            async with asyncio.timeout(self._timeout):
                with contained(self._name):
                    found = await find()
        except (CallerError, EngineRefused) as error:
            self._report(describe_error(error))
        except TimeoutError:
            self._back_off(f"it takes longer than {self._timeout:g} s")
        except PalaverError as error:
            self._back_off(describe_error(error))
        except Exception as error:  # noqa: BLE001 - the barrier around a plugin
            self._back_off(describe_raised(error), error)
        else:
            if self._is_failing:
                self._is_failing = False
                log.info("routing with %s again", self._name)
            return found
        return None

    def _back_off(self, problem: str, error: Exception | None = None) -> None:
        self._retry_at = self._clock() + RETRY_SECONDS
        self._report(problem, error)

    def _report(self, problem: str, error: Exception | None = None) -> None:
        if not self._is_failing:
            self._is_failing = True
            log.warning("routing without %s: %s", self._name, problem, exc_info=error)
