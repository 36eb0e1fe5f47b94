"""Files land below the destination, whatever stands there and whatever they are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vircpt.errors import InvalidInput, VircptError
from vircpt.guestfiles.entries import Entry, Kind
from vircpt.operations.diff import matches
from vircpt.operations.fetch import GuestPath, parse
from vircpt.operations.landing import Landing

SECOND = 1_000_000_000


def entry(kind: Kind = Kind.FILE, size: int = 0, target: bytes | None = None) -> Entry:
    mode = {Kind.FILE: 0o106755, Kind.DIRECTORY: 0o40750}.get(kind, 0o120777)
    return Entry(
        b"", kind, 5, 0, size, mode, os.getuid(), os.getgid(), 1,
        1000 * SECOND + 1, None, 2000 * SECOND, None, (), (), target,
    )  # fmt: skip


def put(landing: Landing, *path: bytes, data: bytes = b"new") -> None:
    with landing.file(path, entry(size=len(data)), ((b"user.a", b"b"),)) as fd:
        os.pwrite(fd, data, 0)


def test_a_file_gets_contents_mode_times_and_attributes(tmp_path: Path) -> None:
    with Landing(str(tmp_path)) as landing:
        put(landing, b"one")
    facts = (tmp_path / "one").stat()
    assert (tmp_path / "one").read_bytes() == b"new"
    assert facts.st_mode & 0o7777 == 0o755, "neither set-user-ID nor set-group-ID"
    assert (facts.st_mtime_ns, facts.st_atime_ns // SECOND) in [
        (1000 * SECOND + 1, 2000), (1000 * SECOND + 1, facts.st_atime_ns // SECOND)
    ]  # fmt: skip
    assert [one.name for one in tmp_path.iterdir()] == ["one"]


def test_directories_get_their_mode_and_times_at_the_end(tmp_path: Path) -> None:
    with Landing(str(tmp_path)) as landing:
        landing.directory((b"d",), entry(Kind.DIRECTORY), ())
        put(landing, b"d", b"one")
    facts = (tmp_path / "d").stat()
    assert facts.st_mode & 0o7777 == 0o750
    assert facts.st_mtime_ns == 1000 * SECOND + 1


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        Landing(str(tmp_path)) as landing,
        landing.file((b"one",), entry(size=3), ()),
    ):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("old")
    (tmp_path / "dangling").symlink_to("nowhere")
    with Landing(str(tmp_path)) as landing:
        for name in (b"one", b"dangling"):
            with pytest.raises(InvalidInput, match="exists already"):
                put(landing, name)
            with pytest.raises(InvalidInput, match="exists already"):
                landing.symlink((name,), entry(Kind.SYMLINK, target=b"x"))
            with pytest.raises(InvalidInput, match="exists already"):
                landing.link((name,), (b"one",))
    assert (tmp_path / "one").read_text() == "old"
    assert not (tmp_path / "nowhere").exists()


def test_one_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def race() -> None:
        with Landing(str(tmp_path)) as landing, landing.file((b"one",), entry(size=3), ()) as fd:
            os.pwrite(fd, b"new", 0)
            (tmp_path / "one").write_text("faster")

    with pytest.raises(InvalidInput, match="exists already"):
        race()
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("one", "faster")]


def test_links_at_the_destination_are_not_followed(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    (home / "d").symlink_to(elsewhere)
    with Landing(str(home), force=True) as landing:
        with pytest.raises(VircptError, match="never followed"):
            landing.directory((b"d",), entry(Kind.DIRECTORY), ())
        with pytest.raises(VircptError, match="never followed"):
            put(landing, b"d", b"one")
    assert list(elsewhere.iterdir()) == []


def test_with_force_a_link_is_replaced_not_what_it_points_at(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "one").symlink_to("mine")
    with Landing(str(tmp_path), force=True) as landing:
        put(landing, b"one")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "one").read_bytes() == b"new"
    assert not (tmp_path / "one").is_symlink()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/etc/passwd", GuestPath(None, b"etc/passwd")),
        ("vm:/etc", GuestPath(None, b"etc")),
        ("vm:vda1:/etc", GuestPath("vda1", b"etc")),
        ("vg0/root:/etc//x/.", GuestPath("vg0/root", b"etc/x")),
        ("vda1:", GuestPath("vda1", b"")),
        ("/", GuestPath(None, b"")),
        ("etc", GuestPath(None, b"etc")),
        ("/a:b", GuestPath(None, b"a:b")),
        ("/bad\udcff", GuestPath(None, b"bad\xff")),
    ],
)
def test_paths_of_guests(text: str, path: GuestPath) -> None:
    assert parse(text) == path


def test_paths_that_lead_upwards_are_refused() -> None:
    with pytest.raises(InvalidInput):
        parse("vm:/a/../../b")


@pytest.mark.parametrize(
    ("path", "glob", "wanted"),
    [
        (b"etc/passwd", "/etc", True),
        (b"etc/passwd", "/etc/", True),
        (b"etc/passwd", "*.conf", False),
        (b"etc/a/b.conf", "*.conf", True),
        (b"etcetera", "/etc", False),
        (b"home/x/etc/y", "etc", True),
        (b"a\xff", "/a*", True),
    ],
)
def test_globs(path: bytes, glob: str, wanted: bool) -> None:
    assert matches(path, [glob]) is wanted
    assert matches(path, [])
