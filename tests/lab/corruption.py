"""Damaged file systems: images whose used sectors are flipped, wiped and mixed up at random."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .guestfs import MAKERS, SIZE

_SECTOR = 512
_ABSURD = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1, 0x100000000)


def build(kind: str, image: Path) -> None:
    """A raw image with a file system and some hundred files. Needs root: it is mounted."""
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run([*MAKERS[kind], str(image)], check=True, capture_output=True)
    mount = ["ntfs-3g"] if kind == "ntfs" else ["mount", "-o", "loop"]
    with tempfile.TemporaryDirectory(dir=image.parent) as point:
        subprocess.run([*mount, str(image), point], check=True)
        try:
            _populate(Path(point))
        finally:
            os.sync()
            subprocess.run(["umount", point], check=True)


def _populate(root: Path) -> None:
    for number in range(400):
        home = root / f"d{number % 7}" / f"e{number % 3}"
        home.mkdir(parents=True, exist_ok=True)
        (home / f"file-{number}").write_bytes(b"x" * (number * 37 % 9000))
        if number % 50 == 0:
            (home / f"link-{number}").symlink_to("x" * (number % 90 + 1))
            with (home / f"sparse-{number}").open("wb") as file:
                for piece in range(20):
                    file.seek(piece * 65536)
                    file.write(b"y" * 100)


def used_sectors(image: Path) -> list[int]:
    """Offsets of sectors that hold more than file contents and zeroes."""
    found = []
    with image.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        at = 0
        while at < end:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            data = os.pread(file.fileno(), at - start, start)
            for offset in range(0, len(data), _SECTOR):
                sector = data[offset : offset + _SECTOR]
                if sector.strip(b"\0xy"):
                    found.append(start + offset)
    return found


@contextmanager
def damaged(image: Path, sectors: list[int], seed: int) -> Iterator[None]:
    """The image damaged in place, at some of these sectors; mended at the end."""
    dice = random.Random(seed)
    # the first are superblocks and their like: half of the damage is there
    where = [*sectors[:40], *dice.choices(sectors, k=40)]
    chosen = dice.sample(where, dice.choice((1, 2, 5, 20, 60)))
    before: list[tuple[int, bytes]] = []
    fd = os.open(image, os.O_RDWR)
    try:
        for offset in chosen:
            old = os.pread(fd, _SECTOR, offset)
            before.append((offset, old))
            os.pwrite(fd, _harm(old, sectors, fd, dice), offset)
        yield
    finally:
        for offset, old in reversed(before):
            os.pwrite(fd, old, offset)
        os.close(fd)


def _harm(old: bytes, sectors: list[int], fd: int, dice: random.Random) -> bytes:
    new = bytearray(old)
    match dice.randrange(5):
        case 0:
            for _ in range(dice.choice((1, 3, 20))):
                new[dice.randrange(_SECTOR)] ^= 1 << dice.randrange(8)
        case 1:
            return bytes(_SECTOR) if dice.randrange(2) else b"\xff" * _SECTOR
        case 2:
            return os.pread(fd, _SECTOR, dice.choice(sectors))
        case 3:
            return dice.randbytes(_SECTOR)
        case _:
            for _ in range(dice.choice((1, 4))):
                width = dice.choice((2, 4, 8))
                at = dice.randrange(0, _SECTOR - width + 1, width)
                value = dice.choice(_ABSURD) & ((1 << 8 * width) - 1)
                order = "big" if dice.randrange(2) else "little"
                new[at : at + width] = value.to_bytes(width, order)  # type: ignore[arg-type]
    return bytes(new)
