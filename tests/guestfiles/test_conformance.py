"""One suite that every file system passes: what is read from the blocks is what the kernel, or
FUSE, says of the mounted file system."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from guestfiles.conftest import Image
from guestfiles.fiemap import fiemap
from lab.images import mounted
from lab.trees import Changes, Fact, look
from vircpt.errors import NotFound
from vircpt.guestfiles.changes import Rules, Window, classify
from vircpt.guestfiles.entries import Entry, Kind, Trait
from vircpt.guestfiles.filesystem import FileSystem
from vircpt.guestfiles.intervals import Intervals

CLUSTER = 65536
SECOND = 1_000_000_000


def everything(filesystem: FileSystem) -> dict[bytes, Entry]:
    """All entries by path, but NTFS's own files; no path comes twice, parents come first."""
    found: dict[bytes, Entry] = {}
    for entry in filesystem.walk():
        assert entry.path not in found
        assert not entry.path or os.path.dirname(entry.path) in found  # noqa: PTH120
        found[entry.path] = entry
    return {
        path: entry
        for path, entry in found.items()
        if not (filesystem.facts.type == "ntfs" and path.startswith(b"$"))
    }


def test_names_and_facts(image: Image) -> None:
    filesystem = image.open()
    found = everything(filesystem)
    assert filesystem.problems == []
    assert found.keys() == image.truth.keys()
    for path, entry in found.items():
        assert_alike(image, entry, image.truth[path])


def assert_alike(image: Image, entry: Entry, fact: Fact) -> None:
    status = fact.status
    assert entry.target == fact.target
    if image.recipe.type != "exfat":
        assert entry.inode == status.st_ino
    if image.recipe.is_unix:
        mine = (entry.mode, entry.uid, entry.gid, entry.nlink, entry.size)
        assert mine == (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_nlink,
            status.st_size,
        )
        assert (entry.mtime, entry.ctime) == (status.st_mtime_ns, status.st_ctime_ns)
        if entry.device:
            assert os.makedev(*entry.device) == status.st_rdev
    elif entry.kind is Kind.FILE:
        assert (entry.size, entry.nlink) == (status.st_size, status.st_nlink)
        coarse = 2 * SECOND if image.recipe.type == "exfat" else 100
        assert entry.mtime is not None
        assert abs(entry.mtime - status.st_mtime_ns) <= coarse


def test_contents_and_attributes(image: Image) -> None:
    filesystem = image.open()
    for path, entry in everything(filesystem).items():
        fact = image.truth[path]
        if entry.kind is not Kind.FILE or fact.digest == b"large":
            continue
        contents = filesystem.read(entry, 0, entry.size + 10)
        assert len(contents) == entry.size
        assert hashlib.sha256(contents).digest() == fact.digest, path
        if image.recipe.name != "ntfs-64k":  # mounted without streams as attributes
            assert dict(filesystem.xattrs(entry)) == fact.xattrs


def test_pieces_are_the_whole(image: Image) -> None:
    """Reads that begin and end anywhere yield the same bytes; and what extents tell does."""
    filesystem = image.open()
    rng = random.Random(3)
    for name in (b"mixed-1", b"size-1048576", b"size-65537", b"size-59"):
        entry = filesystem.entry(name)
        whole = filesystem.read(entry, 0, entry.size)
        for _ in range(10):
            start = rng.randrange(entry.size)
            length = rng.randrange(100_000)
            assert filesystem.read(entry, start, length) == whole[start : start + length]
        end = 0
        for extent in filesystem.extents(entry):
            assert extent.offset >= end
            end = extent.offset + extent.length
            if extent.place is not None:
                raw = ImageBytes(image.path).at(extent.place, extent.length)
                assert raw == whole[extent.offset : end]


