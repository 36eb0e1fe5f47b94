"""Where fetched files land: a directory that others may write to, names that a guest chose.

Everything is done below one open directory, by descriptors: no symbolic link that stands or is
put there is followed, and an existing file is replaced only if that was asked for. A file
appears under its name when it is whole. Set-user-ID bits and file capabilities stay behind:
a guest's root must not get programs of root onto this host.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from vircpt.errors import InvalidInput, VircptError
from vircpt.guestfiles.entries import Entry, Kind

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o1777
_PRIVILEGED = (b"security.capability", b"trusted.")


@dataclass(frozen=True)
class _Done:
    """A directory whose mode and times are set when nothing more is put into it."""

    path: tuple[bytes, ...]
    entry: Entry
    xattrs: tuple[tuple[bytes, bytes], ...]


class Landing:
    """A directory to put files into; a context manager. Paths are tuples of names below it."""

    def __init__(self, directory: str, *, force: bool = False) -> None:
        try:
            self._base = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidInput(
                f"{directory} is no directory to put files into", why=os.strerror(error.errno or 0)
            ) from error
        self._force = force
        self._later: list[_Done] = []

    def __enter__(self) -> Landing:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                for one in reversed(self._later):
                    self._settle(one)
        finally:
            os.close(self._base)

    def directory(
        self, path: tuple[bytes, ...], entry: Entry, xattrs: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        """Make a directory; one that is there is used. Its mode and times come at the end."""
        with self._parent(path) as parent:
            try:
                os.mkdir(path[-1], 0o700, dir_fd=parent)
            except FileExistsError:
                os.close(_open(path[-1], parent))  # a directory, not a link to one
                return
        self._later.append(_Done(path, entry, xattrs))

    def symlink(self, path: tuple[bytes, ...], entry: Entry) -> None:
        """Make a symbolic link, wherever it points: nothing here follows it."""
        with self._parent(path) as parent:
            if self._force:
                with suppress(FileNotFoundError):
                    os.unlink(path[-1], dir_fd=parent)
            _placing(path, lambda: os.symlink(entry.target or b"", path[-1], dir_fd=parent))
            _own(entry, path[-1], parent)
            _touch(entry, path[-1], parent)

    def link(self, path: tuple[bytes, ...], to: tuple[bytes, ...]) -> None:
        """One more name for a file that was put here before."""
        with self._parent(path) as parent, self._parent(to) as home:
            if self._force:
                with suppress(FileNotFoundError):
                    os.unlink(path[-1], dir_fd=parent)
            _placing(
                path,
                lambda: os.link(
                    to[-1], path[-1], src_dir_fd=home, dst_dir_fd=parent, follow_symlinks=False
                ),
            )

    @contextmanager
    def file(
        self, path: tuple[bytes, ...], entry: Entry, xattrs: tuple[tuple[bytes, bytes], ...]
    ) -> Iterator[int]:
        """A descriptor to write contents to, sparse; the file is there when the block ends well."""
        with self._parent(path) as parent:
            if not self._force:
                _refuse_existing(path, parent)
            temporary = b".vircpt-" + os.urandom(6).hex().encode()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(temporary, flags, 0o600, dir_fd=parent)
            try:
                os.truncate(fd, entry.size)
                yield fd
                _dress(fd, entry, xattrs)
                self._place(temporary, path, parent)
            finally:
                os.close(fd)
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=parent)

    def _place(self, temporary: bytes, path: tuple[bytes, ...], parent: int) -> None:
        if self._force:
            _placing(
                path,
                lambda: os.rename(temporary, path[-1], src_dir_fd=parent, dst_dir_fd=parent),
            )
            return
        # a link fails where a rename would replace what came there meanwhile
        _placing(
            path,
            lambda: os.link(
                temporary, path[-1], src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False
            ),
        )

    def _settle(self, one: _Done) -> None:
        with suppress(VircptError), self._parent(one.path) as parent:
            fd = _open(one.path[-1], parent)
            try:
                _dress(fd, one.entry, one.xattrs)
            finally:
                os.close(fd)

    @contextmanager
    def _parent(self, path: tuple[bytes, ...]) -> Iterator[int]:
        """The open directory that a path's last name is in."""
        fd = os.dup(self._base)
        try:
            for name in path[:-1]:
                fd, above = _open(name, fd), fd
                os.close(above)
            yield fd
        finally:
            os.close(fd)


def _open(name: bytes, parent: int) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as error:
        raise VircptError(
            f"{_shown(name)} is no directory at the destination",
            why="a symbolic link is never followed there"
            if error.errno in (errno.ELOOP, errno.ENOTDIR)
            else os.strerror(error.errno or 0),
        ) from error


def _placing(path: tuple[bytes, ...], work: Callable[[], object]) -> None:
    try:
        work()
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise VircptError(f"cannot make {_shown(b'/'.join(path))}", why=why) from error


def _refuse_existing(path: tuple[bytes, ...], parent: int) -> None:
    try:
        os.stat(path[-1], dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise VircptError(f"cannot make {_shown(b'/'.join(path))}", why=why) from error
    raise _exists(path)


def _exists(path: tuple[bytes, ...]) -> InvalidInput:
    return InvalidInput(
        f"{_shown(b'/'.join(path))} exists already at the destination",
        hint="choose another destination, or replace it with --force",
    )


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _dress(fd: int, entry: Entry, xattrs: tuple[tuple[bytes, bytes], ...]) -> None:
    """Owner if we are root, then mode, attributes where they can be, times."""
    if os.geteuid() == 0:
        os.fchown(fd, entry.uid, entry.gid)
    os.fchmod(fd, stat.S_IMODE(entry.mode) & _MODE)
    for name, value in xattrs:
        if not name.startswith(_PRIVILEGED):
            with suppress(OSError, ValueError):  # where the destination allows it
                os.setxattr(fd, name, value)
    with suppress(OSError, OverflowError):
        os.utime(fd, ns=_times(entry))


def _own(entry: Entry, name: bytes, parent: int) -> None:
    if os.geteuid() == 0:
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)


def _touch(entry: Entry, name: bytes, parent: int) -> None:
    with suppress(OSError, OverflowError):
        os.utime(name, ns=_times(entry), dir_fd=parent, follow_symlinks=False)


def _times(entry: Entry) -> tuple[int, int]:
    modified = entry.mtime or 0
    return entry.atime if entry.atime is not None else modified, modified


def names_of(path: bytes) -> tuple[bytes, ...]:
    """The names in a path that has been checked (messages.check_path)."""
    return tuple(path.split(b"/")) if path else ()


def is_kept(kind: Kind) -> bool:
    """Whether such a thing is copied; devices, FIFOs and sockets of a guest are not."""
    return kind in (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK)
