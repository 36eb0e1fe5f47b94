"""Recognises what stands in a volume by its signature: file systems, members, encryption, swap."""

from __future__ import annotations

import struct
from typing import NamedTuple
from uuid import UUID

from vircpt.errors import VircptError
from vircpt.guestfiles import filesystems
from vircpt.guestfiles.layout import Content, Holds
from vircpt.guestfiles.volumes import Volume, head

_HEAD = 0x12000


class _Magic(NamedTuple):
    """Bytes at an offset that mean a type."""

    type: str
    offset: int
    magic: bytes
    reason: str = ""


# Each of these writes its signature over whatever stood there before; order matters only where
# one may lie inside of another.
_ENCRYPTED = (
    _Magic("BitLocker", 3, b"-FVE-FS-"),
    _Magic("crypto_LUKS", 0, b"LUKS\xba\xbe"),
    _Magic("crypto_LUKS", 0, b"SKUL\xba\xbe"),
)
_UNSUPPORTED = (
    _Magic("ReFS", 3, b"ReFS\0\0\0\0", "vircpt does not read ReFS"),
    _Magic("VDO", 0, b"dmvdo001", "vircpt does not read deduplicated volumes"),
    _Magic("bcache", 0x1018, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), "a cache device"),
    _Magic("bcachefs", 0x1018, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"), ""),
    _Magic("stratis", 0x200, b"!Stra0tis\x86\xff\x02^\x41rh", "vircpt does not read Stratis pools"),
    _Magic("DM_integrity", 0, b"integrt\0", "a device with checksums between its data"),
    _Magic("DM_verity_hash", 0, b"verity\0\0", "hashes of another device"),
    _Magic("f2fs", 0x400, b"\x10\x20\xf5\xf2"),
    _Magic("erofs", 0x400, b"\xe2\xe1\xf5\xe0"),
    _Magic("squashfs", 0, b"hsqs"),
    _Magic("iso9660", 0x8001, b"CD001"),
    _Magic("udf", 0x8001, b"BEA01"),
    _Magic("jfs", 0x8000, b"JFS1"),
    _Magic("reiserfs", 0x10034, b"ReIsEr"),
    _Magic("hfsplus", 0x400, b"H+\0\x04"),
    _Magic("hfsplus", 0x400, b"HX\0\x05"),
    _Magic("apfs", 0x20, b"NXSB"),
    _Magic("gfs2", 0x10000, b"\x01\x16\x19\x70"),
    _Magic("ocfs2", 0x2000, b"OCFSV2"),
    _Magic("nilfs2", 0x406, b"\x34\x34"),
    _Magic("ufs", 0x255C, b"\x54\x19\x01\x00"),
    _Magic("ufs2", 0x1055C, b"\x19\x01\x54\x19"),
    _Magic("ceph_bluestore", 0, b"bluestore block device"),
    _Magic("oracleasm", 0x20, b"ORCLDISK"),
)
_SWAP = (0xFF6, 0x1FF6, 0x3FF6, 0xFFF6)
_ZFS_LABELS = (0x20000, 0x60000)


def detect(volume: Volume) -> Content | None:
    """What stands at the head of a volume; None if no signature is known. Members of LVM and
    md are found by their own modules. Errors of the source come through."""
    raw = head(volume, _HEAD)
    return (
        _encrypted(raw)
        or _by_magic(raw)
        or _file_system(volume, raw)
        or _swap(raw)
        or _zfs(volume)
        or None
    )


def is_blank(volume: Volume) -> bool:
    """Whether head and tail of a volume are zeroes."""
    return not any(head(volume, 1 << 16)) and not any(
        head(volume, 1 << 16, max(0, volume.size - (1 << 16)))
    )


def _encrypted(raw: bytes) -> Content | None:
    found = _first(raw, _ENCRYPTED)
    if found is None:
        return None
    uuid = label = ""
    if found.type == "crypto_LUKS":
        uuid = _text(raw[168:208])
        label = _text(raw[24:72]) if raw[6:8] == b"\0\2" else ""
    return Content(
        Holds.ENCRYPTED, found.type, label, uuid, "it is encrypted, and the guest keeps the key"
    )


def _by_magic(raw: bytes) -> Content | None:
    found = _first(raw, _UNSUPPORTED)
    if found is None:
        return None
    reason = found.reason or f"vircpt does not read {found.type}"
    return Content(Holds.UNSUPPORTED, found.type, reason=reason)


def _file_system(volume: Volume, raw: bytes) -> Content | None:
    type_ = filesystems.recognise(raw)
    if type_ is None:
        return None
    try:
        facts = filesystems.open_in(volume, type_).facts
    except VircptError as error:
        return Content(Holds.UNSUPPORTED, type_, reason=str(error))
    return Content(Holds.FILE_SYSTEM, facts.type, facts.label, facts.uuid)


def _swap(raw: bytes) -> Content | None:
    for place in _SWAP:
        if raw[place : place + 10] in (b"SWAPSPACE2", b"SWAP-SPACE"):
            label = _text(raw[1024 + 28 : 1024 + 44])
            uuid = str(UUID(bytes=raw[1024 + 12 : 1024 + 28]))
            return Content(Holds.SWAP, "swap", label, uuid)
    return None


def _zfs(volume: Volume) -> Content | None:
    for place in _ZFS_LABELS:
        raw = head(volume, 0x20000, place)
        for at in range(0, len(raw), 1024):
            if struct.unpack_from("<Q", raw, at)[0] in (0x00BAB10C, 0x0CB1BA0000000000):
                return Content(
                    Holds.UNSUPPORTED, "zfs_member", reason="vircpt does not read ZFS pools"
                )
    return None


def _first(raw: bytes, table: tuple[_Magic, ...]) -> _Magic | None:
    for one in table:
        if raw.startswith(one.magic, one.offset):
            return one
    return None


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()
