"""Partition tables made by sfdisk, LVM2 made by lvm, md by the bytes of its documentation."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from guestfiles.conftest import Image
from lab.images import RECIPES, ImageSource, Recipe, loop, run
from vircpt.guestfiles.entries import Kind
from vircpt.guestfiles.intervals import Intervals
from vircpt.guestfiles.layout import Holds, Layout, Role, scan
from vircpt.guestfiles.volumes import Disk, Joined, Mirror, Slice, Striped, Volume

MIB = 1 << 20
BY_NAME = {recipe.name: recipe for recipe in RECIPES}


def blank(path: Path, size: int) -> Path:
    with path.open("xb") as file:
        file.truncate(size)
    return path


def put(image: Path, disk: Path, offset: int) -> None:
    """Copy a file system into a disk, holes kept."""
    run(
        "dd", f"if={image}", f"of={disk}", "bs=64k", "conv=notrunc,sparse",
        f"seek={offset}", "oflag=seek_bytes",
    )  # fmt: skip


def look(*disks: Path) -> Layout:
    return scan({f"vd{chr(97 + at)}": ImageSource(disk) for at, disk in enumerate(disks)})


def sfdisk(disk: Path, script: str) -> None:
    text = disk.with_suffix(".sfdisk")
    text.write_text(script)
    run("sh", "-c", f"sfdisk --quiet {disk} <{text}")


@pytest.fixture
def ext4(images: Callable[[Recipe], Image]) -> Image:
    return images(BY_NAME["ext4-1k"])


def test_gpt(tmp_path: Path, ext4: Image) -> None:
    disk = blank(tmp_path / "disk", 300 * MIB)
    sfdisk(disk, "label: gpt\nstart=2048, size=20480, name=boot\nsize=270336, name=root\n")
    put(ext4.path, disk, 11 * MIB)
    layout = look(disk)
    assert [(area.name, area.role, area.start) for area in layout.areas][:4] == [
        ("vda", Role.DISK, None),
        ("vda:0-1048576", Role.UNPARTITIONED, 0),
        ("vda1", Role.PARTITION, MIB),
        ("vda2", Role.PARTITION, 11 * MIB),
    ]
    assert layout.area("vda1").partition_name == "boot"
    assert layout.area("vda1").content.holds is Holds.EMPTY
    assert layout.area("vda2").content.type == "ext4"
    assert layout.open("vda2").entry(b"few/0").kind is Kind.FILE
    assert sum(area.size for area in layout.areas[1:]) == 300 * MIB
    dirty = {"vda": Intervals([(11 * MIB - 10, 30)])}
    assert list(layout.dirty("vda2", dirty)) == [(0, 20)]
    assert list(layout.dirty("vda1", dirty)) == [(10 * MIB - 10, 10)]


def test_a_gpt_whose_head_is_damaged(tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk", 64 * MIB)
    sfdisk(disk, "label: gpt\nstart=2048, size=20480\n")
    with disk.open("r+b") as file:
        file.seek(512)
        file.write(b"not a table")
    layout = look(disk)
    assert layout.area("vda1").size == 10 * MIB
    assert "damaged" in layout.problems[0]


def test_mbr_with_logical_partitions(tmp_path: Path, ext4: Image) -> None:
    disk = blank(tmp_path / "disk", 400 * MIB)
    sfdisk(
        disk,
        "label: dos\nstart=2048, size=20480, type=82\nstart=24576, type=5\n"
        "start=26624, size=40960\nstart=69632, size=270336\n",
    )
    put(ext4.path, disk, 34 * MIB)
    layout = look(disk)
    names = {area.name: area for area in layout.areas}
    assert {"vda1", "vda2", "vda5", "vda6"} <= names.keys()
    assert names["vda2"].role is Role.EXTENDED
    assert names["vda5"].start == 13 * MIB
    assert names["vda6"].content.type == "ext4"
    assert layout.problems == ()


def test_logical_partitions_in_a_circle(tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk", 64 * MIB)
    sfdisk(disk, "label: dos\nstart=2048, type=5\nstart=4096, size=2048\n")
    with disk.open("r+b") as file:
        for place in (MIB, MIB + 100 * 512):  # the second link leads to itself
            file.seek(place + 446 + 16)
            file.write(struct.pack("<BxxxBxxxII", 0, 5, 100, 2048))
            file.seek(place + 510)
            file.write(b"\x55\xaa")
    assert "circle" in " ".join(look(disk).problems)


@pytest.mark.parametrize(
    ("offset", "magic", "holds", "type_"),
    [
        (0, b"LUKS\xba\xbe\0\2", Holds.ENCRYPTED, "crypto_LUKS"),
        (3, b"-FVE-FS-", Holds.ENCRYPTED, "BitLocker"),
        (3, b"ReFS\0\0\0\0", Holds.UNSUPPORTED, "ReFS"),
        (0x20000, struct.pack("<Q", 0x00BAB10C), Holds.UNSUPPORTED, "zfs_member"),
        (0xFF6, b"SWAPSPACE2", Holds.SWAP, "swap"),
        (0, b"dmvdo001", Holds.UNSUPPORTED, "VDO"),
        (5000, b"something", Holds.UNKNOWN, ""),
    ],
)
def test_what_is_not_read_is_named(
    tmp_path: Path, offset: int, magic: bytes, holds: Holds, type_: str
) -> None:
    disk = blank(tmp_path / "disk", 8 * MIB)
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(magic)
    content = look(disk).area("vda").content
    assert (content.holds, content.type) == (holds, type_)
    assert content.reason or holds is Holds.SWAP


@pytest.fixture
def lvm(tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    """Runs lvm on two disks of 200 MiB and 150 MiB. It writes its metadata alone: there may be
    no device mapper here."""
    disks = [blank(tmp_path / "pv-a", 200 * MIB), blank(tmp_path / "pv-b", 150 * MIB)]
    with ExitStack() as stack:
        devices = [stack.enter_context(loop(disk)) for disk in disks]
        accept = ",".join(f'"a|^{device}$|"' for device in devices)
        (tmp_path / "lvm.conf").write_text(
            f'devices {{ filter=[{accept},"r|.*|"] use_devicesfile=0 '
            "obtain_device_list_from_udev=0 }\n"
            "activation { udev_sync=0 udev_rules=0 monitoring=0 }\n"
            f'global {{ locking_dir="{tmp_path}/lock" event_activation=0 }}\n'
            "backup { backup=0 archive=0 }\n"
        )

        def call(*command: str) -> list[str]:
            done = run(
                "lvm", *command, "--driverloaded", "n",
                LVM_SYSTEM_DIR=str(tmp_path), LVM_SUPPRESS_FD_WARNINGS="1",
            )  # fmt: skip
            return [line.strip() for line in done.splitlines()]

        call("pvcreate", "-q", *devices)
        call("vgcreate", "-q", "vg", *devices)
        yield call


def create(lvm: Callable[..., list[str]], *arguments: str) -> None:
    lvm("lvcreate", "-y", "-an", "-Zn", *arguments, "vg")


def test_lvm_on_two_disks(tmp_path: Path, lvm: Callable[..., list[str]], ext4: Image) -> None:
    """The places of extents are those that lvm itself tells."""
    create(lvm, "-n", "striped", "-i", "2", "-I", "64k", "-l", "6")
    create(lvm, "-n", "first", "-l", "5")
    create(lvm, "-n", "root", "-l", "60")  # goes over to the second disk
    disks = [tmp_path / "pv-a", tmp_path / "pv-b"]
    layout = look(*disks)
    assert layout.problems == ()
    assert {"vg/first", "vg/root", "vg/striped"} <= {area.name for area in layout.areas}
    assert layout.area("vg/root").parents == ("vda", "vdb")
    assert layout.area("vda").users == ("vg/striped", "vg/first", "vg/root")
    extent = 4 * MIB
    rows = lvm(
        "lvs", "-q", "--noheadings", "--segments", "--separator", ";",
        "-o", "lv_name,seg_start_pe,seg_size_pe,seg_pe_ranges",
    )  # fmt: skip
    seen = 0
    for row in rows:
        name, start, size, ranges = row.split(";")
        if name == "striped":
            continue
        device, _, span = ranges.partition(":")
        first = int(span.split("-")[0])
        disk = "vda" if device == rows_first_device(lvm) else "vdb"
        place = MIB + first * extent
        volume = layout.volume(f"vg/{name}")
        assert list(volume.places(int(start) * extent, int(size) * extent)) == [
            (disk, place, int(size) * extent)
        ]
        seen += 1
    assert seen == 3
    write(layout.volume("vg/root"), ext4.path, disks)
    again = look(*disks)
    assert again.area("vg/root").content.type == "ext4"
    assert len(list(again.open("vg/root").walk())) == len(ext4.truth)


def rows_first_device(lvm: Callable[..., list[str]]) -> str:
    return lvm("pvs", "-q", "--noheadings", "-o", "pv_name", "--sort", "-pv_size")[0]


def write(volume: Volume, image: Path, disks: list[Path]) -> None:
    """An image into a volume, by its places."""
    with ExitStack() as stack:
        files = {
            f"vd{chr(97 + at)}": stack.enter_context(disk.open("r+b"))
            for at, disk in enumerate(disks)
        }
        with image.open("rb") as source:
            offset = 0
            while raw := source.read(MIB):
                if any(raw):
                    at = 0
                    for disk, place, length in volume.places(offset, len(raw)):
                        files[disk].seek(place)
                        files[disk].write(raw[at : at + length])
                        at += length
                offset += len(raw)


def test_lvm_with_a_missing_disk(tmp_path: Path, lvm: Callable[..., list[str]]) -> None:
    create(lvm, "-n", "root", "-l", "60")
    layout = look(tmp_path / "pv-a")
    assert layout.area("vg/root").content.holds is Holds.UNSUPPORTED
    assert "missing" in " ".join(layout.problems)


def member(size: int, array: bytes, **fields: int) -> bytearray:
    """A disk with a version 1.2 superblock, by its documentation."""
    raw = bytearray(size)
    start = fields.get("start", 2048)
    struct.pack_into("<IIII", raw, 4096, 0xA92B4EFC, 1, 0, 0)
    raw[4112:4128] = array
    raw[4128:4134] = b"host:x"
    struct.pack_into(
        "<iIQII", raw, 4096 + 72, fields["level"], fields.get("layout", 0),
        fields["used"], fields.get("chunk", 0), fields["disks"],
    )  # fmt: skip
    struct.pack_into("<QQQ", raw, 4096 + 128, start, size // 512 - start, 8)
    struct.pack_into("<I", raw, 4096 + 160, fields["role"])
    struct.pack_into("<Q", raw, 4096 + 200, fields.get("events", 10))
    struct.pack_into("<I", raw, 4096 + 220, 8)
    struct.pack_into("<8H", raw, 4096 + 256, *range(8))
    return raw


@pytest.mark.parametrize(("level", "holds"), [(1, "ext4"), (0, "ext4"), (-1, "ext4"), (5, "")])
def test_md(tmp_path: Path, ext4: Image, level: int, holds: str) -> None:
    uuid = uuid4().bytes
    size = 140 * MIB
    disks = []
    for role in range(2):
        path = tmp_path / f"disk-{role}"
        raw = member(
            size, uuid, level=level, used=size // 512 - 2048, chunk=128, disks=2, role=role
        )
        path.write_bytes(raw)
        disks.append(path)
    layout = look(*disks)
    assert layout.area("vda").users == ("md/x",)
    if holds:
        volume = layout.volume("md/x")
        if level == 1:
            for disk in disks:
                put(ext4.path, disk, MIB)
        else:
            write(volume, ext4.path, disks)
        layout = look(*disks)
        assert len(list(layout.open("md/x").walk())) == len(ext4.truth)
    else:
        assert layout.area("md/x").content.holds is Holds.UNSUPPORTED
        dirty = {"vda": Intervals(), "vdb": Intervals([(9 * MIB, 1)])}
        assert layout.dirty("md/x", dirty).total == layout.area("md/x").size


def test_a_stale_mirror_is_left_out(tmp_path: Path) -> None:
    uuid, disks = uuid4().bytes, []
    for role, events in enumerate((10, 30)):
        disks.append(tmp_path / f"disk-{role}")
        raw = member(16 * MIB, uuid, level=1, used=30000, disks=2, role=role, events=events)
        disks[-1].write_bytes(raw)
    layout = look(*disks)
    assert "stale" in " ".join(layout.problems)
    assert list(layout.volume("md/x").places(0, 1)) == [("vdb", MIB, 1)]


class Bytes:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.size = len(raw)

    def pread(self, length: int, offset: int) -> bytes:
        return self.raw[offset : offset + length]


def test_projections_never_miss_a_byte() -> None:
    """What is read through a volume from a dirty byte of a disk is dirty in the volume."""
    rng = random.Random(1)
    for _ in range(60):
        disks = {name: Disk(name, Bytes(rng.randbytes(480))) for name in "abc"}
        legs: list[Volume] = [Slice(disk, rng.randrange(40), 400) for disk in disks.values()]
        kinds: list[Volume] = [Joined(legs), Mirror(legs[:2])]
        kinds.append(Striped(legs, rng.choice((8, 16, 50))))
        volume = rng.choice(kinds)
        dirty = {
            name: Intervals([(rng.randrange(480), rng.randrange(60)) for _ in range(3)])
            for name in disks
        }
        projected = volume.project(dirty)
        for offset in range(volume.size):
            places = list(volume.places(offset, 1))
            expected = any(dirty[disk].touches(place, 1) for disk, place, _ in places)
            assert not expected or projected.touches(offset, 1)
            if isinstance(volume, Joined):
                assert projected.touches(offset, 1) == expected
            disk, place, _ = places[0]
            assert bytes(volume.pread(1, offset)) == disks[disk].pread(1, place)


def test_images_stay_as_they_were(ext4: Image, tmp_path: Path) -> None:
    """Looking does not write."""
    copy = tmp_path / "copy"
    shutil.copyfile(ext4.path, copy)
    list(look(copy).open("vda").walk())
    assert copy.read_bytes() == ext4.path.read_bytes()
