"""Copying the disks of an export into new images of a repository, several at once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from vircpt.blocks import clusters
from vircpt.blocks.qcow2_writer import Qcow2Writer, zstd_clusters
from vircpt.blocks.stream import Stream
from vircpt.errors import VircptError
from vircpt.interrupts import uninterrupted
from vircpt.operations.reading import ExportedDisk

_AT_ONCE = 3
"""Disks; each has its connections and buffers."""
_WORKERS = 2
_LOOK = 0.1


@dataclass(frozen=True)
class DiskTask:
    """A disk to be copied to the new file `path`; `backing` is its backing file's name."""

    disk: ExportedDisk
    path: Path
    backing: str | None


@dataclass(frozen=True)
class WrittenImage:
    """An image that was written; all in bytes. `digests` of its blocks, in a row."""

    target: str
    size: int
    stored: int
    data: int
    zero: int
    read: int
    digests: bytes


@dataclass(frozen=True)
class DiskProgress:
    """How far a disk is: bytes read of those to be read, which may not be known yet."""

    target: str
    done: int
    total: int | None


Watch = Callable[[Sequence[DiskProgress]], None]


class _Stopped(Exception):
    """The copying of the other disks failed, or we were interrupted."""


class Throttle:
    """At most `rate` bytes a second, over all disks; None for no limit."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, size: int, stop: threading.Event) -> None:
        """Wait until these bytes may be read."""
        if self._rate is None:
            return
        with self._lock:
            start = max(time.monotonic(), self._free_at)
            self._free_at = start + size / self._rate
        stop.wait(max(0.0, start - time.monotonic()))


class _Copy:
    """The copying of one disk, in a thread."""

    def __init__(
        self, task: DiskTask, pool: ThreadPoolExecutor, throttle: Throttle, zstd: bool
    ) -> None:
        self.task, self._pool, self._throttle, self._zstd = task, pool, throttle, zstd
        self.total: int | None = None
        self.done = 0

    def progress(self) -> DiskProgress:
        return DiskProgress(self.task.disk.target, self.done, self.total)

    def run(self, stop: threading.Event) -> WrittenImage:
        def check() -> None:
            if stop.is_set():
                raise _Stopped

        disk = self.task.disk
        with disk.reader() as reader:
            size = reader.size
            runs = clusters.runs(reader.columns())
        self.total = runs.bytes_of(zero=False)
        handle = _create(self.task.path)
        try:
            writer = Qcow2Writer(
                handle,
                size,
                self._pool,
                backing=self.task.backing,
                compress=zstd_clusters() if self._zstd else None,
            )
            with Stream(disk.uri, check, writer.settle) as stream:
                self._copy(runs, writer, stream, stop)
            digests = writer.finish()
            os.fsync(handle)
        finally:
            os.close(handle)
        return WrittenImage(
            disk.target, size, writer.length, writer.data_bytes, writer.zero_bytes,
            self.done, digests,
        )  # fmt: skip

    def _copy(
        self, runs: clusters.ClusterRuns, writer: Qcow2Writer, stream: Stream, stop: threading.Event
    ) -> None:
        """Data comes from the stream in the order in which it is asked for; zeroes go between."""
        zeroes = iter([(offset, length) for offset, length, zero in runs if zero])
        gap = next(zeroes, None)
        for chunk in stream.read((offset, length) for offset, length, zero in runs if not zero):
            while gap is not None and gap[0] < chunk.offset:
                writer.zero(*gap)
                gap = next(zeroes, None)
            self._throttle.wait(len(chunk.view), stop)
            self.done += len(chunk.view)
            writer.data(chunk.offset, chunk.view, chunk.lease)
        while gap is not None:
            writer.zero(*gap)
            gap = next(zeroes, None)


def copy(
    tasks: Sequence[DiskTask], *, zstd: bool, rate: int | None, watch: Watch | None
) -> list[WrittenImage]:
    """Write all images, and sync them. `watch` is told how far they are, ten times a second.

    If one fails the others are ended; what was written stays for the caller to remove.
    """
    stop = threading.Event()
    throttle = Throttle(rate)
    pool = ThreadPoolExecutor(_WORKERS, "vircpt-hash")
    disks = ThreadPoolExecutor(_AT_ONCE, "vircpt-disk")
    copies = [_Copy(task, pool, throttle, zstd) for task in tasks]
    futures: list[Future[WrittenImage]] = []
    try:
        futures += [disks.submit(one.run, stop) for one in copies]
        _wait(futures, copies, watch)
    finally:
        stop.set()
        with uninterrupted():
            wait(futures)
            disks.shutdown()
            pool.shutdown()
    return [one.result() for one in futures]


def _wait(
    futures: Sequence[Future[WrittenImage]], copies: Sequence[_Copy], watch: Watch | None
) -> None:
    left = set(futures)
    while left:
        done, left = wait(left, _LOOK)
        if watch:
            watch([one.progress() for one in copies])
        for one in done:
            error = one.exception()
            if error is not None:
                raise error


def _create(path: Path) -> int:
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise VircptError(f"cannot make {path}", why=error.strerror) from error