class ImageBytes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def at(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


def test_a_large_sparse_file(image: Image) -> None:
    if not image.recipe.is_unix:
        return
    filesystem = image.open()
    entry = filesystem.entry(b"sparse")
    assert entry.size == (3 << 30) + 4
    assert filesystem.read(entry, 0, 4) == b"head"
    assert filesystem.read(entry, 3 << 30, 100) == b"tail"
    assert not any(filesystem.read(entry, 1 << 30, 1 << 20))
    assert sum(run.length for run in entry.data) < 1 << 20


def test_blocks_are_those_that_the_kernel_tells(image: Image, tmp_path: Path) -> None:
    """Of ext and XFS FIEMAP tells the places on the device; of btrfs logical addresses."""
    if image.recipe.type not in ("ext2", "ext3", "ext4", "xfs"):
        return
    filesystem = image.open()
    entries = everything(filesystem)
    with mounted(image.recipe, image.path, tmp_path / "mnt", read_only=True) as where:
        for path, entry in entries.items():
            if entry.kind is Kind.FILE and not entry.traits & Trait.INLINE:
                told = fiemap(os.path.join(os.fsencode(where), path))  # noqa: PTH118
                assert Intervals(entry.data) == Intervals(told), path


def test_paths(image: Image) -> None:
    filesystem = image.open()
    deep = b"deep/" + b"/".join(b"level-%d" % number for number in range(50))
    assert filesystem.entry(deep).kind is Kind.DIRECTORY
    assert filesystem.entry(b"/" + deep + b"/").path == deep
    assert {entry.path for entry in filesystem.listdir(b"few")} == {
        b"few/0",
        b"few/1",
        b"few/2",
    }
    for missing in (b"nothing", b"few/nothing", b"few/0/nothing", b"deep/../few"):
        with pytest.raises(NotFound):
            filesystem.entry(missing)


def test_the_filtered_walk_finds_the_same(image: Image) -> None:
    """walk(touched) is walk() less what is not touched."""
    filesystem = image.open()
    entries = list(filesystem.walk())
    rng = random.Random(11)
    runs = [run for entry in entries for run in (*entry.data, *entry.metadata)]
    for count in (0, 1, 3, 40):
        touched = Intervals((rng.choice(runs).offset // 4096 * 4096, 4096) for _ in range(count))
        expected = {
            entry.path
            for entry in entries
            if touched.touches_any(entry.data) or touched.touches_any(entry.metadata)
        }
        assert {entry.path for entry in image.open().walk(touched)} == expected


def test_nothing_that_changed_is_missing(image: Image, tmp_path: Path) -> None:
    """Random changes: whatever differs is in the list, whatever is certain differs."""
    path = tmp_path / "changed.img"
    shutil.copyfile(image.path, path)
    # what lies within the margin of a checkpoint may have been before it or after it: nothing does
    margin = SECOND // 10
    time.sleep(2 * margin / SECOND)
    since = time.time_ns()
    time.sleep(2 * margin / SECOND)
    with mounted(image.recipe, path, tmp_path / "mnt") as where:
        Changes(where, seed=5, unix=image.recipe.is_unix).do(60)
    with mounted(image.recipe, path, tmp_path / "mnt", read_only=True) as where:
        after = look(where)
    window = Window(since=since, until=time.time_ns(), margin=margin)
    dirty = clusters_that_differ(image.path, path)
    filesystem = Image(image.recipe, path, after).open()
    changes = {
        entry.path: change
        for entry in filesystem.walk(dirty)
        if (change := classify(entry, dirty, Rules(filesystem.facts, window)))
    }
    assert filesystem.problems == []
    fields = COARSE_FIELDS if image.recipe.type == "exfat" else FIELDS
    differing = {
        name for name, fact in after.items() if differs(image.truth.get(name), fact, fields)
    }
    assert differing
    assert differing <= changes.keys()
    certain = {name for name, change in changes.items() if change.certain}
    assert {name for name in certain if not name.startswith(b"$")} <= differing
    if filesystem.facts.time_margin < SECOND:  # where times are precise most are certain
        assert len(certain & differing) >= len(differing) * 0.9


COARSE_FIELDS: tuple[str, ...] = ("st_size", "st_mtime_ns")
"""exFAT has no inodes: FUSE numbers files anew with each mount."""


FIELDS = (*COARSE_FIELDS, "st_ino", "st_mode", "st_uid", "st_gid", "st_nlink", "st_ctime_ns")


def differs(before: Fact | None, after: Fact, fields: tuple[str, ...]) -> bool:
    """Whether a file at one path is not as it was, access time left aside."""
    if before is None:
        return True
    old, new = before.status, after.status
    return (
        any(getattr(old, field) != getattr(new, field) for field in fields)
        or (before.digest, before.target) != (after.digest, after.target)
        or before.xattrs != after.xattrs
    )


def clusters_that_differ(before: Path, after: Path) -> Intervals:
    """As a dirty bitmap has them, or fewer: what was written with the same bytes is not in it."""
    found = []
    with before.open("rb") as old, after.open("rb") as new:
        offset = 0
        while one := old.read(CLUSTER):
            if one != new.read(CLUSTER):
                found.append((offset, len(one)))
            offset += CLUSTER
    return Intervals(found)
