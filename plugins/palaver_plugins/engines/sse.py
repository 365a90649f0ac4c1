"""Reads server-sent events from bytes as they arrive.

The format: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

MAX_EVENT_BYTES = 16 << 20
"""Bytes of an unfinished event after which the sender is not taken seriously any more."""


class SseParser:
    """Gives the ``data`` of each event as soon as the event is complete.

    Lines may end in LF, CR LF or CR, and chunks may end anywhere. Comments and other fields than
    ``data`` are skipped; an event that the end of the stream cuts off is never given.
    """

    def __init__(self) -> None:
        self._line = b""
        self._data: list[bytes] = []
        self._after_return = False
        self._waiting = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that ``chunk`` completes. Raises `ValueError` for an event that
        is too long."""
        if not chunk:
            return []
        if self._after_return and chunk.startswith(b"\n"):  # the rest of a CR LF
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r")
        *lines, self._line = (self._line + self._plain(chunk)).split(b"\n")
        events = [data for line in lines if (data := self._read(line)) is not None]
        if self._waiting + len(self._line) > MAX_EVENT_BYTES:
            raise ValueError(f"an event is longer than {MAX_EVENT_BYTES} bytes")
        return events

    @staticmethod
    def _plain(chunk: bytes) -> bytes:
        if b"\r" not in chunk:
            return chunk
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _read(self, line: bytes) -> bytes | None:
        if not line:
            data, self._data, self._waiting = self._data, [], 0
            return b"\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name.removeprefix(b"\xef\xbb\xbf") == b"data":
            self._data.append(value.removeprefix(b" "))
            self._waiting += len(value)
        return None
