"""Writing a qcow2 image from start to end, its data in the order of the disk.

Own code, as QEMU's writers need a process each, a copy of all data, and hash nothing; this
one is faster than they are with all checksums in (docs/performance.md). The file is

    header | refcount table | L1 table | data, L2 table after each 512 MiB | refcount blocks

and never written a second time: it has no header until it is whole.
"""

from __future__ import annotations

import sys
from array import array
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from vircpt.blocks import qcow2
from vircpt.blocks.hashed_file import HashedFile, Lease
from vircpt.blocks.qcow2 import CLUSTER

Compress = Callable[[memoryview], list[bytes | None]]
"""Per cluster: compressed, None for zeroes, or the cluster as it is if that is no longer."""

_L2_ENTRIES = CLUSTER // 8
_L2_COVERS = _L2_ENTRIES * CLUSTER
_REF_ENTRIES = CLUSTER // 2
_COPIED = 1 << 63
_COMPRESSED = 1 << 62
_ZERO_FLAG = 1
_SECTOR = 512
_SECTORS_SHIFT = 62 - (qcow2.CLUSTER_BITS - 8)
_MOST_COMPRESSING = 8
_ZERO_CLUSTER = bytes(CLUSTER)


class Qcow2Writer:
    """An image of `size` bytes in the empty file `handle`.

    With a `backing` file zeroes are stored as such, else they are simply not there. With
    `compress` that function compresses in worker threads. Offsets must ascend.
    """

    def __init__(
        self,
        handle: int,
        size: int,
        workers: ThreadPoolExecutor,
        *,
        backing: str | None = None,
        compress: Compress | None = None,
    ) -> None:
        self._size, self._backing = size, backing
        self._compress, self._workers = compress, workers
        self._l1 = array("Q", bytes(8 * -(-size // _L2_COVERS)))
        # room for twice the clusters: what does not compress begins at a new one
        blocks = 2 * -(-size // CLUSTER) // _REF_ENTRIES + 4
        self._l1_clusters = max(1, -(-8 * len(self._l1) // CLUSTER))
        self._table_clusters = -(-8 * blocks // CLUSTER)
        self._table = array("Q", bytes(self._table_clusters * CLUSTER))
        self._l2: dict[int, array[int]] = {}
        self._counts = array("H")
        self._counted_blocks = 0
        self._compressing: deque[tuple[int, Future[list[bytes | None]], Lease]] = deque()
        front = 1 + self._table_clusters + self._l1_clusters
        self._file = HashedFile(handle, front * CLUSTER, workers)
        self._count(0, front * CLUSTER)
        self.data_bytes = 0
        """Bytes of the disk that were stored as data."""
        self.zero_bytes = 0
        """Bytes of the disk that were stored as zeroes."""

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return self._file.position

    def zero(self, offset: int, length: int) -> None:
        """These bytes, whole clusters but for the end of the disk, read as zeroes."""
        if self._backing is None:
            return
        if length > _L2_COVERS:  # its tables must not pile up behind data that is on its way
            self._take_compressed(0)
        self.zero_bytes += length
        cluster, end = offset // CLUSTER, -(-(offset + length) // CLUSTER)
        while cluster < end:
            index, first = divmod(cluster, _L2_ENTRIES)
            count = min(end - cluster, _L2_ENTRIES - first)
            self._l2_table(index)[first : first + count] = array("Q", [_ZERO_FLAG]) * count
            cluster += count
            if not self._compressing:
                self._flush_below(index)

    def data(self, offset: int, view: memoryview, lease: Lease) -> None:
        """These bytes, whole clusters but for the end of the disk; `lease` is dropped when
        the buffer is not needed any more."""
        if self._compress is not None:
            future = self._workers.submit(self._compress, view)
            self._compressing.append((offset, future, lease))
            self._take_compressed(_MOST_COMPRESSING)
        else:
            self._plain(offset, view, lease)
            lease.drop()
        self._file.settled()

    def settle(self) -> None:
        """Wait for something: a buffer is needed."""
        if self._compressing:
            self._take_compressed(len(self._compressing) - 1)
        self._file.settle(0)

    def finish(self) -> bytes:
        """Complete the file; the digests of its blocks in a row. It is not synced yet."""
        self._take_compressed(0)
        self._flush_below(len(self._l1))
        self._file.align(CLUSTER)
        self._finish_counts()
        front = qcow2.build(
            self._size,
            table_offset=CLUSTER,
            table_clusters=self._table_clusters,
            l1_offset=CLUSTER * (1 + self._table_clusters),
            l1_entries=len(self._l1),
            backing=self._backing,
            zstd=self._compress is not None,
        )
        front += _big_endian(self._table)
        front += _big_endian(self._l1).ljust(self._l1_clusters * CLUSTER, b"\0")
        return self._file.finish(front)

    # Data

    def _plain(self, offset: int, view: memoryview, lease: Lease) -> None:
        """Runs of clusters that are not zero; most buffers are one."""
        start, position = 0, 0
        at = _is_zero(view)
        while position < len(view):
            length = min(CLUSTER, len(view) - position)
            if at(position, length):
                self._plain_run(offset + start, view[start:position], lease)
                self.zero(offset + position, length)
                start = position + length
            position += length
        self._plain_run(offset + start, view[start:], lease)

    def _plain_run(self, offset: int, view: memoryview, lease: Lease) -> None:
        if not view:
            return
        self._flush_below(offset // _L2_COVERS)
        self._file.align(CLUSTER)
        start = self._file.position
        if len(view) <= CLUSTER:
            self._file.append(bytes(view))  # small pieces would hold whole buffers
        else:
            self._file.append(view, lease)
        self._file.align(CLUSTER)
        self._count(start, self._file.position - start)
        self.data_bytes += len(view)
        first = offset // CLUSTER
        for index in range(-(-len(view) // CLUSTER)):
            self._entry(first + index, start + index * CLUSTER | _COPIED)

    def _take_compressed(self, most: int) -> None:
        while len(self._compressing) > most or (
            self._compressing and self._compressing[0][1].done()
        ):
            offset, future, lease = self._compressing.popleft()
            try:
                found = future.result()
            finally:
                lease.drop()
            for index, one in enumerate(found):
                self._take_cluster(offset + index * CLUSTER, one)

    def _take_cluster(self, offset: int, data: bytes | None) -> None:
        length = min(CLUSTER, self._size - offset)
        if data is None:
            if self._backing is not None:
                self.zero_bytes += length
                self._entry(offset // CLUSTER, _ZERO_FLAG)
            return
        self._flush_below(offset // _L2_COVERS)
        if len(data) >= CLUSTER:
            self._file.align(CLUSTER)
        start = self._file.position
        self._file.append(data)
        self._count(start, len(data))
        self.data_bytes += length
        entry = start | _COPIED
        if len(data) < CLUSTER:
            sectors = (start + len(data) - 1) // _SECTOR - start // _SECTOR
            entry = start | sectors << _SECTORS_SHIFT | _COMPRESSED
        self._entry(offset // CLUSTER, entry)

    # Tables

    def _entry(self, cluster: int, entry: int) -> None:
        index, position = divmod(cluster, _L2_ENTRIES)
        self._l2_table(index)[position] = entry

    def _l2_table(self, index: int) -> array[int]:
        table = self._l2.get(index)
        if table is None:
            table = self._l2[index] = array("Q", bytes(CLUSTER))
        return table

    def _flush_below(self, index: int) -> None:
        """Write the L2 tables before that one: nothing comes that belongs to them."""
        for one in [key for key in self._l2 if key < index]:
            self._file.align(CLUSTER)
            self._l1[one] = self._file.position | _COPIED
            self._count(self._file.position, CLUSTER)
            self._file.append(_big_endian(self._l2.pop(one)))

    def _count(self, start: int, length: int) -> None:
        """One more reference to the clusters of the file that hold these bytes."""
        base = self._counted_blocks * _REF_ENTRIES
        first, end = start // CLUSTER - base, -(-(start + length) // CLUSTER) - base
        for index in range(first, min(end, len(self._counts))):
            self._counts[index] += 1
        if end > len(self._counts):
            self._counts.extend([1] * (end - max(first, len(self._counts))))
        if len(self._counts) > 2 * _REF_ENTRIES:
            self._write_counts()

    def _write_counts(self) -> None:
        """The first block of counts is complete: what is appended lies behind it."""
        block = self._counts[:_REF_ENTRIES]
        del self._counts[:_REF_ENTRIES]
        index, self._counted_blocks = self._counted_blocks, self._counted_blocks + 1
        self._file.align(CLUSTER)
        self._table[index] = self._file.position
        self._file.append(_big_endian(block))
        self._count(self._table[index], CLUSTER)

    def _finish_counts(self) -> None:
        """The last blocks count themselves as well."""
        blocks = 0
        while blocks * _REF_ENTRIES < len(self._counts) + blocks:
            blocks += 1
        self._counts.extend([1] * blocks)
        self._counts.extend([0] * (blocks * _REF_ENTRIES - len(self._counts)))
        for one in range(blocks):
            self._table[self._counted_blocks + one] = self._file.position
            block = self._counts[one * _REF_ENTRIES : (one + 1) * _REF_ENTRIES]
            self._file.append(_big_endian(block))


def _is_zero(view: memoryview) -> Callable[[int, int], bool]:
    """Whether (position, length) of the view holds zeroes only; without a copy where possible."""
    whole = view.obj
    if isinstance(whole, bytearray) and len(whole) == len(view):
        return lambda position, length: whole.startswith(_ZERO_CLUSTER[:length], position)
    return lambda position, length: bytes(view[position : position + length]).count(0) == length


def _big_endian(table: array[int]) -> bytes:
    if sys.byteorder == "little":
        table = array(table.typecode, table)
        table.byteswap()
    return table.tobytes()


def zstd_clusters(level: int = 3) -> Compress:
    """Compresses with zstd, each thread with a state of its own. Raises NotSupported without it."""
    import threading

    from vircpt.errors import NotSupported

    try:
        import zstandard
    except ImportError as error:
        raise NotSupported(
            "the Python module zstandard is missing",
            why=str(error),
            hint="apt-get install python3-zstandard, or back up with --compress none",
        ) from error
    local = threading.local()

    def compress(view: memoryview) -> list[bytes | None]:
        if not hasattr(local, "context"):
            local.context = zstandard.ZstdCompressor(level=level)
        is_zero = _is_zero(view)
        found: list[bytes | None] = []
        for position in range(0, len(view), CLUSTER):
            length = min(CLUSTER, len(view) - position)
            if is_zero(position, length):
                found.append(None)
                continue
            cluster = view[position : position + length]
            if length < CLUSTER:  # the last of the disk
                cluster = memoryview(bytes(cluster).ljust(CLUSTER, b"\0"))
            packed = local.context.compress(cluster)
            found.append(packed if len(packed) < CLUSTER - _SECTOR else bytes(cluster))
        return found

    return compress
