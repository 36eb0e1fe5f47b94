"""Writing files so that they are whole or not there; modes for nobody else's eyes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


def create(path: Path) -> int:
    """A handle on a new file; fails if anything is there, a link too."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, FILE_MODE)


def write_new(path: Path, data: bytes) -> None:
    """Write a new file, and sync it."""
    with os.fdopen(create(path), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Write a file that may be there already: readers see the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        write_new(temporary, data)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Have the names in a directory on disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_tree(path: Path, onerror: Callable[..., object] | None = None) -> None:
    """Remove a directory and all in it, following no links; nothing happens if it isn't there."""
    import shutil

    shutil.rmtree(path, ignore_errors=onerror is None, onerror=onerror)
