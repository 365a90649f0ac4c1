"""Admission of data requests: exports and erasures, which read and write much."""

import contextlib
from collections.abc import Iterator

from palaver.admission.quotas import Quotas, quota_exceeded
from palaver.config.settings import AdmissionSettings
from palaver.errors import Overloaded
from palaver.metrics import Metrics

RETRY_AFTER = 2.0


class DataRequests:
    """Counts the exports and erasures of this process."""

    def __init__(self, settings: AdmissionSettings, quotas: Quotas, metrics: Metrics) -> None:
        self._max_running = settings.max_data_requests
        self._quotas = quotas
        self._metrics = metrics
        self._running = 0

    @contextlib.contextmanager
    def admitted(self, tenant: str, person: str) -> Iterator[None]:
        """Count a request while it runs. Raises `TooMany` or `Overloaded`."""
        if excess := self._quotas.excess(tenant, person, ("data_requests",)):
            self._metrics.refused(f"{excess.owner}_{excess.unit}")
            raise quota_exceeded(tenant, person, excess)
        if self._running >= self._max_running:
            self._metrics.refused("data_requests")
            detail = f"{self._running} exports and erasures run; try again in a moment"
            raise Overloaded(detail, retry_after=RETRY_AFTER)
        self._quotas.take("data_requests", tenant, person, 1)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
