"""Images at rest, with a real qemu-img: headers, overlays, copies that replace nothing."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import serving
from vircpt.blocks import headers, images, nbd
from vircpt.blocks.headers import StoredBitmap
from vircpt.blocks.image_server import Endpoint
from vircpt.errors import InvalidInput, NotSupported, VircptError

# the daemon outlives the object that started it
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

MIB = 1024 * 1024


def names_in(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir())


def qemu_img(*arguments: object) -> None:
    subprocess.run(
        ["qemu-img", *map(str, arguments)], check=True, capture_output=True, timeout=30
    )  # fmt: skip


def readable_by_all(directory: Path) -> None:
    """Give it a default access list, as `setfacl -d -m u:nobody:rwx`: umasks mean nothing."""
    entries = [(0x01, 7, -1), (0x02, 7, 65534), (0x04, 5, -1), (0x10, 7, -1), (0x20, 4, -1)]
    packed = b"".join(struct.pack("<HHi", *one) for one in entries)
    os.setxattr(directory, "system.posix_acl_default", struct.pack("<I", 2) + packed)


@pytest.fixture
def qcow2(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", path, "4M")
    return path


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An export of 4 MiB: one of 0x5a, then three of zeroes."""
    directory = tmp_path_factory.mktemp("served")
    path = directory / "disk.img"
    path.write_bytes(b"\x5a" * MIB + b"\0" * 3 * MIB)
    endpoint = Endpoint(socket=directory / "nbd.sock")
    pid = serving.start(directory / "server", endpoint, serving.Served("vda", str(path), "raw"))
    yield nbd.unix_uri("vda", str(endpoint.socket))
    serving.end(pid)


