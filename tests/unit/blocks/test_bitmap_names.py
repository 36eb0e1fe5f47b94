"""Names of bitmaps read from qcow2 headers: as qemu-img has them, and from hostile files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vircpt.blocks.bitmap_names import bitmap_names

NAMES = ["one", "a rather long name " * 10, "ümlaut", "x"]


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qcow2") / "image.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "64M")
    for name in NAMES:
        qemu_img("bitmap", "--add", path, name)
    return path


def test_as_qemu_img_has_them(image: Path, tmp_path: Path) -> None:
    assert bitmap_names(str(image)) == set(NAMES)
    copy = tmp_path / "copy.qcow2"
    copy.write_bytes(image.read_bytes())
    qemu_img("bitmap", "--remove", copy, "one")
    assert bitmap_names(str(copy)) == set(NAMES) - {"one"}


@pytest.mark.parametrize("options", [["-o", "compat=0.10"], ["-o", "cluster_size=4k"], []])
def test_without_bitmaps(tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "image.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", *options, path, "64M")
    assert bitmap_names(str(path)) == set()


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"\0" * 4096)
    (tmp_path / "empty").touch()
    for path in ("raw", "empty", "nowhere", "."):
        assert bitmap_names(str(tmp_path / path)) == set()


def test_bitmaps_that_are_void(image: Path, tmp_path: Path) -> None:
    """A program that knows no bitmaps wrote to the image, and cleared the bit that says so."""
    data = bytearray(image.read_bytes())
    data[88:96] = bytes(8)
    (tmp_path / "void").write_bytes(data)
    assert bitmap_names(str(tmp_path / "void")) == set()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_hostile_files(image: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(image.read_bytes()[:4096])
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(4, 300))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "hostile"
    path.write_bytes(content[: data.draw(st.integers(0, 4096))])
    assert len(bitmap_names(str(path))) <= 65_535
