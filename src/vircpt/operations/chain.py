"""Which images a disk of a shut-off domain consists of, and who may open them.

The domain's definition names the uppermost image, and sometimes those below it. Where it
doesn't, the headers do; and a header is written by whoever QEMU runs as, that is by a guest
that broke out, too. It must not make root open what it likes:

- What the definition names is opened here, as root, and handed on: libvirt gives images to
  root while a domain is off. But not if QEMU's user could have put something else in its
  place.
- Everything else is opened by the server itself, which runs as QEMU's user. If that is root,
  or not known, what only a header names is refused.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vircpt import ways
from vircpt.blocks.headers import ImageInfo
from vircpt.blocks.image_server import ImageServer, Layer, User
from vircpt.errors import NotSupported, VircptError
from vircpt.hypervisor.domain import Disk

_DEEPEST = 200
_PLAIN_FORMATS = ("raw", "qcow2", "qcow", "qed")
"""Formats whose drivers open no file but the one that they are given."""
_PROTOCOL = re.compile(r"[^/]*:")


@dataclass(frozen=True)
class Chain:
    """The images of a disk from the top, each with what its header says."""

    layers: tuple[Layer, ...]
    headers: tuple[ImageInfo, ...]


@contextmanager
def opened(server: ImageServer, disk: Disk, user: User | None) -> Iterator[Chain]:
    """Find a disk's images; those that had to be opened here are closed at the end.

    `user` is who the server runs as, None if that is us. Raises NotSupported for what is no
    file or block device of this host, and for what the server may not open.
    """
    with ExitStack() as handles:
        layers: list[Layer] = []
        headers: list[ImageInfo] = []
        wanted: Layer | None = _top(disk)
        below = list(disk.below)
        defined = True
        while wanted is not None:
            if len(layers) == _DEEPEST:
                raise _refusal(disk, f"there are more than {_DEEPEST} images below each other")
            if not defined and user is None and os.geteuid() == 0:
                raise _refusal(disk, *_unnamed(wanted, layers[-1]))
            layer = _hand_in(wanted, user, handles) if defined else wanted
            try:
                header = server.look(layer)
            except VircptError as error:
                if layer.handle is None and user is not None:
                    _explain(error, disk, layer, layers, defined)
                raise
            layers.append(layer)
            headers.append(header)
            defined = bool(below)
            if below:
                wanted = _defined_below(disk, below.pop(0))
            else:
                wanted = None if disk.is_chain_complete else _below(disk, layer, header)
        yield Chain(tuple(layers), tuple(headers))


def _top(disk: Disk) -> Layer:
    if disk.source is None or disk.source_type not in ("file", "block"):
        raise _refusal(
            disk,
            f"it is of type {disk.source_type}: no file or block device of this host",
            "start the domain, or leave the disk out with --exclude",
        )
    return Layer(disk.source, disk.format, is_block_device=disk.source_type == "block")


def _defined_below(disk: Disk, one: tuple[str, str, str | None]) -> Layer:
    kind, image_format, path = one
    if path is None or kind not in ("file", "block"):
        raise _refusal(disk, f"the image below it is of type {kind}: no file of this host")
    return Layer(path, image_format, is_block_device=kind == "block")


def _below(disk: Disk, layer: Layer, header: ImageInfo) -> Layer | None:
    """The image that a header names; libvirt, too, does not guess its format."""
    if header.backing is None:
        return None
    if _PROTOCOL.match(header.backing):
        raise _refusal(disk, f"{layer.path} lies on {header.backing}, which is no file")
    if header.backing_format is None:
        raise _refusal(
            disk,
            f"the header of {layer.path} names {header.backing} below it, but not its format",
            "set it: qemu-img rebase -u -b FILE -F FORMAT IMAGE",
        )
    if header.backing_format not in _PLAIN_FORMATS:
        raise _refusal(
            disk,
            f"the header of {layer.path} names {header.backing} below it, whose format is "
            f"{header.backing_format}",
            f"name it as <backingStore> in the definition (virsh edit), or start the domain; "
            f"of the formats that headers name vircpt opens {', '.join(_PLAIN_FORMATS)}",
        )
    path = Path(layer.path).parent / header.backing
    return Layer(str(path), header.backing_format, is_block_device=path.is_block_device())


def _explain(
    error: VircptError, disk: Disk, layer: Layer, above: Sequence[Layer], defined: bool
) -> None:
    """Raise NotSupported if the server, which opened the image itself, was not let in."""
    if "Permission denied" not in (error.why or ""):
        return
    if defined:
        why = f"QEMU's user may not read {layer.path}, but could put another file in its place"
        raise _refusal(disk, why, "keep it where only root can write") from error
    raise _refusal(
        disk,
        f"the header of {above[-1].path} names {layer.path} below it, which QEMU's user may "
        "not read, and which the domain's definition does not name",
        "let QEMU's user read it, or name it as <backingStore> in the definition "
        "(virsh edit), or start the domain",
    ) from error


def _unnamed(layer: Layer, above: Layer) -> tuple[str, str]:
    return (
        f"the header of {above.path} names {layer.path} below it, which the domain's definition "
        "does not name, and QEMU's user is root or not known: it could be any file",
        "name it as <backingStore> in the definition (virsh edit), or start the domain",
    )


def _refusal(disk: Disk, why: str, hint: str = "start the domain") -> NotSupported:
    return NotSupported(
        f"disk {disk.target} can't be exported while the domain is shut off",
        why=why,
        disk=disk.target,
        hint=hint,
    )


def _hand_in(layer: Layer, user: User | None, handles: ExitStack) -> Layer:
    """Open it, unless the server can do so with the same right as we, or it is not safe."""
    if user is None:
        return layer
    try:
        if is_replaceable(layer.path, user):
            return layer
        handle = os.open(layer.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise VircptError(
            f"cannot open the image {layer.path}", why=error.strerror or str(error)
        ) from error
    handles.callback(os.close, handle)
    mode = os.fstat(handle).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise NotSupported(f"{layer.path} is neither a file nor a block device")
    return replace(layer, handle=handle, is_block_device=stat.S_ISBLK(mode))


def is_replaceable(path: str, user: User) -> bool:
    """True if that user could put another file in the place of `path`, or of a link on its way.

    Raises OSError if there is no such file.
    """
    return any(_can_replace(step, user) for step in ways.walk(path))


def _can_replace(step: ways.Step, user: User) -> bool:
    directory = step.directory_status
    if user.uid in (0, directory.st_uid):
        return user.uid != 0
    mode = directory.st_mode
    by_group = mode & 0o020 and (directory.st_gid in user.groups or _has_acl(step.directory))
    if not (mode & 0o002 or by_group):
        return False
    return not mode & stat.S_ISVTX or step.status.st_uid == user.uid


def _has_acl(path: str) -> bool:
    """Then the group's bits are the most that anybody named in the list may do."""
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except OSError:
        return False
