"""The checksums of an image: a text file with one SHA-256 for each MiB of the image file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from vircpt.errors import Mismatch

BLOCK = 1 << 20
DIGEST = 32
_ALIKE = "vircpt-sums 1 sha256"


def write(digests: bytes, length: int) -> bytes:
    """The file for an image of `length` bytes; `digests` of its blocks in a row."""
    lines = [f"{_ALIKE} {BLOCK} {length}"]
    lines += [digests[start : start + DIGEST].hex() for start in range(0, len(digests), DIGEST)]
    return ("\n".join(lines) + "\n").encode()


def read(path: Path, sha256: str, length: int) -> bytes:
    """The digests in a row; raises Mismatch if the file is not the one of the manifest."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Mismatch(f"{path} can't be read", why=error.strerror) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Mismatch(f"{path} is damaged", why="its checksum is not the one of the manifest")
    head, _, rest = data.decode(errors="replace").partition("\n")
    digests = bytes.fromhex(rest.replace("\n", ""))
    if head != f"{_ALIKE} {BLOCK} {length}" or len(digests) != -(-length // BLOCK) * DIGEST:
        raise Mismatch(f"{path} is not of this image", why=f"it begins with {head[:80]!r}")
    return digests


def check(
    image: Path, handle: int, digests: bytes, length: int, progress: Callable[[int], None]
) -> None:
    """Hash the image that `handle` is open on; raises Mismatch naming the first bad offset.

    `progress` is told bytes as they are done; it may raise to end it.
    """
    found = os.fstat(handle).st_size
    if found != length:
        raise Mismatch(
            f"{image} has {found} bytes", why=f"{length} were written",
        )  # fmt: skip
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    for index, offset in enumerate(range(0, length, BLOCK)):
        wanted = min(BLOCK, length - offset)
        try:
            done = os.preadv(handle, [view[:wanted]], offset)
        except OSError as error:
            raise Mismatch(f"{image} can't be read at {offset}", why=error.strerror) from error
        digest = hashlib.sha256(view[:done]).digest()
        if done != wanted or digest != digests[index * DIGEST : (index + 1) * DIGEST]:
            raise Mismatch(
                f"{image} is damaged between {offset} and {offset + wanted}",
                why="these bytes are not what was written",
            )
        progress(wanted)
