"""FAT12, FAT16 and FAT32 as a FileSystem."""

from __future__ import annotations

import calendar
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vircpt.guestfiles.fat.chains import Table
from vircpt.guestfiles.fat.common import LOCAL_TIME, ROOT, FatLike, Slot
from vircpt.guestfiles.filesystem import SECOND, Facts
from vircpt.guestfiles.intervals import Run
from vircpt.guestfiles.source import Damaged, Source, read

_LONG, _LABEL, _DIRECTORY, _READ_ONLY = 0x0F, 0x08, 0x10, 0x01
_LOWER_NAME, _LOWER_ENDING = 0x08, 0x10
_SLOT = struct.Struct("<11sBBBHHHHHHHI")


@dataclass(frozen=True)
class Boot:
    """Sizes and places in bytes."""

    bits: int
    cluster: int
    clusters: int
    table: int
    root: int
    root_size: int
    root_cluster: int
    heap: int
    size: int
    serial: str
    label: str
    dirty: bool


def looks_like(raw: bytes) -> bool:
    """Whether a boot sector may be one of FAT: FAT has no real signature."""
    if raw[510:512] != b"\x55\xaa" or raw[0] not in (0xEB, 0xE9):
        return False
    sector, per_cluster, reserved, tables = struct.unpack_from("<HBHB", raw, 11)
    media, short = struct.unpack_from("<BH", raw, 21)
    return (
        sector in (512, 1024, 2048, 4096)
        and per_cluster > 0
        and per_cluster & (per_cluster - 1) == 0
        and reserved > 0
        and tables in (1, 2)
        and (media == 0xF0 or media >= 0xF8)
        and (short > 0 or struct.unpack_from("<I", raw, 36)[0] > 0)
    )


