"""The safetensors file format, as far as its header: which tensors, their types, shapes and places. No torch.

Format: 8 bytes little-endian length, that many bytes of JSON, then the tensors' bytes.
"""

import dataclasses
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HEADER_LIMIT = 100 * 1024 * 1024  # the format's own


class Malformed(ValueError):
    """The file is not what its name says, or it was cut short."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    dtype: str  # BF16, F16, F32, U8 …
    shape: tuple[int, ...]
    start: int  # in the file, bytes
    end: int


def read_header(path: Path) -> dict[str, Tensor]:
    """Tensors by name. Raises Malformed when the header is damaged or the file shorter or longer than it says."""
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8 or (length := struct.unpack("<Q", prefix)[0]) > HEADER_LIMIT:
            raise Malformed(f"{path.name} is not a safetensors file")
        text = file.read(length)
    try:
        entries = json.loads(text)
        tensors = {name: _tensor(entry, 8 + length) for name, entry in entries.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Malformed(f"{path.name} has a damaged header: {error}") from error
    expected = max((tensor.end for tensor in tensors.values()), default=8 + length)
    if (size := path.stat().st_size) != expected:
        raise Malformed(
            f"{path.name} has {size} bytes and its header says {expected}: the file is incomplete or damaged"
        )
    return tensors


def contents(path: Path, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor, bytes]]:
    """The tensors' bytes, one tensor in memory at a time, in file order."""
    with path.open("rb") as file:
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
            file.seek(tensor.start)
            yield name, tensor, file.read(tensor.end - tensor.start)


def rename(source: Path, target: Path, renamed: Callable[[str], str]) -> None:
    """Write a copy whose tensors have other names, the bytes behind the header as they are."""
    with source.open("rb") as file, target.open("wb") as copy:
        entries = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        text = json.dumps({renamed(name): entry for name, entry in entries.items()}).encode()
        text += b" " * (-len(text) % 8)  # the format keeps the tensors aligned
        copy.write(struct.pack("<Q", len(text)) + text)
        shutil.copyfileobj(file, copy, 1 << 20)


# Where in a little-endian number the sign and the top of the exponent are, its width, and what that byte is in numbers
# that are infinite, not a number, or (BF16, F32) beyond 1.7e38, which no trained weight is.
_TOP_BYTE = {
    "BF16": (1, 2, bytes((0x7F, 0xFF))),
    "F16": (1, 2, bytes((*range(0x7C, 0x80), *range(0xFC, 0x100)))),
    "F32": (3, 4, bytes((0x7F, 0xFF))),
}


def is_finite(dtype: str, data: bytes) -> bool:
    """Whether every number is finite; True for types that cannot be otherwise."""
    if dtype not in _TOP_BYTE:
        return True
    offset, width, forbidden = _TOP_BYTE[dtype]
    top = data[offset::width]
    return len(top.translate(None, delete=forbidden)) == len(top)


def _tensor(entry: dict[str, Any], base: int) -> Tensor:
    start, end = map(int, entry["data_offsets"])
    return Tensor(str(entry["dtype"]), tuple(map(int, entry["shape"])), base + start, base + end)
