"""GGUF: a model in one file, or in several shards. Its header is read without loading the model.

The file comes from strangers: each length is checked against what is left of the file, and large
arrays are skipped unless a caller wants them.
"""

import io
import math
import re
import struct
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from palaver.errors import ConfigurationError
from palaver.models.model_files import broken_file

SUFFIX = ".gguf"
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
VERSIONS = (2, 3)
MAX_SHARDS = 1_000
MAX_KEYS = 100_000
MAX_TENSORS = 1_000_000
MAX_ELEMENTS = 5_000_000
"""Elements of all arrays of a header together: a vocabulary has about a million."""
MAX_TEXT_BYTES = 16 << 20
MAX_DIMENSIONS = 4
MAX_KEPT_ELEMENTS = 1_024
"""Length of an array that is kept without being wanted: it may have one number for each layer."""

NUMBERS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
UINT32, UINT64 = NUMBERS[4], NUMBERS[10]
TEXT, ARRAY = 8, 9

TENSOR_TYPES = {
    **{0: ("F32", 1, 4), 1: ("F16", 1, 2), 28: ("F64", 1, 8), 30: ("BF16", 1, 2)},
    **{24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8)},
    **{2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24)},
    **{8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110)},
    **{12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210)},
    **{15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74)},
    **{18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18)},
    **{21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136)},
    **{29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66)},
    **{39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18)},
}
"""Name, numbers in a block and bytes of a block, by the number of the type."""
ENCODERS = re.compile(r".*bert.*|.*-embed(ding)?|t5encoder")
"""Architectures that compute embeddings and generate no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gguf:
    """Header of a model. ``files``: its shards. ``metadata``: keys and values of the first one,
    without large arrays that nobody wanted. ``data_type``: of most parameters."""

    files: tuple[Path, ...]
    metadata: Mapping[str, Any]  # Any: numbers, texts, lists of them
    parameters: int
    size: int
    data_type: str

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    @property
    def chat_template(self) -> str:
        """Return the source of the chat template, "" when there is none."""
        return self.text("tokenizer.chat_template")

    @property
    def context(self) -> int:
        """Return the tokens that the model was trained for, 0 when the header does not tell."""
        value = self.of_architecture("context_length")
        return value if isinstance(value, int) else 0

    def of_architecture(self, key: str) -> Any:  # Any: as in ``metadata``
        return self.metadata.get(f"{self.architecture}.{key}")

    def text(self, key: str) -> str:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""


def find_gguf(path: Path) -> Path | None:
    """Return the file of the GGUF model at ``path``, the first of its shards; None when ``path``
    holds no GGUF model.

    ``path``: the file, or a directory that has such a file and no ``config.json``. Raises
    `ConfigurationError` when the directory has several models.
    """
    if not path.is_dir():
        return shard_paths(path)[0] if path.suffix == SUFFIX or _has_magic(path) else None
    if (path / "config.json").exists():
        return None
    found = sorted({shard_paths(file)[0] for file in path.glob(f"*{SUFFIX}")})
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ConfigurationError(f"{str(path)!r} has several models; add one of the files: {names}")
    return found[0] if found else None


def _has_magic(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def shard_paths(file: Path) -> list[Path]:
    """Return the paths of all shards of a model, of which ``file`` is one."""
    return [file.with_name(name) for name in shard_names(file.name)]


def shard_names(name: str) -> list[str]:
    """Return the names of all shards of a model, of which ``name`` is one."""
    match = SHARD.fullmatch(name)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]) <= MAX_SHARDS:
        return [name]
    count = int(match["count"])
    return [f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def read_gguf(file: Path, wanted: Collection[str] = ()) -> Gguf:
    """Read the header of the model whose first shard is ``file``. ``wanted``: keys of large arrays
    that are kept.

    Raises `ConfigurationError` that names the file when it is damaged or holds no language model.
    """
    files = shard_paths(file)
    for it in files:
        if not it.is_file():
            raise broken_file(it, "is missing" + f" of {len(files)} shards" * (len(files) > 1))
    headers = [_read_header(it, wanted) for it in files]
    types = sum((header.types for header in headers), Counter[str]())
    gguf = Gguf(
        files=tuple(files),
        metadata=headers[0].metadata,
        parameters=types.total(),
        size=sum(it.stat().st_size for it in files),
        data_type=types.most_common(1)[0][0] if types else "",
    )
    _check_shards(gguf)
    _check_purpose(gguf)
    return gguf


def _check_shards(gguf: Gguf) -> None:
    count = gguf.metadata.get("split.count") or 1
    if count != len(gguf.files):
        raise broken_file(
            gguf.files[0],
            f"is one of {count} shards: their names must end with -00001-of-{count:05}.gguf",
        )


def _check_purpose(gguf: Gguf) -> None:
    """Refuse what generates no text."""
    file, architecture = gguf.files[0], gguf.architecture
    kind = gguf.text("general.type")
    if kind == "adapter":
        raise broken_file(file, "is an adapter (LoRA), not a model: add the model itself")
    if architecture == "clip" or kind == "mmproj":
        raise broken_file(file, "reads images for another model (mmproj): add that model itself")
    if kind not in ("", "model"):
        raise broken_file(file, f"is no model, but of type {kind!r}")
    if not architecture:
        raise broken_file(file, "names no architecture")
    if gguf.parameters == 0:
        raise broken_file(file, "has no weights: it is a vocabulary alone")
    pools = (
        gguf.of_architecture("pooling_type") or gguf.of_architecture("attention.causal") is False
    )
    if ENCODERS.fullmatch(architecture) or pools:
        raise broken_file(file, f"generates no text: it is an embedding model ({architecture})")
    if "tokenizer.ggml.model" not in gguf.metadata:
        raise broken_file(file, "has no vocabulary")


@dataclass(frozen=True, slots=True)
class _Header:
    metadata: dict[str, Any]  # Any: numbers, texts, lists of them
    types: Counter[str]  # parameters, by their type


def _read_header(file: Path, wanted: Collection[str]) -> _Header:
    try:
        with file.open("rb") as stream:
            return _HeaderReader(stream, file.stat().st_size, wanted).read()
    except _BrokenFileError as error:
        raise broken_file(file, str(error)) from None
    except OSError as error:
        raise broken_file(file, f"cannot be read: {error.strerror}") from error


class _BrokenFileError(Exception):
    """The file is damaged; the message says how."""


class _HeaderReader:
    """Reader of the header of one file."""

    def __init__(self, stream: io.BufferedReader, size: int, wanted: Collection[str]) -> None:
        self._stream = stream
        self._size = size
        self._left = size
        self._elements = 0
        self._wanted = wanted

    def read(self) -> _Header:
        self._check_format()
        tensors = self._count(MAX_TENSORS, "tensors")
        keys = self._count(MAX_KEYS, "keys")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._text()
            value = self._value(self._number(UINT32), keep=key in self._wanted)
            if value is not None:
                metadata[key] = value
        return _Header(metadata, self._read_tensors(tensors, metadata))

    def _check_format(self) -> None:
        magic = self._stream.read(4)
        self._left -= len(magic)
        if not magic:
            raise _BrokenFileError("is empty")
        if magic in (b"tjgg", b"fmgg", b"lmgg"):
            raise _BrokenFileError("has the format before GGUF (of 2023), which nothing reads now")
        if magic == b"vers":
            raise _BrokenFileError("is a pointer of Git LFS, not the file itself: run git lfs pull")
        if magic != b"GGUF":
            raise _BrokenFileError("is not a GGUF file")
        version = self._number(UINT32)
        if not version & 0xFFFF:
            raise _BrokenFileError("is for big-endian machines")
        if version not in VERSIONS:
            raise _BrokenFileError(f"has version {version} of GGUF; this server reads 2 and 3")

    def _read_tensors(self, count: int, metadata: Mapping[str, Any]) -> Counter[str]:
        """Read the list of tensors, and check that the file holds all of them."""
        types = Counter[str]()
        end = 0
        for _ in range(count):
            name, shape = self._text(), self._shape()
            kind, offset = self._number(UINT32), self._number(UINT64)
            if kind not in TENSOR_TYPES:
                raise _BrokenFileError(f"has a tensor of the unknown type {kind}: {name[:100]!r}")
            label, block, block_bytes = TENSOR_TYPES[kind]
            elements = math.prod(shape)
            if elements == 0 or shape[0] % block:
                raise _BrokenFileError(
                    f"has a tensor of the impossible shape {shape}: {name[:100]!r}"
                )
            types[label] += elements
            end = max(end, offset + elements // block * block_bytes)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            raise _BrokenFileError(f"has an impossible alignment: {alignment!r}")
        start = -(-(self._size - self._left) // alignment) * alignment
        if count and start + end > self._size:
            raise _BrokenFileError(f"is truncated: it has {self._size:_} of {start + end:_} bytes")
        return types

    def _shape(self) -> list[int]:
        dimensions = self._number(UINT32)
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise _BrokenFileError(f"has a tensor of {dimensions} dimensions")
        return [self._number(UINT64) for _ in range(dimensions)]

    def _value(self, kind: int, *, keep: bool) -> Any:  # Any: a number, a text, or a list
        """Read a value; None for a large array that is not kept."""
        if kind == ARRAY:
            return self._array(keep=keep)
        if kind == TEXT:
            return self._text()
        return self._number(self._number_type(kind))

    def _array(self, *, keep: bool) -> list[Any] | None:
        kind, count = self._number(UINT32), self._number(UINT64)
        self._elements += count
        if self._elements > MAX_ELEMENTS:
            raise _BrokenFileError(f"has more than {MAX_ELEMENTS:_} elements in its header")
        if not keep and count > MAX_KEPT_ELEMENTS:
            self._skip_array(kind, count)
            return None
        if kind == TEXT:
            return [self._text() for _ in range(count)]
        number = self._number_type(kind)
        return [value for (value,) in number.iter_unpack(self._take(count * number.size))]

    def _skip_array(self, kind: int, count: int) -> None:
        if kind != TEXT:
            self._skip(count * self._number_type(kind).size)
            return
        for _ in range(count):
            self._skip(self._number(UINT64))

    def _number_type(self, kind: int) -> struct.Struct:
        if kind not in NUMBERS:  # arrays in arrays, too: no engine reads them
            raise _BrokenFileError(f"has a value of the unknown type {kind}")
        return NUMBERS[kind]

    def _count(self, maximum: int, what: str) -> int:
        count: int = self._number(UINT64)
        if count > maximum:
            raise _BrokenFileError(f"has {count:_} {what}: more than {maximum:_} is no model")
        return count

    def _number(self, number: struct.Struct) -> Any:  # Any: an integer, a float or a boolean
        (value,) = number.unpack(self._take(number.size))
        return value

    def _text(self) -> str:
        length = self._number(UINT64)
        if length > MAX_TEXT_BYTES:
            raise _BrokenFileError(f"has a text of {length:_} bytes in its header")
        return self._take(length).decode("utf-8", "replace")

    def _take(self, length: int) -> bytes:
        self._claim(length)
        data = self._stream.read(length)
        if len(data) < length:
            self._end()
        return data

    def _skip(self, length: int) -> None:
        self._claim(length)
        self._stream.seek(length, io.SEEK_CUR)

    def _claim(self, length: int) -> None:
        if length > self._left:
            self._end()
        self._left -= length

    def _end(self) -> NoReturn:
        raise _BrokenFileError(f"is truncated: its header is longer than {self._size:_} bytes")
