"""LZNT1, by which NTFS compresses. Pure."""

from __future__ import annotations

from vircpt.guestfiles.source import Damaged

_CHUNK = 4096


def decompress(raw: bytes, size: int) -> bytes:
    """One compression unit, `size` bytes when decompressed; raises Damaged."""
    out = bytearray()
    at = 0
    while at + 2 <= len(raw) and len(out) < size:
        head = int.from_bytes(raw[at : at + 2], "little")
        if not head:
            break
        end = at + 3 + (head & 0xFFF)
        chunk = raw[at + 2 : end]
        out += _chunk(chunk) if head & 0x8000 else chunk
        # a chunk that was cut short goes on with zeroes
        out += bytes(-len(out) % _CHUNK if end < len(raw) and len(out) < size else 0)
        at = end
    return bytes(out[:size]).ljust(size, b"\0")


def _chunk(raw: bytes) -> bytes:
    out = bytearray()
    at = 0
    while at < len(raw) and len(out) < _CHUNK:
        flags = raw[at]
        at += 1
        for bit in range(8):
            if at >= len(raw) or len(out) >= _CHUNK:
                break
            if not flags >> bit & 1:
                out.append(raw[at])
                at += 1
                continue
            if at + 2 > len(raw):
                raise Damaged("compressed data of NTFS makes no sense")
            word = int.from_bytes(raw[at : at + 2], "little")
            at += 2
            # the further on in the chunk, the more bits tell how far back
            width = max(4, (len(out) - 1).bit_length())
            back = (word >> 16 - width) + 1
            length = (word & (1 << 16 - width) - 1) + 3
            if back > len(out):
                raise Damaged("compressed data of NTFS makes no sense")
            for _ in range(length):
                out.append(out[-back])
    return bytes(out[:_CHUNK])
