"""New files in directories that others may write to: whole, or not there; never in place of one.

While it is made a file stands in a directory of its own, `.NAME.RANDOM.part`, that nobody
else can enter, and that is only ever reached by its descriptor. So nobody can put a link
into the way of root, who writes, or swap the file before it gets its name.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vircpt.errors import InvalidInput, NotSupported, VircptError, quoted
from vircpt.interrupts import uninterrupted

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Workshop:
    """The private directory, and the way from there to the file's place."""

    def __init__(self, path: Path, parent: int) -> None:
        self._path = path
        self._parent = parent
        short = os.fsencode(path.name)[:200].decode(errors="ignore")
        self._name = f".{short}.{os.urandom(4).hex()}.part"
        self._made = False
        self._keeps_modes = False
        self._kept = False
        self.handle = -1

    def open(self) -> None:
        with uninterrupted():
            ours = self._as_made_here()
            os.mkdir(self._name, 0o700, dir_fd=self._parent)
            self._made = True
        self.handle = os.open(self._name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._parent)
        status = os.fstat(self.handle)
        self._keeps_modes = not ours.st_mode & 0o077
        if (
            status.st_uid != ours.st_uid
            or (self._keeps_modes and status.st_mode & 0o077)
            or os.listdir(self.handle)  # noqa: PTH208
        ):
            raise NotSupported(
                f"somebody meddles with {self._path.parent}",
                why=f"{self._name} is not the directory that was just made there",
                hint="use a directory that nobody else may write to",
            )

    def _as_made_here(self) -> os.stat_result:
        """What a file of ours looks like: over NFS root may be nobody; FAT has no modes."""
        handle = os.open(self._name, _NEW, 0o600, dir_fd=self._parent)
        try:
            return os.fstat(handle)
        finally:
            os.close(handle)
            os.unlink(self._name, dir_fd=self._parent)

    def remove(self) -> None:
        """The directory and what is in it still."""
        if self._kept:
            return
        if self.handle >= 0:
            with suppress(OSError):
                os.unlink(self._path.name, dir_fd=self.handle)
        if self._made:
            with suppress(OSError):
                os.rmdir(self._name, dir_fd=self._parent)

    def place(self) -> None:
        """Close it to others, sync it, give it its name, sync that; without a name it stays."""
        name = self._path.name
        try:
            self._finish(name)
        except OSError as error:  # it can't be trusted to be whole
            raise VircptError(
                f"cannot write {self._path}", why=error.strerror or str(error)
            ) from error
        try:
            self._name_it(name)
            with suppress(OSError):
                os.fsync(self._parent)  # not every file system can
        except OSError as error:
            self._kept = True
            kept = self._path.parent / self._name / name
            raise VircptError(
                f"{self._path} is made, but can't be put in place",
                why=error.strerror or str(error),
                hint=f"it is whole: mv -n {quoted(str(kept))} NEW-NAME",
            ) from error

    def _finish(self, name: str) -> None:
        """Where a directory hands down an access list no umask kept others out."""
        handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.handle)
        try:
            if self._keeps_modes:
                os.fchmod(handle, 0o600)
            os.fsync(handle)
        finally:
            os.close(handle)

    def _name_it(self, name: str) -> None:
        """A link fails where a rename would replace what came there meanwhile.

        Where there are no hard links: a rename onto a new file of our own.
        """
        both: dict[str, Any] = {"src_dir_fd": self.handle, "dst_dir_fd": self._parent}
        try:
            os.link(name, name, **both)
        except FileExistsError:
            raise
        except OSError:
            os.close(os.open(name, _NEW, 0o600, dir_fd=self._parent))
            try:
                os.rename(name, name, **both)  # noqa: PTH104
            except BaseException:
                os.unlink(name, dir_fd=self._parent)
                raise


@contextmanager
def placed(path: Path) -> Iterator[tuple[Path, int]]:
    """Make a new file at `path`: yields where to write it, and the descriptor that this needs.

    The path leads through /proc/self/fd: it is for us and for children that inherit the
    descriptor. When the block ends well the file is put in place; else nothing is left.
    Raises InvalidInput if there is a file already, or no such directory. If it can't be put
    in place it is kept, and the VircptError names where.
    """
    path = path.absolute()  # a relative a:b would be a protocol to qemu-img
    _refuse_existing(path)
    parent = _open_parent(path)
    try:
        workshop = _Workshop(path, parent)
        try:
            _open(workshop, path)
            yield Path(f"/proc/self/fd/{workshop.handle}/{path.name}"), workshop.handle
            with uninterrupted():
                workshop.place()
        finally:
            with uninterrupted():
                workshop.remove()
                if workshop.handle >= 0:
                    os.close(workshop.handle)
    finally:
        os.close(parent)


def _open(workshop: _Workshop, path: Path) -> None:
    try:
        workshop.open()
    except OSError as error:
        raise VircptError(f"cannot make {path}", why=error.strerror or str(error)) from error


def _open_parent(path: Path) -> int:
    try:
        return os.open(path.parent, _DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise InvalidInput(f"{path.parent} is no directory", hint="make it first") from error
        raise VircptError(f"cannot make {path}", why=error.strerror or str(error)) from error


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise InvalidInput(f"{path} exists already", hint="choose another name")