def boot(source: Source) -> Boot:
    """Raises Damaged."""
    raw = read(source, 0, min(512, source.size))
    if len(raw) < 512 or not looks_like(raw):
        raise Damaged("no boot sector of FAT")
    sector, per_cluster, reserved, tables, roots, total = struct.unpack_from("<HBHBHH", raw, 11)
    short = struct.unpack_from("<H", raw, 22)[0]
    total = total or struct.unpack_from("<I", raw, 32)[0]
    wide = not short
    table_sectors = struct.unpack_from("<I", raw, 36)[0] if wide else short
    root = reserved + tables * table_sectors
    heap = root + -(-roots * 32 // sector)
    clusters = (total - heap) // per_cluster
    if clusters < 1 or total * sector > source.size:
        raise Damaged("the boot sector of FAT makes no sense")
    bits = 32 if wide else 12 if clusters < 4085 else 16
    most = table_sectors * sector * 8 // bits - 2
    more = 28 if wide else 0
    return Boot(
        bits=bits,
        cluster=per_cluster * sector,
        clusters=min(clusters, most),
        table=(reserved + _active(raw, wide, tables) * table_sectors) * sector,
        root=root * sector,
        root_size=roots * 32,
        root_cluster=struct.unpack_from("<I", raw, 44)[0] if wide else 0,
        heap=heap * sector,
        size=total * sector,
        serial="{1:04X}-{0:04X}".format(*struct.unpack_from("<HH", raw, 39 + more)),
        label=raw[43 + more : 54 + more].decode("cp437").strip(),
        dirty=bool(raw[37 + more] & 1),
    )


def _active(raw: bytes, wide: bool, tables: int) -> int:
    """Which copy of the table is in use, where they are not kept alike."""
    flags = struct.unpack_from("<H", raw, 40)[0] if wide else 0
    return min(flags & 0xF, tables - 1) if flags & 0x80 else 0


class Fat(FatLike):
    """FAT, read through `source`, the volume that it lies in."""

    def __init__(self, source: Source) -> None:
        found = boot(source)
        facts = Facts(
            type=f"fat{found.bits}",
            label="" if found.label == "NO NAME" else found.label,
            uuid=found.serial,
            size=found.size,
            used=None,
            block_size=found.cluster,
            dirty_journal="it is mounted, or was not unmounted" if found.dirty else None,
            time_margin=LOCAL_TIME,
        )
        super().__init__(source, facts)
        self.cluster, self.heap, self.clusters = found.cluster, found.heap, found.clusters
        self.table = Table(self.cache, found.table, found.bits, found.clusters + 1)
        self._fixed_root = Run(found.root, found.root_size)
        self.root_slot = Slot(
            ROOT, b"", True, False, found.root_cluster, 0, 0, False, None, None, None, ()
        )

    def _data(self, slot: Slot) -> tuple[list[Run], list[Run], bool]:
        if slot.number == ROOT and not slot.first:
            return [self._fixed_root], [], False
        return super()._data(slot)

    def _parse(self, slot: Slot, path: bytes) -> Iterator[Slot]:
        parts: list[tuple[int, bytes]] = []
        for place, raw in self._directory_bytes(slot):
            for at in range(0, len(raw) - 31, 32):
                one = raw[at : at + 32]
                if one[0] == 0:
                    return
                if one[0] == 0xE5:
                    parts = []
                elif one[11] & 0x3F == _LONG:
                    parts.append((place + at, one))
                else:
                    if not one[11] & _LABEL and one[:11].rstrip() not in (b".", b".."):
                        yield _file(place + at, one, parts)
                    parts = []


def _file(place: int, raw: bytes, parts: list[tuple[int, bytes]]) -> Slot:
    short, attributes, lower, tenths, time, day, access, high, m_time, m_day, low, size = (
        _SLOT.unpack(raw)
    )
    is_directory = bool(attributes & _DIRECTORY)
    birth = _time(day, time)
    return Slot(
        number=place // 32,
        name=_long(short, parts) or _short(short, lower),
        is_directory=is_directory,
        read_only=bool(attributes & _READ_ONLY),
        first=high << 16 | low,
        size=0 if is_directory else size,
        valid=size,
        contiguous=False,
        mtime=_time(m_day, m_time),
        atime=_time(access, 0),
        birth=None if birth is None else birth + min(tenths, 199) * SECOND // 100,
        slots=(Run(place, 32), *(Run(each, 32) for each, _ in parts)),
    )


def _short(raw: bytes, lower: int) -> bytes:
    if raw[0] == 0x05:
        raw = b"\xe5" + raw[1:]
    name, ending = (part.decode("cp437").rstrip(" ") for part in (raw[:8], raw[8:]))
    name = name.lower() if lower & _LOWER_NAME else name
    ending = ending.lower() if lower & _LOWER_ENDING else ending
    return (f"{name}.{ending}" if ending else name).encode()


def _long(short: bytes, parts: list[tuple[int, bytes]]) -> bytes | None:
    """The long name, if all its parts are there and belong to this short one."""
    if not parts or not parts[0][1][0] & 0x40:
        return None
    check = 0
    for byte in short:
        check = ((check & 1) << 7 | check >> 1) + byte & 0xFF
    orders = [raw[0] & 0x3F for _, raw in parts]
    if orders != list(range(len(parts), 0, -1)) or any(raw[13] != check for _, raw in parts):
        return None
    wide = b"".join(raw[1:11] + raw[14:26] + raw[28:32] for _, raw in reversed(parts))
    name = wide.decode("utf-16-le", "surrogatepass").split("\0")[0]
    return name.encode("utf-8", "surrogatepass")


def _time(day: int, time: int) -> int | None:
    """Nanoseconds, as if the guest's local time were UTC."""
    if not day:
        return None
    parts = (1980 + (day >> 9), max(1, day >> 5 & 0xF), max(1, day & 0x1F))
    if parts[1] > 12:
        return None
    return calendar.timegm((*parts, time >> 11, time >> 5 & 0x3F, (time & 0x1F) * 2)) * SECOND
