"""The boot sector of NTFS, and its table of files, the MFT."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from vircpt.guestfiles.intervals import Run
from vircpt.guestfiles.ntfs import records
from vircpt.guestfiles.ntfs.records import Attribute, Piece, Record
from vircpt.guestfiles.source import Cached, Damaged, Source, read

_CHUNK = 1 << 20
_LIST_LIMIT = 1 << 20
_EXTENSIONS = 4096


@dataclass(frozen=True)
class Boot:
    """Sizes in bytes."""

    size: int
    cluster: int
    table: int
    record: int
    index: int
    serial: str


def boot(source: Source) -> Boot:
    """Raises Damaged."""
    raw = read(source, 0, min(512, source.size))
    if len(raw) < 512 or raw[3:11] != b"NTFS    ":
        raise Damaged("no boot sector of NTFS")
    sector, per_cluster = struct.unpack_from("<HB", raw, 11)
    sectors, table, _, record, index, serial = struct.unpack_from("<QQQb3xb3xQ", raw, 40)
    cluster = sector * (per_cluster if per_cluster <= 0x80 else 1 << 256 - per_cluster)
    found = Boot(
        size=sectors * sector,
        cluster=cluster,
        table=table * cluster,
        record=1 << -record if -31 < record < 0 else record * cluster,
        index=1 << -index if -31 < index < 0 else index * cluster,
        serial=f"{serial:016X}",
    )
    good = (
        sector in (256, 512, 1024, 2048, 4096)
        and 256 <= cluster <= 2 << 20
        and cluster & (cluster - 1) == 0
        and 512 <= found.record <= 65536
        and 512 <= found.index <= 1 << 20
        and 0 < found.table < found.size
    )
    if not good:
        raise Damaged("the boot sector of NTFS makes no sense")
    if found.size > source.size:
        raise Damaged("the NTFS file system is larger than what it lies on")
    return found


class File(NamedTuple):
    """A file: its base record, all attributes, and where records and lists lie."""

    record: Record
    attributes: list[Attribute]
    metadata: list[Run]
    damaged: bool


class Table:
    """Reads records by number, and files with their extension records."""

    def __init__(self, source: Source, found: Boot) -> None:
        self.boot = found
        self.source = source
        self.cache = Cached(source, chunk=1 << 14, chunks=1024)
        self.pieces: list[Piece] = []
        self.count = 0
        self._load()

    def _load(self) -> None:
        """The table's own first record says where the rest is; of a table in many pieces
        only extension records in the part that is known say it."""
        place = self.boot.table
        self.pieces = [Piece(0, place // self.boot.cluster, 1)]
        self.count = max(1, self.boot.cluster // self.boot.record)
        first = records.parse(read(self.source, place, self.boot.record))
        pieces: list[Piece] = []
        for attribute in records.attributes(first):
            if attribute.type == records.DATA and not attribute.name:
                pieces += attribute.pieces
                self.count = attribute.size // self.boot.record
        if not pieces:
            raise Damaged("the table of files of NTFS lies nowhere")
        self.pieces = pieces
        for attribute in self.file(0).attributes:
            if attribute.type == records.DATA and not attribute.name and attribute.first:
                self.pieces = sorted({*self.pieces, *attribute.pieces})

    def place(self, number: int) -> int:
        """Where a record lies; raises Damaged."""
        offset = number * self.boot.record
        vcn, inside = divmod(offset, self.boot.cluster)
        for piece in self.pieces:
            if piece.vcn <= vcn < piece.vcn + piece.length and piece.lcn is not None:
                return (piece.lcn + vcn - piece.vcn) * self.boot.cluster + inside
        raise Damaged(f"NTFS has no record {number}")

    def record(self, number: int) -> Record:
        """Raises Damaged."""
        return records.parse(self.cache.pread(self.boot.record, self.place(number)))

    def file(self, number: int, record: Record | None = None) -> File:
        """A file by its base record; raises Damaged if that can't be read."""
        base = record or self.record(number)
        found = list(records.attributes(base))
        metadata = [Run(self.place(number), self.boot.record)]
        damaged = False
        lists = [one for one in found if one.type == records.LIST]
        for one in lists:
            metadata += self.runs(one.pieces)
            try:
                raw = one.value if one.value is not None else self.stream([one], _LIST_LIMIT)
                damaged |= self._extend(number, raw, found, metadata)
            except Damaged:
                damaged = True
        return File(base, found, metadata, damaged)

    def _extend(self, number: int, raw: bytes, found: list[Attribute], metadata: list[Run]) -> bool:
        others = list(dict.fromkeys(each for _, each in records.listed(raw) if each != number))
        damaged = len(others) > _EXTENSIONS
        for other in others[:_EXTENSIONS]:
            metadata.append(Run(self.place(other), self.boot.record))
            extension = self.record(other)
            if extension.base != number or not extension.in_use:
                damaged = True
                continue
            found += records.attributes(extension)
        return damaged

    def runs(self, pieces: list[Piece]) -> list[Run]:
        """Places of clusters; raises Damaged if they lie beyond the end."""
        size = self.boot.cluster
        runs = [
            Run(piece.lcn * size, piece.length * size) for piece in pieces if piece.lcn is not None
        ]
        if any(run.end > self.source.size for run in runs):
            raise Damaged("clusters beyond the end of NTFS")
        return runs

    def stream(self, parts: list[Attribute], limit: int) -> bytes:
        """The bytes of an attribute that is not compressed, at most `limit`."""
        size = self.boot.cluster
        length = min(max((one.size for one in parts if not one.first), default=0), limit)
        out = bytearray(length)
        for piece in (piece for one in parts for piece in one.pieces):
            start = piece.vcn * size
            count = min(piece.length * size, length - start)
            if piece.lcn is not None and count > 0:
                out[start : start + count] = self.cache.pread(count, piece.lcn * size)
        return bytes(out)

    def chunks(self) -> Iterator[tuple[int, bytes]]:
        """The whole table in order: number of the first record, and bytes of many."""
        size = self.boot.record
        for piece in self.pieces:
            if piece.lcn is None:
                continue
            start = piece.vcn * self.boot.cluster
            end = min(start + piece.length * self.boot.cluster, self.count * size)
            # records larger than a cluster may not begin with a piece
            at = -(-start // size) * size
            while at + size <= end:
                length = min(_CHUNK // size * size or size, (end - at) // size * size)
                place = piece.lcn * self.boot.cluster + at - start
                yield at // size, read(self.source, place, length)
                at += length
