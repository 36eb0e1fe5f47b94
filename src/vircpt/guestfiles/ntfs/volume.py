"""What NTFS says of itself: label, clusters in use, whether it was left in order."""

from __future__ import annotations

import struct

from vircpt.guestfiles.ntfs import records
from vircpt.guestfiles.ntfs.table import Table
from vircpt.guestfiles.source import Damaged, read

_LOG, _VOLUME, _BITMAP = 2, 3, 6
_DIRTY = 0x1
_CLEAN = 0x2
_NO_CLIENT = 0xFFFF
_BITMAP_LIMIT = 1 << 30


def facts(table: Table) -> tuple[str, str | None]:
    """The label, and why it is not in order; None if it is."""
    label, flags = "", 0
    for one in table.file(_VOLUME).attributes:
        if one.type == records.VOLUME_NAME and one.value:
            label = one.value.decode("utf-16-le", "replace")
        elif one.type == records.VOLUME_INFO and one.value and len(one.value) >= 12:
            flags = struct.unpack_from("<H", one.value, 10)[0]
    if flags & _DIRTY:
        return label, "it is marked as dirty: it wants a check"
    return label, _log(table)


def _log(table: Table) -> str | None:
    """The journal's two restart pages say whether anybody has it open."""
    parts = [one for one in table.file(_LOG).attributes if one.type == records.DATA]
    raw = table.stream(parts, 8192)
    if len(raw) < 8192:
        return "its journal makes no sense"
    if not raw.strip(b"\xff"):
        return None
    newest, state = -1, "its journal makes no sense"
    for page in (raw[:4096], raw[4096:]):
        try:
            whole = records.fixed(page, b"RSTR")
        except Damaged:
            continue
        start = struct.unpack_from("<H", whole, 24)[0]
        if start + 16 > len(whole):
            continue
        lsn, _, _, in_use, flags = struct.unpack_from("<QHHHH", whole, start)
        if lsn > newest:
            newest = lsn
            clean = in_use == _NO_CLIENT or flags & _CLEAN
            state = "" if clean else "it is mounted, or was not unmounted: its journal is in use"
    return state or None


def used(table: Table) -> int | None:
    """Bytes of clusters in use, from the map; None if that is too damaged."""
    count = 0
    try:
        for one in table.file(_BITMAP).attributes:
            if one.type == records.DATA and one.size <= _BITMAP_LIMIT:
                for run in table.runs(one.pieces):
                    raw = read(table.source, run.offset, run.length)
                    count += int.from_bytes(raw, "little").bit_count()
    except Damaged:
        return None
    return min(count * table.boot.cluster, table.boot.size)
