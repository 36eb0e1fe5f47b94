"""LZO1X, decompression only. Pure.

A stream is a row of instructions. Each copies bytes from further back, and then up to three
literal ones; what an instruction below 16 means depends on how many literals came before it.
"""

from __future__ import annotations

from vircpt.guestfiles.source import Damaged


class _Stream:
    def __init__(self, raw: bytes, limit: int) -> None:
        self.raw = raw
        self.limit = limit
        self.at = 0
        self.out = bytearray()

    def byte(self) -> int:
        if self.at >= len(self.raw):
            raise Damaged("LZO data ends too early")
        self.at += 1
        return self.raw[self.at - 1]

    def length(self, short: int, base: int) -> int:
        """A length that does not fit: zeroes count 255 each, then comes the rest."""
        if short:
            return short
        total = base
        while (more := self.byte()) == 0:
            total += 255
        return total + more

    def literals(self, count: int) -> None:
        if self.at + count > len(self.raw) or len(self.out) + count > self.limit:
            raise Damaged("LZO data makes no sense")
        self.out += self.raw[self.at : self.at + count]
        self.at += count

    def copy(self, back: int, count: int) -> None:
        out = self.out
        if back > len(out) or len(out) + count > self.limit:
            raise Damaged("LZO data makes no sense")
        for _ in range(count):
            out.append(out[-back])


def decompress(raw: bytes, limit: int) -> bytes:
    """At most `limit` bytes; raises Damaged."""
    stream = _Stream(raw, limit)
    state = 0  # literals that came before: 0 to 3, or 4 for a long run
    first = raw[0] if raw else 0
    if first > 17:
        stream.at = 1
        stream.literals(first - 17)
        state = min(first - 17, 4)
    while True:
        code = stream.byte()
        if code < 16 and state == 0:
            stream.literals(stream.length(code, 15) + 3)
            state = 4
            continue
        state = _copy(stream, code, state)
        if state < 0:
            return bytes(stream.out)
        stream.literals(state)


def _copy(stream: _Stream, code: int, state: int) -> int:
    """One instruction that copies; how many literals follow it, -1 at the end."""
    if code >= 64:
        back = (stream.byte() << 3) + (code >> 2 & 7) + 1
        stream.copy(back, (code >> 5) + 1)
        return code & 3
    if code >= 32:
        count = stream.length(code & 31, 31) + 2
        word = stream.byte() | stream.byte() << 8
        stream.copy((word >> 2) + 1, count)
        return word & 3
    if code >= 16:
        count = stream.length(code & 7, 7) + 2
        word = stream.byte() | stream.byte() << 8
        back = ((code & 8) << 11) + (word >> 2)
        if back == 0:
            return -1
        stream.copy(back + 16384, count)
        return word & 3
    back = (stream.byte() << 2) + (code >> 2)
    if state == 4:
        stream.copy(back + 2049, 3)
    else:
        stream.copy(back + 1, 2)
    return code & 3
