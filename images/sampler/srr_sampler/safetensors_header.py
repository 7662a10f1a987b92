"""The header of a safetensors file, from its first bytes.

Purpose: count parameters and notice a damaged or cut file without reading weights.
Must not: know about stores or models. (The safetensors package reads whole files or local ones only.)
Format: 8 bytes little-endian length N, N bytes of JSON {tensor: {dtype, shape, data_offsets}}, then the tensors' bytes
without gaps (https://huggingface.co/docs/safetensors, "Format").
"""

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, BinaryIO

_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""


class HeaderError(ValueError):
    """Not a whole safetensors file; the text says what was found."""


@dataclass(frozen=True)
class Header:
    """What the header says."""

    parameters: dict[str, int]
    """Numbers in all tensors by their format, e.g. {"BF16": 134515008}."""
    sha256: str
    """SHA-256 of the header's JSON, 64 hex digits."""


def read_header(stream: BinaryIO, size: int) -> Header:
    """Read the header of a file of `size` bytes. Raises HeaderError; what reading raises passes through."""
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
        raise HeaderError(f"{size} bytes that do not begin as a safetensors file")
    raw = stream.read(length)
    try:
        tensors = json.loads(raw)
        tensors.pop("__metadata__", None)
        ends = [_end(tensor) for tensor in tensors.values()]
        parameters: Counter[str] = Counter()
        for tensor in tensors.values():
            parameters[str(tensor["dtype"])] += math.prod(tensor["shape"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise HeaderError("its header is not that of a safetensors file") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise HeaderError(f"it has {size} bytes, its header asks for {expected}")
    return Header(parameters=dict(parameters), sha256=hashlib.sha256(raw).hexdigest())


def _end(tensor: dict[str, Any]) -> int:
    begin, end = tensor["data_offsets"]
    if not 0 <= begin <= end or any(extent < 0 for extent in tensor["shape"]):
        raise ValueError
    return int(end)
