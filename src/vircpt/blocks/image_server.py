"""Serving the images of a shut-off domain over NBD, read-only, with a QEMU that has no machine.

One QEMU serves all disks of a domain on one socket, as for a running one. Per disk the
bitmap of the chosen checkpoint is merged into a new one, `backup-TARGET`, that lives in
memory only: whoever reads finds the same name as on a live export. Its share of the image
locks keeps the domain from being started meanwhile.

An image's header is hostile: it may name any file as the one below it. So QEMU runs as the
user that it runs domains as, without privileges, and opens by itself only what that user
may read. What else there is to read is opened by whoever knows that it belongs to the
domain (operations/chain.py), and handed in as a descriptor. Each image below another is
opened explicitly, and a qcow2 image whose data is in another file is refused. Other formats
that name files, such as vmdk, are taken only where the domain's definition says so: their
files are opened by that user.

Not qemu-storage-daemon: it takes no descriptors (7.2), and has no sandbox.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vircpt import knowledge, trace
from vircpt.blocks import headers
from vircpt.blocks.headers import ImageInfo
from vircpt.blocks.images import missing_tool
from vircpt.blocks.monitor import Monitor, Refused, Silence
from vircpt.children import let_go
from vircpt.errors import BrokenChain, NotSupported, VircptError
from vircpt.interrupts import uninterrupted

_START_LIMIT = 15.0
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_LINKS = ("qcow2", "qcow", "qed", "vmdk")
"""Formats that can have an image below them."""


@dataclass(frozen=True)
class User:
    """Who the server runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layer:
    """An image of a chain. `handle`: opened already, for reading; else the server opens it."""

    path: str
    format: str
    handle: int | None = None
    is_block_device: bool = False


@dataclass(frozen=True)
class Endpoint:
    """Where the server listens: a Unix socket, or address and port, with TLS or without."""

    socket: Path | None = None
    address: str | None = None
    port: int | None = None
    tls_dir: str | None = None


