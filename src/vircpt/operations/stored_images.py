"""Opening the images of a repository, which somebody else may have made, safely.

Each file is opened by us, without following links, and its header judged: it must be an
image such as vircpt writes, on the very backing file that follows from the manifest. QEMU
is then given the open files and told the chain, and follows no name in a header itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vircpt.blocks import qcow2
from vircpt.blocks.images import OpenChain
from vircpt.errors import BrokenChain, Mismatch, VircptError
from vircpt.repository import chain
from vircpt.repository.store import Stored


@dataclass(frozen=True)
class OpenImage:
    """An image of a backup, open for reading as `handle`."""

    backup: Stored
    path: Path
    handle: int


@contextmanager
def opened_alone(backup: Stored, target: str) -> Iterator[int]:
    """A handle on the image of a disk, whatever is in it; raises Mismatch, BrokenChain."""
    handle = _open(backup.image(target), backup)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def opened(backups: Mapping[str, Stored], backup: Stored, target: str) -> Iterator[list[OpenImage]]:
    """The images that a disk of a backup is read from, from the top.

    Raises BrokenChain if one is missing, Mismatch if one is not what it should be.
    """
    images: list[OpenImage] = []
    try:
        for one in chain.images(backups, backup, target):
            path = one.image(target)
            images.append(OpenImage(one, path, _open(path, backup)))
        for image, below in zip(images, [*images[1:], None], strict=True):
            _judge(image, target, below)
        yield images
    finally:
        for image in images:
            os.close(image.handle)


def check_chain(backups: Mapping[str, Stored], backup: Stored, target: str) -> None:
    """Raise as `opened` does; nothing stays open."""
    with opened(backups, backup, target):
        pass


def for_qemu(images: Sequence[OpenImage]) -> OpenChain:
    """How QEMU is told the chain: each file by its handle, each backing file named by us."""
    node: dict[str, object] | None = None
    for image in reversed(images):
        file = {"driver": "file", "filename": f"/dev/fd/{image.handle}", "locking": "off"}
        node = {"driver": "qcow2", "read-only": True, "file": file, "backing": node}
    assert node is not None
    return OpenChain(node, tuple(image.handle for image in images))


def open_file(path: Path) -> int:
    """A handle on a regular file, reached by no link at the end."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "it is no regular file")
    return handle


def _open(path: Path, backup: Stored) -> int:
    try:
        return open_file(path)
    except FileNotFoundError as error:
        raise BrokenChain(
            f"the chain of backup {backup.id} is broken",
            why=f"{path} is missing",
            hint="bring the file back, or use a backup that does not need it",
        ) from error
    except OSError as error:
        raise Mismatch(f"{path} can't be read", why=error.strerror) from error


def _judge(image: OpenImage, target: str, below: OpenImage | None) -> None:
    try:
        header = qcow2.parse(os.pread(image.handle, qcow2.READ_AHEAD, 0), str(image.path))
    except VircptError as error:
        raise Mismatch(error.what, why=error.why) from error
    expected = image.backup.backing_name(target, below.backup) if below else None
    disk = image.backup.manifest.disk(target)
    why = header.strange
    if header.backing != expected:
        why = f"its backing file is {header.backing!r} and should be {expected!r}"
    elif below and header.backing_format != "qcow2":
        why = f"its backing file's format is {header.backing_format!r}"
    elif disk is None or header.size != disk.size:
        why = f"its disk has {header.size} bytes"
    if why:
        raise Mismatch(f"{image.path} is not what was written", why=why)
