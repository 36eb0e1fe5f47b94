"""A file that is written once, from start to end, and hashed on the way.

What is appended is collected to blocks of 1 MiB of the file; worker threads write and hash
them. The front of the file (header and tables that are known last) is left out at first.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from vircpt.errors import VircptError

BLOCK = 1 << 20
DIGEST = 32
_MOST_WAITING = 4
_ZEROES = bytes(BLOCK)

Piece = bytes | memoryview


class Lease:
    """A buffer lent for writing: `give_back` is called when the last who took it has dropped it."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._takers = 1

    def take(self) -> None:
        self._takers += 1

    def drop(self) -> None:
        """Called by one thread at a time: whoever waits for the write."""
        self._takers -= 1
        if not self._takers:
            self._give_back()


class HashedFile:
    """Appends to the file `handle` from offset `front` on. Errors of writing come late."""

    def __init__(self, handle: int, front: int, workers: ThreadPoolExecutor) -> None:
        self._handle = handle
        self._front = front
        self._workers = workers
        self._pieces: list[Piece] = []
        self._leases: list[Lease] = []
        self._start = front
        self._waiting: list[tuple[int, Future[bytes], list[Lease]]] = []
        self._digests = bytearray()
        self.position = front
        """The length of the file, with what is not written yet."""

    def append(self, data: Piece, lease: Lease | None = None) -> None:
        """Add `data`, which must not change until `lease` is dropped."""
        view = memoryview(data)
        while view:
            room = BLOCK - self.position % BLOCK
            piece = view[:room]
            self._pieces.append(piece)
            if lease is not None:
                lease.take()
                self._leases.append(lease)
            self.position += len(piece)
            if len(piece) == room:
                self._flush()
            view = view[room:]

    def align(self, size: int) -> None:
        """Fill up with zeroes to a multiple of `size`."""
        missing = -self.position % size
        while missing:
            step = min(missing, BLOCK)
            self.append(_ZEROES[:step])
            missing -= step

    def finish(self, front: bytes) -> bytes:
        """Write what is left and the front; the digests of all blocks in a row."""
        assert len(front) == self._front
        if self._pieces:
            self._flush()
        self.settle(0)
        _write(self._handle, [front], 0)
        for index in range(-(-len(front) // BLOCK)):  # their data stood below the front
            block = os.pread(self._handle, BLOCK, index * BLOCK)
            self._digests[index * DIGEST : (index + 1) * DIGEST] = hashlib.sha256(block).digest()
        return bytes(self._digests)

    def settle(self, most: int) -> None:
        """Wait until at most that many blocks are on their way; raises what writing raised."""
        while len(self._waiting) > most:
            index, future, leases = self._waiting.pop(0)
            try:
                digest = future.result()
            except OSError as error:
                raise VircptError("cannot write the image", why=str(error)) from error
            finally:
                for one in leases:
                    one.drop()
            self._digests[index * DIGEST : (index + 1) * DIGEST] = digest

    def settled(self) -> None:
        """Take in what is done, without waiting."""
        while self._waiting and self._waiting[0][1].done():
            self.settle(len(self._waiting) - 1)

    def _flush(self) -> None:
        index = self._start // BLOCK
        missing = index * DIGEST - len(self._digests)
        if missing > 0 and not self._waiting:
            self._digests += bytes(missing)  # blocks that lie in the front altogether
        future = self._workers.submit(_store, self._handle, self._pieces, self._start)
        self._waiting.append((index, future, self._leases))
        self._pieces, self._leases, self._start = [], [], self.position
        self.settle(_MOST_WAITING)


def _store(handle: int, pieces: list[Piece], offset: int) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    _write(handle, pieces, offset)
    return digest.digest()


def _write(handle: int, pieces: list[Piece], offset: int) -> None:
    left = [memoryview(piece) for piece in pieces]
    while left:
        done = os.pwritev(handle, left[:1024], offset)
        offset += done
        while left and done >= len(left[0]):
            done -= len(left.pop(0))
        if done:
            left[0] = left[0][done:]
