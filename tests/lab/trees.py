"""Trees of files for the tests of guestfiles: a rich one, random changes of it, and a look at
what the kernel says of it."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SIZES = (1, 59, 60, 61, 150, 300, 700, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20)


def write(root: bytes, name: bytes, contents: bytes) -> None:
    """A file with these contents."""
    with open(os.path.join(root, name), "wb") as file:  # noqa: PTH118, PTH123  names are bytes
        file.write(contents)


def fill(where: Path, unix: bool) -> None:
    """All kinds of files; with `unix` also what only Unix has."""
    root = os.fsencode(where)
    rng = random.Random(7)
    for size in _SIZES:
        write(root, b"size-%d" % size, rng.randbytes(size))
    write(root, b"empty", b"")
    write(root, "ünïcödé-\U0001f600".encode(), b"utf-8")
    write(root, b"n" * 255, b"a long name")
    (where / "deep" / "/".join(f"level-{number}" for number in range(50))).mkdir(parents=True)
    (where / "many").mkdir()
    for number in range(1500):
        write(root, b"many/a-file-with-a-longer-name-%04d" % number, b"%d" % number)
    for number in range(0, 1500, 3):
        (where / f"many/a-file-with-a-longer-name-{number:04}").unlink()
    (where / "few").mkdir()
    for number in range(3):
        write(root, b"few/%d" % number, b"few")
    _fragments(where, rng)
    os.utime(where / "size-150", ns=(10**18, 10**18 + 2 * 10**9))
    if unix:
        _fill_unix(where, root, rng)


def _fragments(where: Path, rng: random.Random) -> None:
    """Two files, the blocks of which are mixed."""
    with (where / "mixed-1").open("wb", 0) as one, (where / "mixed-2").open("wb", 0) as other:
        for _ in range(50):
            for file in (one, other):
                file.write(rng.randbytes(8192))
                os.fsync(file.fileno())


def _fill_unix(where: Path, root: bytes, rng: random.Random) -> None:
    write(root, b"not utf-8 \xff\xfe", b"1")
    write(root, b"new\nline", b"2")
    write(root, b"esc\x1b[31m", b"3")
    for length in (1, 59, 60, 61, 1000):
        (where / f"link-{length}").symlink_to("t" * length)
    (where / "hard-link").hardlink_to(where / "size-59")
    os.mkfifo(where / "fifo")
    os.mknod(where / "character", stat.S_IFCHR | 0o644, os.makedev(5, 1))
    os.mknod(where / "block", stat.S_IFBLK | 0o644, os.makedev(259, 70000))
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(where)  # for the limit of a socket's path
        server.bind("socket")
        os.chdir(before)
    with (where / "sparse").open("wb") as file:
        file.write(b"head")
        file.seek(3 << 30)
        file.write(b"tail")
    with (where / "holes").open("wb") as file:
        for number in range(100):
            file.seek(number * 20000)
            file.write(b"%d" % number * 50)
    with (where / "preallocated").open("wb") as file:
        file.write(b"p" * 1000)
        file.flush()
        with suppress(OSError):  # ext2, ext3 can't
            os.posix_fallocate(file.fileno(), 0, 1 << 20)
    os.setxattr(where / "size-59", b"user.small", b"value")
    for name, length in ((b"user.big", 700), (b"user.bigger", 2000), (b"user.biggest", 20000)):
        try:
            os.setxattr(where / "size-300", name, rng.randbytes(length))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.E2BIG):
                raise
    (where / "size-61").chmod(0o4751)
    os.chown(where / "size-61", 70000, 80000)


@dataclass(frozen=True)
class Fact:
    """What the kernel says of one file."""

    status: os.stat_result
    digest: bytes
    target: bytes | None
    xattrs: dict[bytes, bytes]


def look(where: Path) -> dict[bytes, Fact]:
    """All of a mounted tree, by path from its root; the root itself is b""."""
    root = os.fsencode(where)
    found: dict[bytes, Fact] = {}
    for home, directories, files in os.walk(root):
        names = [*directories, *files] + ([b""] if home == root else [])
        for name in names:
            path = os.path.join(home, name) if name else home  # noqa: PTH118
            found[os.path.relpath(path, root) if name else b""] = _fact(path)
    return found


def _fact(path: bytes) -> Fact:
    status = os.lstat(path)
    digest, target = b"", None
    xattrs: dict[bytes, bytes] = {}
    if stat.S_ISREG(status.st_mode):
        digest = digest_of(path) if status.st_size < 1 << 28 else b"large"
        with suppress(OSError):  # exFAT has none
            xattrs = {
                os.fsencode(name): os.getxattr(path, name)
                for name in os.listxattr(path)
                if name.startswith("user.")
            }
    elif stat.S_ISLNK(status.st_mode):
        target = os.readlink(path)  # noqa: PTH115
    return Fact(status, digest, target, xattrs)


def digest_of(path: bytes) -> bytes:
    """Of the contents of a file."""
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").digest()


class Changes:
    """Random changes of a mounted tree: creates, appends, overwrites in place, renames,
    deletes, chmods, truncations."""

    def __init__(self, where: Path, seed: int, unix: bool) -> None:
        self.where = where
        self.rng = random.Random(seed)
        self.files = [
            Path(home, name)
            for home, _, names in os.walk(where)
            for name in sorted(names)
            if stat.S_ISREG((status := Path(home, name).lstat()).st_mode)
            and status.st_size < 1 << 28
        ]
        self.ways = [self.create, self.append, self.overwrite, self.rename, self.delete]
        self.ways += [self.truncate, self.forge]
        if unix:
            self.ways += [self.chmod, self.link]

    def pick(self) -> Path:
        """One that may be changed."""
        return self.rng.choice(self.files)

    def moved(self, old: Path | None, new: Path | None) -> None:
        """Note that a name is gone, or there is a new one."""
        if old is not None:
            self.files.remove(old)
        if new is not None:
            self.files.append(new)

    def do(self, count: int) -> None:
        """So many changes."""
        for _ in range(count):
            self.rng.choice(self.ways)()

    def create(self) -> None:
        home = self.rng.choice([self.where, self.where / "many", self.where / "few"])
        path = home / f"new-{self.rng.randrange(1 << 30)}"
        path.write_bytes(self.rng.randbytes(self.rng.choice(_SIZES)))
        self.moved(None, path)

    def append(self) -> None:
        with self.pick().open("ab") as file:
            file.write(self.rng.randbytes(self.rng.choice(_SIZES)))

    def overwrite(self) -> None:
        path = self.pick()
        with path.open("r+b") as file:
            size = path.stat().st_size
            file.seek(self.rng.randrange(size) if size else 0)
            file.write(self.rng.randbytes(self.rng.choice((1, 100, 5000))))

    def rename(self) -> None:
        path = self.pick()
        new = path.with_name(f"renamed-{self.rng.randrange(1 << 30)}")
        path.rename(new)
        self.moved(path, new)

    def delete(self) -> None:
        path = self.pick()
        path.unlink()
        self.moved(path, None)

    def truncate(self) -> None:
        path = self.pick()
        os.truncate(path, self.rng.randrange(path.stat().st_size + 1))

    def forge(self) -> None:
        """Contents change, and the time of the change says they did not."""
        path = self.pick()
        times = path.stat()
        with path.open("r+b") as file:
            file.write(b"forged")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def chmod(self) -> None:
        self.pick().chmod(self.rng.randrange(0o1000))

    def link(self) -> None:
        path = self.pick()
        new = path.with_name(f"link-to-{self.rng.randrange(1 << 30)}")
        new.hardlink_to(path)
        self.moved(None, new)
