"""Incremental parser of server-sent events.

The format: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

MAX_EVENT_BYTES = 16 << 20
"""Limit of an unfinished event: a sender that exceeds it is broken."""


class SseParser:
    """Incremental parser that returns the ``data`` of each event when the event is complete.

    Lines end in LF, CR LF or CR, and chunks end anywhere. Comments and fields other than ``data``
    are skipped, and so is an event that the end of the stream cuts off.
    """

    def __init__(self) -> None:
        self._line = b""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_return = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that ``chunk`` completes. Raises `ValueError` for an event
        longer than `MAX_EVENT_BYTES`."""
        if not chunk:
            return []
        if self._after_return and chunk.startswith(b"\n"):  # the second half of a CR LF
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r")
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._line = (self._line + chunk).split(b"\n")
        events = [data for line in lines if (data := self._parse_line(line)) is not None]
        if self._data_bytes + len(self._line) > MAX_EVENT_BYTES:
            raise ValueError(f"an event is longer than {MAX_EVENT_BYTES} bytes")
        return events

    def _parse_line(self, line: bytes) -> bytes | None:
        if not line:
            data, self._data, self._data_bytes = self._data, [], 0
            return b"\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name.removeprefix(b"\xef\xbb\xbf") == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_bytes += len(value)
        return None
