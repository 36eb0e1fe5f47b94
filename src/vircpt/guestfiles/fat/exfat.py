"""exFAT as a FileSystem."""

from __future__ import annotations

import calendar
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vircpt.guestfiles.entries import Entry
from vircpt.guestfiles.fat.chains import Table
from vircpt.guestfiles.fat.common import LOCAL_TIME, ROOT, FatLike, Slot
from vircpt.guestfiles.filesystem import SECOND, Facts
from vircpt.guestfiles.intervals import Run
from vircpt.guestfiles.source import Damaged, Source, read

_FILE, _STREAM, _NAME, _BITMAP, _LABEL = 0x85, 0xC0, 0xC1, 0x81, 0x83
_DIRECTORY, _READ_ONLY = 0x10, 0x01
_NO_CHAIN = 0x02


@dataclass(frozen=True)
class Boot:
    """Sizes and places in bytes."""

    cluster: int
    clusters: int
    table: int
    heap: int
    root: int
    size: int
    serial: str
    dirty: bool


def boot(source: Source) -> Boot:
    """Raises Damaged."""
    raw = read(source, 0, min(512, source.size))
    if len(raw) < 512 or raw[3:11] != b"EXFAT   ":
        raise Damaged("no boot sector of exFAT")
    sectors, table, length, heap, clusters, root = struct.unpack_from("<QIIIII", raw, 72)
    low, high, _, flags, sector, per_cluster, tables = struct.unpack_from("<HHHHBBB", raw, 100)
    if not 9 <= sector <= 12 or per_cluster > 25 - sector or tables not in (1, 2):
        raise Damaged("the boot sector of exFAT makes no sense")
    cluster = 1 << sector + per_cluster
    active = length if flags & 1 and tables == 2 else 0
    found = Boot(
        cluster=cluster,
        clusters=clusters,
        table=table + active << sector,
        heap=heap << sector,
        root=root,
        size=sectors << sector,
        serial=f"{high:04X}-{low:04X}",
        dirty=bool(flags & 2),
    )
    if (
        found.size > source.size
        or found.heap + clusters * cluster > found.size
        or length << sector < (clusters + 2) * 4
    ):
        raise Damaged("the boot sector of exFAT makes no sense")
    return found


class Exfat(FatLike):
    """exFAT, read through `source`, the volume that it lies in."""

    def __init__(self, source: Source) -> None:
        found = boot(source)
        self.root_slot = Slot(ROOT, b"", True, False, found.root, 0, 0, False, None, None, None, ())
        self.cluster, self.heap, self.clusters = found.cluster, found.heap, found.clusters
        facts = Facts(
            type="exfat",
            label="",
            uuid=found.serial,
            size=found.size,
            used=None,
            block_size=found.cluster,
            dirty_journal="it is mounted, or was not unmounted" if found.dirty else None,
            time_margin=LOCAL_TIME,
        )
        super().__init__(source, facts)
        self.table = Table(self.cache, found.table, 32, found.clusters + 1)
        self._bitmap: Slot | None = None
        self._valids: dict[int, int] = {}
        self.facts = Facts(**{**vars(facts), "label": self._read_label()})

    def _read_label(self) -> str:
        """The label; notes where the map of clusters is."""
        label: str | None = None
        for raw, _ in self._sets(self.root_slot):
            if raw[0] == _LABEL:
                label = raw[2 : 2 + 2 * min(raw[1], 11)].decode("utf-16-le", "replace")
            if raw[0] == _BITMAP and self._bitmap is None:
                first, size = struct.unpack_from("<IQ", raw, 20)
                self._bitmap = self.root_slot._replace(number=-1, first=first, size=size)
            if self._bitmap is not None and label is not None:
                break
        return label or ""

    def used(self) -> int | None:
        """From the map of clusters."""
        if self._bitmap is None:
            return None
        count = 0
        for _, raw in self._directory_bytes(self._bitmap):
            count += int.from_bytes(raw, "little").bit_count()
        return min(count, self.clusters) * self.cluster

    def _sets(self, slot: Slot) -> Iterator[tuple[bytes, int]]:
        """All entries of a directory in use, with their places."""
        for place, raw in self._directory_bytes(slot):
            for at in range(0, len(raw) - 31, 32):
                if raw[at] == 0:
                    return
                if raw[at] & 0x80:
                    yield raw[at : at + 32], place + at

    def _parse(self, slot: Slot, path: bytes) -> Iterator[Slot]:
        held: list[tuple[bytes, int]] = []
        for raw, place in self._sets(slot):
            if raw[0] == _FILE:
                held = [(raw, place)]
            elif held and raw[0] & 0x40:
                held.append((raw, place))
            else:
                held = []
            if held and len(held) == held[0][0][1] + 1:
                found = _file(held)
                held = []
                if found is None:
                    self.tell(path, "a set of entries of this directory makes no sense")
                    continue
                if found.valid < found.size:
                    self._valids[found.number] = found.valid
                yield found

    def _valid(self, entry: Entry) -> int:
        return self._valids.get(entry.inode, entry.size)


def _file(held: list[tuple[bytes, int]]) -> Slot | None:
    head, place = held[0]
    stream = next((raw for raw, _ in held if raw[0] == _STREAM), None)
    if stream is None:
        return None
    parts = b"".join(raw[2:32] for raw, _ in held if raw[0] == _NAME)
    attributes, birth, mtime, atime = struct.unpack_from("<H2xIII", head, 4)
    valid, first, size = struct.unpack_from("<Q4xIQ", stream, 8)
    name = parts[: 2 * stream[3]].decode("utf-16-le", "surrogatepass")
    return Slot(
        number=place // 32,
        name=name.encode("utf-8", "surrogatepass"),
        is_directory=bool(attributes & _DIRECTORY),
        read_only=bool(attributes & _READ_ONLY),
        first=first,
        size=size,
        valid=valid,
        contiguous=bool(stream[1] & _NO_CHAIN),
        mtime=_time(mtime, head[21], head[23]),
        atime=_time(atime, 0, head[24]),
        birth=_time(birth, head[20], head[22]),
        slots=tuple(Run(each, 32) for _, each in held),
    )


def _time(stamp: int, hundredths: int, zone: int) -> int | None:
    """Nanoseconds in UTC if the entry knows its time zone; else as if it were UTC."""
    year, month, day = 1980 + (stamp >> 25), stamp >> 21 & 0xF, stamp >> 16 & 0x1F
    if not 1 <= month <= 12 or not day:
        return None
    clock = (stamp >> 11 & 0x1F, stamp >> 5 & 0x3F, (stamp & 0x1F) * 2)
    seconds = calendar.timegm((year, month, day, *clock))
    if zone & 0x80:
        quarters = (zone & 0x7F) - (128 if zone & 0x40 else 0)
        seconds -= quarters * 900
    return seconds * SECOND + min(hundredths, 199) * SECOND // 100
