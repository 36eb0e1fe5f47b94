"""Frames between parent and child: one byte of kind, four of length, then the payload.

Kinds: b"J" one JSON value; b"B" bytes as they are. The reader trusts no length.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

HEAD = struct.Struct("!cI")
JSON = b"J"
BYTES = b"B"
LIMIT = 16 << 20
"""Bytes of one payload; who sends more is cut off."""


class BadFrame(Exception):
    """What came is no frame."""


class Frame(NamedTuple):
    """`kind` is JSON or BYTES."""

    kind: bytes
    payload: bytes

    def value(self) -> Any:
        """The JSON value; raises BadFrame if there is none."""
        if self.kind != JSON:
            raise BadFrame("bytes where a record should be")
        try:
            return json.loads(self.payload)
        except (ValueError, RecursionError) as error:
            raise BadFrame(f"no JSON: {error}") from error


def frame(kind: bytes, payload: bytes) -> bytes:
    """One frame; raises ValueError if it would be too long."""
    if len(payload) > LIMIT:
        raise ValueError(f"a frame of {len(payload)} bytes")
    return HEAD.pack(kind, len(payload)) + payload


def record(value: Any) -> bytes:
    """A frame that holds a JSON value."""
    return frame(JSON, json.dumps(value, separators=(",", ":")).encode())


class Splitter:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def is_empty(self) -> bool:
        """Whether nothing of a frame is held that has not come in full."""
        return not self._held

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """The frames that are complete now; raises BadFrame."""
        self._held += piece
        start = 0
        while len(self._held) - start >= HEAD.size:
            kind, length = HEAD.unpack_from(self._held, start)
            if kind not in (JSON, BYTES) or length > LIMIT:
                raise BadFrame(f"a frame of kind {kind!r} and {length} bytes")
            end = start + HEAD.size + length
            if len(self._held) < end:
                break
            yield Frame(kind, bytes(self._held[start + HEAD.size : end]))
            start = end
        del self._held[:start]
