"""The superblock of btrfs."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from vircpt.errors import NotSupported
from vircpt.guestfiles.source import Damaged, Source, read

PLACE = 65536
_SIZE = 4096
MAGIC = b"_BHRfS_M"
_KNOWN = 0x1FFF | 0x10000
"""All but a new extent tree (v2), the stripe tree of RAID on zoned devices, and what is newer."""
_CHUNKS_AT, _CHUNKS_LIMIT = 811, 2048


@dataclass(frozen=True)
class Super:
    """What the parser needs. Addresses are logical; sizes in bytes."""

    uuid: str
    device: int
    devices: int
    label: str
    root: int
    chunk_root: int
    log_root: int
    generation: int
    size: int
    used: int
    sector: int
    node: int
    incompat: int
    chunks: bytes
    """Keys and items of the chunks in which the chunk tree lies."""


def at(source: Source, base: int) -> Super | None:
    """The superblock of the device that begins at `base`; None if there is none."""
    if base + PLACE + _SIZE > source.size:
        return None
    raw = read(source, base + PLACE, _SIZE)
    if raw[64:72] != MAGIC or struct.unpack_from("<Q", raw, 48)[0] != PLACE:
        return None
    generation, root, chunk_root, log_root = struct.unpack_from("<4Q", raw, 72)
    size, used, _, devices = struct.unpack_from("<4Q", raw, 112)
    sector, node, _, _, chunks = struct.unpack_from("<5I", raw, 144)
    return Super(
        uuid=str(UUID(bytes=raw[32:48])),
        device=struct.unpack_from("<Q", raw, 201)[0],
        devices=devices,
        label=raw[299:555].split(b"\0")[0].decode("utf-8", "replace"),
        root=root,
        chunk_root=chunk_root,
        log_root=log_root,
        generation=generation,
        size=size,
        used=used,
        sector=sector,
        node=node,
        incompat=struct.unpack_from("<Q", raw, 188)[0],
        chunks=raw[_CHUNKS_AT : _CHUNKS_AT + min(chunks, _CHUNKS_LIMIT)],
    )


def check(found: Super) -> None:
    """Raises Damaged, NotSupported."""
    if unknown := found.incompat & ~_KNOWN:
        raise NotSupported(f"btrfs with features that vircpt does not know: {unknown:#x}")
    sizes = (found.sector, found.node)
    if any(one < 512 or one > 65536 or one & (one - 1) for one in sizes):
        raise Damaged("the superblock of btrfs makes no sense")
