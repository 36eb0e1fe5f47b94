"""Reads pieces of NBD exports for a file, several requests under way at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from vircpt.blocks.nbd import BUFFER, Reader

_UNDER_WAY = 8

Write = Callable[[memoryview, int], object]
"""Takes data, and the offset in the file that it belongs at."""


class Piece(NamedTuple):
    """`length` bytes at `place` of the disk that belong at `offset` of the file."""

    offset: int
    length: int
    place: int


class _Request(NamedTuple):
    cookie: int
    offset: int
    data: memoryview


def read(reader: Reader, pieces: Iterable[Piece], write: Write) -> None:
    """Read all pieces, and hand on what was read, in order.

    Raises HostUnreachable, VircptError if it can't be read; what `write` raises.
    """
    under_way: deque[_Request] = deque()
    free = reader.buffers(_UNDER_WAY)
    try:
        for number, (offset, length, place) in enumerate(_steps(pieces)):
            if len(under_way) == _UNDER_WAY:
                _finish(reader, under_way.popleft(), write)
            data = memoryview(free[number % _UNDER_WAY])[:length]
            under_way.append(_Request(reader.start(data, place), offset, data))
        while under_way:
            _finish(reader, under_way.popleft(), write)
    except BaseException:
        reader.abandon()  # before the buffers go that libnbd may still write to
        raise


def _finish(reader: Reader, request: _Request, write: Write) -> None:
    reader.finish(request.cookie)
    write(request.data, request.offset)


def _steps(pieces: Iterable[Piece]) -> Iterator[Piece]:
    for offset, length, place in pieces:
        for start in range(0, length, BUFFER):
            yield Piece(offset + start, min(BUFFER, length - start), place + start)


def to_file(fd: int) -> Write:
    """Writes at the offset of a file."""

    def write(data: memoryview, offset: int) -> None:
        while data:
            done = os.pwrite(fd, data, offset)
            data, offset = data[done:], offset + done

    return write
