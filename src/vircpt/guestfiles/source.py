"""Where bytes come from: what a disk, a partition or an image file has in common."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from vircpt.errors import VircptError

Bytes = bytes | bytearray
READ_LIMIT = 8 << 20
"""No single request to a source is longer than this, in bytes."""


class Source(Protocol):
    """Bytes with random access; `blocks.nbd.Reader` is one."""

    @property
    def size(self) -> int:
        """In bytes."""

    def pread(self, length: int, offset: int) -> Bytes:
        """Exactly `length` bytes at `offset`; raises VircptError if that can't be."""


class Damaged(VircptError):
    """A structure in the guest's blocks that makes no sense: `what` names it, `why` tells."""


def read(source: Source, offset: int, length: int) -> bytes:
    """The bytes, in requests of at most READ_LIMIT; raises Damaged if they lie outside."""
    if offset < 0 or length < 0 or offset + length > source.size:
        raise Damaged(
            "a structure points beyond the end",
            why=f"{length} bytes at {offset} of {source.size}",
        )
    if length <= READ_LIMIT:
        return bytes(source.pread(length, offset)) if length else b""
    pieces = []
    for start in range(offset, offset + length, READ_LIMIT):
        pieces.append(bytes(source.pread(min(READ_LIMIT, offset + length - start), start)))
    return b"".join(pieces)


class Cached:
    """A source whose last used chunks are kept: for small reads near each other.

    At most `chunk` x `chunks` bytes are kept. `fetched` counts the bytes asked of the source.
    """

    def __init__(self, source: Source, chunk: int = 1 << 16, chunks: int = 512) -> None:
        self._source = source
        self._chunk = chunk
        self._limit = chunks
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self.size = source.size
        self.fetched = 0

    def pread(self, length: int, offset: int) -> bytes:
        """As Source; long reads go past the cache. Raises Damaged for what lies outside."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise Damaged(
                "a structure points beyond the end",
                why=f"{length} bytes at {offset} of {self.size}",
            )
        number, start = divmod(offset, self._chunk)
        if start + length <= self._chunk:
            return self._get(number)[start : start + length]
        if length > 4 * self._chunk:
            self.fetched += length
            return read(self._source, offset, length)
        last = (offset + length - 1) // self._chunk
        joined = b"".join(self._get(each) for each in range(number, last + 1))
        return joined[start : start + length]

    def _get(self, number: int) -> bytes:
        kept = self._kept
        found = kept.get(number)
        if found is not None:
            kept.move_to_end(number)
            return found
        start = number * self._chunk
        found = read(self._source, start, min(self._chunk, self.size - start))
        self.fetched += len(found)
        kept[number] = found
        if len(kept) > self._limit:
            kept.popitem(last=False)
        return found