class ImageServer:
    """A context manager that starts it; it is killed at the end, unless `keep` was called.

    `mark` is a path, by which it is known in the list of processes; its log goes to `log`.
    With `user` None it runs as we do.
    """

    def __init__(self, program: str, mark: Path, log: Path, user: User | None = None) -> None:
        self._program = program
        self._mark = mark
        self._log = log
        self._user = user
        self._sets = 0

    def __enter__(self) -> ImageServer:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with ExitStack() as undo:
            self._output: BinaryIO = os.fdopen(os.open(self._log, flags, 0o600), "w+b")
            undo.callback(self._output.close)
            # A pair of connected sockets: nobody else can ever connect to this monitor.
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            ours.settimeout(_START_LIMIT)
            with theirs, uninterrupted():  # else a signal could come before we know of it
                self._process = self._run(theirs.fileno())
                undo.callback(self._end)
            self._monitor = Monitor(ours)
            self._call("qmp_capabilities")
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _end(self) -> None:
        if self._process.returncode is None:  # it was not let go
            self._process.kill()
            self._process.wait()

    def keep(self) -> int:
        """From here on it runs by itself, and outlives us; its pid."""
        let_go(self._process)
        return self._process.pid

    def _run(self, handle: int) -> subprocess.Popen[bytes]:
        command = [
            self._program, *marked(self._mark), "-machine", "none,accel=tcg:kvm",
            "-nodefaults", "-no-user-config", "-display", "none", "-S", "-sandbox", _SANDBOX,
            "-chardev", f"socket,id=qmp,fd={handle}", "-mon", "chardev=qmp,mode=control",
        ]  # fmt: skip
        identity: dict[str, Any] = {}
        if self._user:
            identity = {"user": self._user.uid, "group": self._user.gid,
                        "extra_groups": self._user.groups}  # fmt: skip
        trace.tell(f"run: {' '.join(command)}")
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=[handle],
                start_new_session=True,
                cwd="/",
                umask=0o077,
                env={"PATH": os.defpath, "LC_ALL": "C"},  # ours may hold secrets
                **identity,
            )
        except FileNotFoundError as error:
            raise missing_tool(self._program) from error

    def look(self, layer: Layer) -> ImageInfo:
        """What the header of an image says. Raises VircptError with QEMU's own words."""
        self._open("look", layer, below=None)
        try:
            for node in self._call("query-named-block-nodes", flat=True):
                if node["node-name"] == "look":
                    return headers.told(node["image"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise VircptError(
                f"cannot read the image {layer.path}", why="QEMU's answer makes no sense"
            ) from error
        else:
            raise VircptError(f"cannot read the image {layer.path}")
        finally:
            self._call("blockdev-del", node_name="look")
            self._call("blockdev-del", node_name="look-file")

    def open(self, name: str, chain: Sequence[Layer]) -> None:
        """Open a disk, its images from the top, as the node `name`."""
        below = None
        for depth in reversed(range(len(chain))):
            node = f"{name}-{depth}" if depth else name
            self._open(node, chain[depth], below)
            below = node

    def _open(self, name: str, layer: Layer, below: str | None) -> None:
        _refuse_data_file(layer)
        driver = "host_device" if layer.is_block_device else "file"
        path = layer.path if layer.handle is None else self._hand_in(layer.handle)
        self._call("blockdev-add", driver=driver, filename=path, node_name=f"{name}-file",
                   read_only=True, auto_read_only=False)  # fmt: skip
        options: dict[str, Any] = {"backing": below} if layer.format in _LINKS else {}
        try:
            self._call("blockdev-add", driver=layer.format, file=f"{name}-file",
                       node_name=name, read_only=True, **options)  # fmt: skip
        except VircptError:
            with suppress(VircptError):
                self._call("blockdev-del", node_name=f"{name}-file")
            raise

    def _hand_in(self, handle: int) -> str:
        """Give the server a descriptor; the path under which it can be opened there."""
        self._sets += 1
        self._call("add-fd", handle, fdset_id=self._sets)
        return f"/dev/fdset/{self._sets}"

    def add_bitmap(self, node: str, since: str, name: str) -> None:
        """Make the bitmap `name`, which says what `since` says."""
        self._call("block-dirty-bitmap-add", node=node, name=name)
        try:
            self._call("block-dirty-bitmap-merge", node=node, target=name, bitmaps=[since])
        except VircptError as error:
            raise BrokenChain(
                f"the bitmap of checkpoint {since} on disk {node} can't be used",
                why=error.why,
                disk=node,
                checkpoint=since,
                hint="delete the checkpoint, make a new one and start with a full export",
            ) from error

    def listen(self, endpoint: Endpoint) -> None:
        where: dict[str, Any] = {"type": "unix", "data": {"path": str(endpoint.socket)}}
        if not endpoint.socket:
            address = {"host": endpoint.address, "port": str(endpoint.port)}
            where = {"type": "inet", "data": address}
        credentials: dict[str, Any] = {}
        if endpoint.tls_dir:
            self._take_certificates(endpoint.tls_dir)
            credentials["tls_creds"] = "tls"
        self._call("nbd-server-start", addr=where, max_connections=0, **credentials)

    def _take_certificates(self, directory: str) -> None:
        try:
            self._call("object-add", qom_type="tls-creds-x509", id="tls", endpoint="server",
                       dir=directory, verify_peer=True)  # fmt: skip
        except VircptError as error:
            raise NotSupported(
                f"the certificates in {directory} can't be used",
                why=error.why,
                hint="QEMU's user has to be able to read them",
            ) from error

    def export(self, node: str, bitmap: str | None) -> None:
        self._call("block-export-add", type="nbd", id=node, name=node, node_name=node,
                   writable=False, bitmaps=[bitmap] if bitmap else [])  # fmt: skip

    def _call(self, command: str, handle: int | None = None, **arguments: Any) -> Any:
        """Underscores in the names of arguments become QMP's dashes."""
        dashed = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            return self._monitor.call(command, dashed, handle)
        except Refused as error:
            raise _failed(str(error)) from error
        except Silence as error:
            self._output.seek(0)
            said = self._output.read().decode(errors="replace").strip()
            raise _failed(said or "QEMU said nothing, and has ended or hangs") from error


def _refuse_data_file(layer: Layer) -> None:
    """Raise NotSupported if the header names another file, which QEMU would open."""
    if layer.format != "qcow2":
        return
    try:
        found = headers.names_data_file(layer.path, layer.handle)
    except OSError:
        return  # QEMU tells why
    if found:
        raise NotSupported(
            f"the image {layer.path} can't be served while the domain is shut off",
            why="its header names another file, which holds the data",
            hint="start the domain, or leave the disk out with --exclude",
        )


def marked(mark: Path) -> tuple[str, str]:
    """The words of the server's command line by which it is known."""
    return "-name", f"guest={str(mark).replace(',', ',,')}"


def _failed(message: str) -> VircptError:
    riddle = knowledge.recognise(message)
    kind = riddle.error if riddle else VircptError
    return kind(
        "cannot serve the images of the shut-off domain",
        why=message.splitlines()[0],
        hint=riddle.advice() if riddle else None,
    )
