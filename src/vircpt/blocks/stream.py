"""Reading many ranges of an export as fast as it goes: several requests on several connections.

Buffers are lent and used again: libnbd 1.14's Python binding keeps the memory of every
`Buffer.from_buffer` for ever, and fresh memory costs as much time as reading into it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from vircpt.blocks import nbd
from vircpt.blocks.hashed_file import Lease
from vircpt.errors import HostUnreachable

LARGEST = 512 << 10
"""Bytes in a request. Larger ones are slower: they fall out of the processor's cache."""
_SMALLEST = 64 << 10
CONNECTIONS = 2
_IN_FLIGHT = 8
"""Requests on each connection."""
_BUFFERS = 32
"""Of the largest size; they hold what is read, hashed and written at a time."""
_SILENCE = 60.0


class Chunk(NamedTuple):
    """Bytes of the disk from `offset` on; `lease` is to be dropped when they are done with."""

    offset: int
    view: memoryview
    lease: Lease


class _Buffer(NamedTuple):
    memory: bytearray
    foreign: Any
    """libnbd's handle on the same memory."""


class _Request(NamedTuple):
    reader: nbd.Reader
    number: int
    offset: int
    buffer: _Buffer


class Stream:
    """Reads ranges of the export at `uri`; a context manager that closes its connections.

    `stop` is asked again and again and may raise. `need_buffer` is called when all buffers
    are lent: it has to see to it that one comes back.
    """

    def __init__(self, uri: str, stop: Callable[[], None], need_buffer: Callable[[], None]) -> None:
        self._stop, self._need_buffer = stop, need_buffer
        self._module = nbd.binding()
        self._free: dict[int, list[_Buffer]] = {}
        self._lent = 0
        self._readers: list[nbd.Reader] = []
        try:
            for _ in range(CONNECTIONS):
                self._readers.append(nbd.Reader(uri))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        for one in self._readers:
            one.__exit__()

    def read(self, ranges: Iterable[tuple[int, int]]) -> Iterator[Chunk]:
        """The ranges (offset, length) in their order, cut into pieces."""
        pieces = _cut(ranges)
        flying: deque[_Request] = deque()
        turn = 0
        more = True
        while more or flying:
            while more and len(flying) < _IN_FLIGHT * len(self._readers):
                piece = next(pieces, None)
                if piece is None:
                    more = False
                    break
                reader = self._readers[turn % len(self._readers)]
                turn += 1
                buffer = self._take(piece[1], may_wait=not flying)
                number = reader.start_read(buffer.foreign, piece[0])
                flying.append(_Request(reader, number, piece[0], buffer))
            if flying:
                yield self._finish(flying.popleft())

    def _finish(self, request: _Request) -> Chunk:
        deadline = time.monotonic() + _SILENCE
        while not request.reader.is_read(request.number):
            self._stop()
            if nbd.wait(self._readers):
                deadline = time.monotonic() + _SILENCE
            elif time.monotonic() > deadline:
                raise HostUnreachable(
                    "the export does not answer",
                    why=f"{request.reader.uri} has been silent for {_SILENCE:g} s",
                    hint="is the domain's storage stuck? See virsh domstate --reason",
                )
        self._stop()
        buffer = request.buffer
        return Chunk(
            request.offset, memoryview(buffer.memory), Lease(lambda: self._give_back(buffer))
        )

    def _take(self, size: int, *, may_wait: bool) -> _Buffer:
        while self._lent >= _BUFFERS * LARGEST:
            before = self._lent
            self._need_buffer()
            if self._lent == before and not may_wait:
                break  # what is in flight will bring it back
        self._lent += size
        free = self._free.setdefault(size, [])
        if free:
            return free.pop()
        memory = bytearray(size)
        return _Buffer(memory, self._module.Buffer.from_buffer(memory))

    def _give_back(self, buffer: _Buffer) -> None:
        self._lent -= len(buffer.memory)
        self._free.setdefault(len(buffer.memory), []).append(buffer)


def _cut(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Into requests of few sizes: 512, 256, 128, 64 KiB; only the end of a disk may be odd."""
    for start, length in ranges:
        offset, end = start, start + length
        while offset < end:
            size = LARGEST
            while size > end - offset and size > _SMALLEST:
                size //= 2
            size = min(size, end - offset)
            yield offset, size
            offset += size
