"""Hostile and damaged images: whatever bytes are flipped, all ends in time, with entries,
problems or an error of vircpt."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from guestfiles.conftest import Image
from lab.images import RECIPES, ImageSource, Recipe
from vircpt.errors import VircptError
from vircpt.guestfiles.changes import Rules, classify
from vircpt.guestfiles.filesystems import open_in
from vircpt.guestfiles.intervals import Intervals
from vircpt.guestfiles.layout import scan

ROUNDS = int(os.environ.get("VIRCPT_ROUNDS", "12"))
"""Images of each kind; script/soak asks for more."""
LIMIT = 20
"""Seconds for one image, on a busy machine."""
_NAMES = ("ext4", "ext4-inline", "ext2", "xfs", "btrfs-lzo", "ntfs", "exfat")


class Flipped:
    """An image, some bytes of which are others."""

    def __init__(self, source: ImageSource, flips: dict[int, int]) -> None:
        self._source = source
        self._flips = sorted(flips.items())
        self.size = source.size

    def pread(self, length: int, offset: int) -> bytes:
        raw = bytearray(self._source.pread(length, offset))
        for place, byte in self._flips:
            if offset <= place < offset + length:
                raw[place - offset] = byte
        return bytes(raw)


@pytest.fixture(params=[one for one in RECIPES if one.name in _NAMES], ids=lambda one: one.name)
def image(request: pytest.FixtureRequest, images: Callable[[Recipe], Image]) -> Image:
    return images(request.param)


def places(image: Image, rng: random.Random) -> list[int]:
    """Bytes worth a flip: superblocks, inodes, directories, trees."""
    filesystem = image.open()
    runs = [run for entry in filesystem.walk() for run in entry.metadata]
    runs += [run for entry in filesystem.walk() if entry.kind == "directory" for run in entry.data]
    runs += [region.run for region in filesystem.regions() if region.kind == "superblock"]
    heads = [rng.randrange(512), 1024 + rng.randrange(300), 65536 + rng.randrange(900)]
    heads += [4096 + rng.randrange(64)]
    return heads + [run.offset + rng.randrange(min(run.length, 4096)) for run in runs]


def read_all(source: Flipped) -> None:
    """What diff, ls and cat do, on all of it."""
    layout = scan({"vda": source})
    for area in layout.filesystems():
        filesystem = layout.open(area.name)
        touched = Intervals([(0, 1 << 20), (source.size // 2, 1 << 20)])
        rules = Rules(filesystem.facts, None)
        for count, entry in enumerate(filesystem.walk()):
            classify(entry, touched, rules)
            if count % 20 == 0:
                try:
                    filesystem.read(entry, 0, 100_000)
                    filesystem.xattrs(entry)
                except VircptError:
                    continue
        for entry in layout.open(area.name).walk(touched):
            classify(entry, touched, rules)
        filesystem.used()


def flips(rng: random.Random, where: list[int]) -> dict[int, int]:
    """One byte, or several; zeroes, ones, or anything."""
    count = rng.choice((1, 1, 2, 8, 64))
    return {rng.choice(where): rng.choice((0, 0xFF, rng.randrange(256))) for _ in range(count)}


def test_flipped_bytes_do_no_harm(image: Image) -> None:
    rng = random.Random(image.recipe.name)
    where = places(image, rng)
    for _ in range(ROUNDS):
        chosen = flips(rng, where[:4] if rng.random() < 0.3 else where)
        started = time.process_time()
        signal.alarm(LIMIT * 4)
        try:
            read_all(Flipped(ImageSource(image.path), chosen))
        except VircptError:
            pass
        finally:
            signal.alarm(0)
        assert time.process_time() - started < LIMIT, chosen


def test_damage_at_one_place_hides_nothing_elsewhere(image: Image) -> None:
    """A file whose inode is unreadable is still in the list of what may have changed."""
    filesystem = image.open()
    victim = filesystem.entry(b"size-65537")
    place, length = victim.metadata[0]
    if image.recipe.type in ("btrfs", "exfat"):
        return  # a leaf, or the directory itself, goes with all that it holds
    damaged = Flipped(ImageSource(image.path), dict.fromkeys(range(place, place + length), 0xFF))
    again = open_in(damaged, image.recipe.type)
    touched = Intervals([(place, length)])
    assert b"size-65537" in {entry.path for entry in again.walk(touched)}