def read_raw(path: Path, image_format: str) -> bytes:
    done = subprocess.run(
        ["qemu-img", "dd", "-f", image_format, "-O", "raw", f"if={path}", f"of={path}.dd"],
        capture_output=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(f"{path}.dd").read_bytes()


def test_the_header_of_a_qcow2_image(qcow2: Path) -> None:
    found = headers.read(str(qcow2), "qcow2")
    assert (found.path, found.format, found.size) == (str(qcow2), "qcow2", 4 * MIB)
    assert found.compat == "1.1"
    assert found.bitmaps == ()


def test_the_header_of_an_old_qcow2_image(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", "-o", "compat=0.10", tmp_path / "old.qcow2", "1M")
    assert headers.read(str(tmp_path / "old.qcow2"), "qcow2").compat == "0.10"


def test_a_raw_image_has_a_size_and_no_bitmaps(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(2 * MIB))
    found = headers.read(str(path), "raw")
    assert (found.format, found.size, found.compat, found.bitmaps) == ("raw", 2 * MIB, None, ())


def test_a_raw_image_that_looks_like_qcow2_is_raw(qcow2: Path) -> None:
    """A guest can write a qcow2 header into its raw disk: nothing may be guessed."""
    assert headers.read(str(qcow2), "raw").format == "raw"


def test_bitmaps_are_listed(qcow2: Path) -> None:
    qemu_img("bitmap", "--add", qcow2, "foo")
    qemu_img("bitmap", "--add", "-g", "128k", "--disable", qcow2, "bar baz")
    assert headers.read(str(qcow2), "qcow2").bitmaps == (
        StoredBitmap("foo", 65536, in_use=False),
        StoredBitmap("bar baz", 131072, in_use=False, enabled=False),
    )


def test_the_header_is_read_while_the_image_is_in_use(qcow2: Path) -> None:
    qemu_img("bitmap", "--add", qcow2, "foo")
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(qcow2)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdin
        assert writer.stdout
        writer.stdin.write(b"write 0 64k\n")
        writer.stdin.flush()
        writer.stdout.readline()
        found = headers.read(str(qcow2), "qcow2")
        writer.stdin.close()
    assert found.bitmaps == (StoredBitmap("foo", 65536, in_use=True),)


@pytest.mark.parametrize("name", ["-version", "a b", "ä", "a,b", "a'b"])
def test_odd_names_are_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(bytes(512))
    assert headers.read(name, "raw").size == 512


def test_a_missing_image_fails_in_words(tmp_path: Path) -> None:
    with pytest.raises(VircptError, match="cannot read the image") as caught:
        headers.read(str(tmp_path / "none"), "qcow2")
    assert "No such file" in str(caught.value)


def test_what_is_no_qcow2_fails_in_words(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(os.urandom(4096))
    with pytest.raises(VircptError, match="not in qcow2 format"):
        headers.read(str(path), "qcow2")


def test_a_missing_tool_is_named_with_its_package(
    qcow2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotSupported, match="the program qemu-img is missing") as caught:
        images.remove_bitmap(str(qcow2), "foo")
    assert caught.value.hint == "apt-get install qemu-utils"
    with pytest.raises(NotSupported, match="nbdinfo is missing") as caught:
        images.nbdinfo("nbd://x")
    assert caught.value.hint == "apt-get install libnbd-bin"


@pytest.mark.parametrize("image_format", images.FORMATS)
def test_a_copy_holds_the_same_bytes(image_format: str, uri: str, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    images.copy(uri, path, image_format)
    assert headers.read(str(path), image_format).size == 4 * MIB
    assert read_raw(path, image_format) == b"\x5a" * MIB + b"\0" * 3 * MIB


def test_a_raw_copy_is_sparse(uri: str, tmp_path: Path) -> None:
    images.copy(uri, tmp_path / "copy.img", "raw")
    assert (tmp_path / "copy.img").stat().st_blocks * 512 < 2 * MIB


def test_a_copy_tells_its_progress(uri: str, tmp_path: Path) -> None:
    told: list[float] = []
    images.copy(uri, tmp_path / "copy.img", "raw", told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert all(0 <= part <= 1 for part in told)


def test_an_overlay_reads_from_the_export_and_takes_writes(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "overlay.qcow2"
    images.create_overlay(path, uri)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "read -P 0x5a 0 1M", "-c", "write -P 1 0 64k",
         "-c", "read -P 1 0 64k", str(path)],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip


def _make(verb: str, uri: str, path: Path) -> None:
    if verb == "copy":
        images.copy(uri, path, "qcow2")
    else:
        images.create_overlay(path, uri)


def _plant(kind: str, path: Path) -> None:
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
@pytest.mark.parametrize("verb", ["copy", "overlay"])
def test_what_exists_is_never_replaced(kind: str, verb: str, uri: str, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    _plant(kind, path)
    with pytest.raises(InvalidInput, match="exists already"):
        _make(verb, uri, path)
    assert names_in(tmp_path) == ["disk.qcow2"]
    assert kind != "file" or path.read_text() == "precious"


def test_what_comes_there_meanwhile_is_not_replaced(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "copy.img"

    def interfere(_part: float) -> None:
        path.write_text("precious")

    with pytest.raises(VircptError, match="File exists") as caught:
        images.copy(uri, path, "raw", interfere)
    assert path.read_text() == "precious"
    (kept,) = (one for one in tmp_path.iterdir() if one != path)
    assert caught.value.hint == f"it is whole: mv -n {kept}/copy.img NEW-NAME"
    assert (kept / "copy.img").read_bytes() == b"\x5a" * MIB + b"\0" * 3 * MIB


def test_nobody_else_gets_at_a_copy_that_is_made(uri: str, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    def look(_part: float) -> None:
        (part,) = tmp_path.iterdir()
        told.append((stat.S_IMODE(part.stat().st_mode), part.stat().st_uid))

    images.copy(uri, tmp_path / "copy.img", "raw", look)
    assert set(told) == {(0o700, os.geteuid())}
    assert stat.S_IMODE((tmp_path / "copy.img").stat().st_mode) == 0o600


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_the_owner_of_the_directory_cannot_lead_a_copy_astray(
    image_format: str, uri: str, tmp_path: Path
) -> None:
    """They rename what is being made, and put a link to somebody else's file in its place."""
    place, victim = tmp_path / "place", tmp_path / "victim"
    place.mkdir()
    victim.mkdir()
    (victim / "copy").write_text("precious")

    def interfere(_part: float) -> None:
        if not (place / "away").exists():
            (part,) = place.iterdir()
            part.rename(place / "away")
            part.symlink_to(victim)

    images.copy(uri, place / "copy", image_format, interfere)
    assert (victim / "copy").read_text() == "precious"
    assert (victim / "copy").stat().st_nlink == 1
    assert read_raw(place / "copy", image_format) == b"\x5a" * MIB + b"\0" * 3 * MIB


def test_without_hard_links_it_is_renamed(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    images.copy(uri, tmp_path / "copy.img", "raw")
    assert names_in(tmp_path) == ["copy.img"]


def test_errors_name_the_file_by_its_own_name(uri: str) -> None:
    with pytest.raises(VircptError) as caught:
        images.copy(uri, Path("/dev/full/copy.img"), "raw")
    assert "/proc/self" not in caught.value.describe()


def test_a_failed_copy_leaves_nothing(tmp_path: Path) -> None:
    missing = nbd.unix_uri("vda", str(tmp_path / "nbd.sock"))
    with pytest.raises(VircptError, match="cannot copy to"):
        images.copy(missing, tmp_path / "copy.img", "raw")
    assert names_in(tmp_path) == []


def test_a_failed_overlay_leaves_nothing(tmp_path: Path) -> None:
    missing = nbd.unix_uri("vda", str(tmp_path / "nbd.sock"))
    with pytest.raises(VircptError, match="cannot make the overlay"):
        images.create_overlay(tmp_path / "overlay.qcow2", missing)
    assert names_in(tmp_path) == []


def test_an_interrupted_copy_leaves_nothing(uri: str, tmp_path: Path) -> None:
    def interrupt(_part: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.copy(uri, tmp_path / "copy.img", "raw", interrupt)
    assert names_in(tmp_path) == []


def test_the_directory_must_be_there(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is no directory"):
        images.copy(uri, tmp_path / "none" / "copy.img", "raw")


def test_an_unknown_format_is_refused_before_anything_happens(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no format 'vmdk'"):
        images.copy("nbd://nowhere", tmp_path / "x", "vmdk")
    assert names_in(tmp_path) == []


def test_a_long_name_is_possible(uri: str, tmp_path: Path) -> None:
    path = tmp_path / ("a" * 250)
    images.create_overlay(path, uri)
    assert path.is_file()


def test_nbdinfo_tells_of_an_export(uri: str) -> None:
    assert "export-size: 4194304" in images.nbdinfo(uri)
    assert '"export-size": 4194304' in images.nbdinfo(uri, as_json=True)


def test_nbdinfo_of_nothing_fails_in_words(tmp_path: Path) -> None:
    with pytest.raises(VircptError, match="nbdinfo failed"):
        images.nbdinfo(nbd.unix_uri("vda", str(tmp_path / "nbd.sock")))


def test_nbdinfo_tells_of_an_export_where_there_is_no_file(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = shutil.which("nbdinfo")
    assert tool
    (tmp_path / "nbdinfo").symlink_to(tool)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "export-size: 4194304" in images.nbdinfo(uri)
    assert "content:" not in images.nbdinfo(uri)


def test_an_overlay_in_an_open_file(tmp_path: Path) -> None:
    """Written through the handle, whatever stands at the path by then."""
    path = tmp_path / "overlay"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    path.rename(tmp_path / "moved")
    images.format_overlay(handle, "nbd+unix:///vda?socket=/nowhere", 1 << 20)
    os.close(handle)
    assert not path.exists()
    assert headers.read(str(tmp_path / "moved"), "qcow2").size == 1 << 20


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_copy_is_nobody_elses_to_read_whatever_the_directory_hands_down(
    uri: str, tmp_path: Path, image_format: str
) -> None:
    readable_by_all(tmp_path)
    (tmp_path / "probe").touch(0o666)
    assert stat.S_IMODE((tmp_path / "probe").stat().st_mode) & 0o004, "the list has no effect here"
    images.copy(uri, tmp_path / "copy", image_format)
    images.create_overlay(tmp_path / "overlay", uri)
    for name in ("copy", "overlay"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600  # group: the list's mask
