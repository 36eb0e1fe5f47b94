"""The header of a qcow2 file: written for images of a repository, and judged before QEMU opens one.

Only what the format's specification (docs/interop/qcow2.txt in QEMU's sources) says of version 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vircpt.errors import VircptError

MAGIC = b"QFI\xfb"
CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
COMPRESSION_ZSTD = 1
_INCOMPATIBLE_COMPRESSION = 1 << 3
_LENGTH = 112
_FIXED = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT = 0xE2792ACA
_END = 0
_MOST_BACKING = 1023
READ_AHEAD = CLUSTER
"""Bytes of a file that hold its header, whatever it says."""


@dataclass(frozen=True)
class Header:
    """What a header says, in bytes; `backing` is the name of the backing file.

    `strange` tells what an image of a repository never has, None if it has nothing such.
    """

    size: int
    backing: str | None
    backing_format: str | None
    zstd: bool
    strange: str | None


def build(
    size: int,
    *,
    l1_offset: int,
    l1_entries: int,
    table_offset: int,
    table_clusters: int,
    backing: str | None,
    zstd: bool,
) -> bytes:
    """The first cluster of a file; offsets in bytes. The backing file is a qcow2 as well."""
    extensions = b""
    if backing is not None:
        extensions += _EXTENSION.pack(_BACKING_FORMAT, 5) + b"qcow2".ljust(8, b"\0")
    extensions += _EXTENSION.pack(_END, 0)
    name = (backing or "").encode()
    fixed = _FIXED.pack(
        MAGIC,
        3,
        _LENGTH + len(extensions) if backing is not None else 0,
        len(name),
        CLUSTER_BITS,
        size,
        0,  # no encryption
        l1_entries,
        l1_offset,
        table_offset,
        table_clusters,
        0,  # no snapshots
        0,
        _INCOMPATIBLE_COMPRESSION if zstd else 0,
        0,
        0,
        4,  # refcounts of 16 bits
        _LENGTH,
    )
    kind = bytes([COMPRESSION_ZSTD if zstd else 0]).ljust(8, b"\0")
    return (fixed + kind + extensions + name).ljust(CLUSTER, b"\0")


def parse(data: bytes, name: str) -> Header:
    """Judge the first `READ_AHEAD` bytes of a file; raises VircptError if it is no qcow2."""
    if len(data) < _LENGTH or data[:4] != MAGIC:
        raise VircptError(f"{name} is no qcow2 image", why="it does not begin like one")
    fields = _FIXED.unpack_from(data)
    version, backing_offset, backing_length, bits, size, encryption = fields[1:7]
    snapshots, incompatible, length = fields[11], fields[13], fields[17]
    if version != 3 or length < 104:
        raise VircptError(f"{name} is no image of ours", why=f"it is qcow2 version {version}")
    strange = _strange(bits, encryption, snapshots, incompatible)
    backing = None
    if backing_offset:
        end = backing_offset + backing_length
        if backing_length > _MOST_BACKING or end > len(data):
            raise VircptError(f"{name} is damaged", why="the name of its backing file lies outside")
        backing = data[backing_offset:end].decode(errors="surrogateescape")
    return Header(
        size=size,
        backing=backing,
        backing_format=_backing_format(data, length),
        zstd=bool(incompatible & _INCOMPATIBLE_COMPRESSION),
        strange=strange,
    )


def _strange(bits: int, encryption: int, snapshots: int, incompatible: int) -> str | None:
    if incompatible & ~_INCOMPATIBLE_COMPRESSION:
        return f"it has features {incompatible:#x}, such as an external data file or damage"
    if encryption:
        return "it is encrypted"
    if snapshots:
        return "it holds internal snapshots"
    if bits != CLUSTER_BITS:
        return f"its clusters have {1 << min(bits, 30)} bytes"
    return None


def _backing_format(data: bytes, position: int) -> str | None:
    while position + _EXTENSION.size <= len(data):
        kind, length = _EXTENSION.unpack_from(data, position)
        position += _EXTENSION.size
        if kind == _END:
            return None
        if kind == _BACKING_FORMAT:
            return data[position : position + length].decode(errors="replace")
        position += (length + 7) & ~7
    return None
