"""Headers of images, made by the real qemu-img, and such as a hostile guest could write."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vircpt.blocks import headers, images
from vircpt.errors import NotSupported, VircptError


def qemu_img(*arguments: object) -> str:
    command = ["qemu-img", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    """An image with all that a header may tell."""
    qemu_img("create", "-f", "raw", tmp_path / "base.img", "4M")
    path = tmp_path / "rich.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", "base.img", path, "4M")
    for name in ("first", "second one"):
        qemu_img("snapshot", "-c", name, path)
    for options in (["foo"], ["-g", "1M", "--disable", "x" * 1023]):
        qemu_img("bitmap", "--add", *options[:-1], path, options[-1])
    return path


@pytest.mark.parametrize("options", ["", "cluster_size=512", "cluster_size=2M", "compat=0.10",
                                     "extended_l2=on", "compression_type=zstd"])  # fmt: skip
def test_it_says_what_qemu_says(options: str, rich: Path, tmp_path: Path) -> None:
    path = rich
    if options:
        path = tmp_path / "other.qcow2"
        more = ("-F", "raw", "-b", "base.img")
        qemu_img("create", "-f", "qcow2", "-o", options, *more, path, "4M")
        qemu_img("snapshot", "-c", "first", path)
        if "compat" not in options:
            qemu_img("bitmap", "--add", path, "foo")
    told = headers.told(json.loads(qemu_img("info", "--output=json", "-f", "qcow2", path)))
    assert headers.read(str(path), "qcow2") == told
    assert told.snapshots
    assert bool(told.bitmaps) == ("compat" not in options)


def test_nothing_that_it_names_is_opened(tmp_path: Path) -> None:
    """qemu-img info, run by root, would open it as root."""
    path, data = tmp_path / "disk.qcow2", tmp_path / "data"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={data}", path, "4M")
    data.unlink()
    os.mkfifo(data)  # who opens it waits
    assert headers.read(str(path), "qcow2").has_data_file
    with pytest.raises(NotSupported, match="can't be removed"):
        images.remove_bitmap(str(path), "foo")


def test_a_bitmap_is_removed_though_the_image_below_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a,b:c.qcow2"
    qemu_img("create", "-f", "qcow2", path, "4M")
    qemu_img("bitmap", "--add", f"file:{path}", "foo")
    backing = 'json:{"driver": "raw", "file": {"driver": "file", "filename": "/nonexistent"}}'
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, f"file:{path}")
    images.remove_bitmap(str(path), "foo")
    found = headers.read(str(path), "qcow2")
    assert (found.bitmaps, found.backing) == ((), backing)


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for image_format in ("raw", "qcow2"):
        with pytest.raises(VircptError, match="neither a file nor a block device"):
            headers.read(str(tmp_path / "fifo"), image_format)
    assert headers.qcow2_version(str(tmp_path / "fifo")) is None


def test_other_formats_are_not_guessed_at(rich: Path) -> None:
    with pytest.raises(VircptError, match="not of vmdk"):
        headers.read(str(rich), "vmdk")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), max_size=12), st.data())
def test_a_hostile_header_is_an_error_in_words_at_worst(
    rich: Path, changes: list[tuple[int, int]], data: st.DataObject
) -> None:
    content = bytearray(rich.read_bytes())
    for position, byte in changes:
        content[position % 512 if data.draw(st.booleans()) else position % 112] = byte
    other = rich.with_name("hostile.qcow2")
    other.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(VircptError):
        headers.read(str(other), "qcow2")
