"""Headers of safetensors files, read and checked without the tensors.

A file is the length of its header, the header as JSON, and the tensors without gaps. Only the
header and the length of the file are read, so a large model is checked as fast as a small one.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from palaver.models.model_files import broken_file

MAX_HEADER_BYTES = 20_000_000
"""The header of a tensor takes about a hundred bytes."""
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of an element of each data type."""

Size = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class Tensor(msgspec.Struct, frozen=True):
    """A tensor of a header. ``data_offsets``: where it begins and ends after the header."""

    dtype: str
    shape: Annotated[tuple[Size, ...], msgspec.Meta(max_length=16)]
    data_offsets: tuple[Size, Size]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Weights:
    """What a file of weights holds: the elements of each data type, and the shapes by name."""

    elements: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]


def read_weights(file: Path) -> Weights:
    """Read and check the header. Raises `ConfigurationError` that names the file."""
    tensors, start = _read_header(file)
    _check_length(file, start + max((it.data_offsets[1] for it in tensors.values()), default=0))
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        label = f"is not a safetensors file: its tensor {name[:100]!r}"
        begin, after = tensor.data_offsets
        if tensor.dtype not in BITS:
            raise broken_file(file, f"{label} has the unknown data type {tensor.dtype[:40]!r}")
        if begin != end:
            problem = "overlaps another one" if begin < end else "begins after a gap"
            raise broken_file(file, f"{label} {problem}")
        if 8 * (after - begin) != tensor.elements * BITS[tensor.dtype]:
            raise broken_file(file, f"{label} has another size than its shape")
        end = after
    elements = Counter[str]()
    for tensor in tensors.values():
        elements[tensor.dtype] += tensor.elements
    return Weights(elements, {name: it.shape for name, it in tensors.items()})


def _check_length(file: Path, end: int) -> None:
    size = file.stat().st_size
    if size < end:
        raise broken_file(file, f"is truncated: it has {size:_} of {end:_} bytes")
    if size > end:
        raise broken_file(file, f"is too long: {size:_} bytes instead of {end:_}")


def _read_header(file: Path) -> tuple[dict[str, Tensor], int]:
    """Return the tensors and the position of the first one in bytes."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise broken_file(file, "is not a safetensors file")
        text = stream.read(length)
    if len(text) < length:
        raise broken_file(file, f"is truncated: its header is longer than {8 + len(text):_} bytes")
    try:
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        fields.pop("__metadata__", None)
        decode = msgspec.json.Decoder(Tensor).decode
        return {name: decode(raw) for name, raw in fields.items()}, 8 + length
    except msgspec.ValidationError as error:
        raise broken_file(file, "is not a safetensors file: its header is malformed") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise broken_file(file, "is not a safetensors file: its header is not JSON") from error
