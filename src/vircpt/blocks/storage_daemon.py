"""Serving the images of a shut-off domain over NBD, read-only, with qemu-storage-daemon.

One daemon serves all disks of a domain on one socket, as QEMU does for a running one. Per
disk the bitmap of the chosen checkpoint is merged into a new one, `backup-TARGET`, that
lives in the daemon's memory only: whoever reads finds the same name as on a live export.
The daemon's share of the image locks keeps the domain from being started meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vircpt import knowledge, trace
from vircpt.blocks.images import missing_tool
from vircpt.children import let_go
from vircpt.errors import BrokenChain, VircptError

_START_LIMIT = 15.0


@dataclass(frozen=True)
class Served:
    """An image to serve: as export `name`, with the bitmap `since` as `bitmap` if given."""

    name: str
    path: str
    format: str
    is_block_device: bool = False
    since: str | None = None
    bitmap: str | None = None


@dataclass(frozen=True)
class Endpoint:
    """Where the daemon listens: a Unix socket, or address and port, with TLS or without."""

    socket: Path | None = None
    address: str | None = None
    port: int | None = None
    tls_dir: str | None = None


def start(mark: Path, endpoint: Endpoint, images: Sequence[Served]) -> int:
    """Start the daemon; return its pid once it serves. It outlives this process.

    `mark` is a path in a private directory: the daemon writes its pid there, and is known by
    that path in its command line; its log goes beside it. Raises Busy if the domain was
    started meanwhile, BrokenChain if a bitmap can't be used.
    """
    log = mark.with_suffix(".log")
    # A pair of connected sockets: a daemon that starts while somebody connects to a listening
    # one of its own may wait in accept() for ever (QEMU 7.2, one start in a hundred).
    ours, theirs = socket.socketpair()
    ours.settimeout(_START_LIMIT)
    command = _command(mark, theirs.fileno(), images)
    trace.tell(f"run: {' '.join(command)}")
    try:
        handle = os.open(log, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w+b") as output, theirs, ours:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
            )
            theirs.close()
            _set_up(process, ours, output, endpoint, images)
    except FileNotFoundError as error:
        raise missing_tool("qemu-storage-daemon") from error
    let_go(process)
    return process.pid


def _set_up(
    process: subprocess.Popen[bytes],
    connection: socket.socket,
    output: BinaryIO,
    endpoint: Endpoint,
    images: Sequence[Served],
) -> None:
    try:
        with _Monitor(connection) as monitor:
            for image in images:
                _add_bitmap(monitor, image)
            _listen(monitor, endpoint)
            for image in images:
                _export(monitor, image)
    except BaseException as error:
        process.kill()
        process.wait()
        if isinstance(error, _Silence):
            output.seek(0)
            raise _failed(output.read().decode(errors="replace").strip()) from error
        raise


def _command(mark: Path, handle: int, images: Sequence[Served]) -> list[str]:
    command = ["qemu-storage-daemon"]
    for image in images:
        driver = "host_device" if image.is_block_device else "file"
        protocol = {"driver": driver, "node-name": f"file-{image.name}", "filename": image.path,
                    "read-only": True, "auto-read-only": False}  # fmt: skip
        node = {"driver": image.format, "node-name": image.name, "file": f"file-{image.name}",
                "read-only": True}  # fmt: skip
        command += ["--blockdev", json.dumps(protocol), "--blockdev", json.dumps(node)]
    command += ["--chardev", f"socket,id=qmp,fd={handle}", "--monitor", "chardev=qmp"]
    return [*command, *marked(mark)]


def marked(mark: Path) -> tuple[str, str]:
    """The words of the daemon's command line by which it is known."""
    return "--pidfile", str(mark)


class _Silence(Exception):
    """The daemon ended or hangs; what it has to say stands in its log."""


def _failed(message: str) -> VircptError:
    riddle = knowledge.recognise(message)
    lines = message.splitlines() or ["it said nothing"]
    kind = riddle.error if riddle else VircptError
    return kind(
        "cannot serve the images of the shut-off domain",
        why=lines[0],
        hint=riddle.advice() if riddle else None,
    )


def _add_bitmap(monitor: _Monitor, image: Served) -> None:
    if not image.since:
        return
    monitor.call("block-dirty-bitmap-add", node=image.name, name=image.bitmap)
    try:
        monitor.call("block-dirty-bitmap-merge", node=image.name, target=image.bitmap,
                     bitmaps=[image.since])  # fmt: skip
    except VircptError as error:
        raise BrokenChain(
            f"the bitmap of checkpoint {image.since} in {image.path} can't be used",
            why=error.why,
            disk=image.name,
            hint="delete the checkpoint, make a new one and start with a full export",
        ) from error


def _listen(monitor: _Monitor, endpoint: Endpoint) -> None:
    arguments: dict[str, Any] = {}
    if endpoint.socket:
        arguments["addr"] = {"type": "unix", "data": {"path": str(endpoint.socket)}}
    else:
        address = {"host": endpoint.address, "port": str(endpoint.port)}
        arguments["addr"] = {"type": "inet", "data": address}
    if endpoint.tls_dir:
        credentials = {"qom-type": "tls-creds-x509", "id": "tls", "endpoint": "server",
                       "dir": endpoint.tls_dir, "verify-peer": True}  # fmt: skip
        monitor.call("object-add", **credentials)
        arguments["tls-creds"] = "tls"
    monitor.call("nbd-server-start", **arguments, **{"max-connections": 0})


def _export(monitor: _Monitor, image: Served) -> None:
    monitor.call("block-export-add", type="nbd", id=image.name, name=image.name,
                 **{"node-name": image.name, "writable": False,
                    "bitmaps": [image.bitmap] if image.since else []})  # fmt: skip


class _Monitor:
    """The few lines of QMP that are needed here: one command, one answer.

    QEMU's own qemu.qmp would do, but parts of it are GPL-2.0-only.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rw", encoding="utf-8")

    def __enter__(self) -> _Monitor:
        self._read()  # the greeting
        self.call("qmp_capabilities")
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def call(self, command: str, **arguments: Any) -> None:
        """Run one command; raises VircptError with QEMU's own words as the reason."""
        try:
            self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            self._file.flush()
        except OSError as error:
            raise _Silence(str(error)) from error
        while True:
            answer = self._read()
            if "error" in answer:
                raise _failed(answer["error"]["desc"])
            if "return" in answer:
                return

    def _read(self) -> Any:
        try:
            line = self._file.readline()
        except OSError as error:
            raise _Silence(str(error)) from error
        if not line:
            raise _Silence("it has ended")
        return json.loads(line)
