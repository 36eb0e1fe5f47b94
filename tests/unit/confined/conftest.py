"""A disk served by a real qemu-nbd, and children that do as a test says."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vircpt.blocks import nbd
from vircpt.confined.sandbox import ConfinedDisk
from vircpt.errors import HostUnreachable

Serve = Callable[[Path], str]
"""Serves an image, read-only; the NBD URI."""


def answers(uri: str) -> bool:
    """The socket is there some time before anybody listens on it."""
    try:
        nbd.connected_socket(uri)[0].close()
    except HostUnreachable:
        return False
    return True


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    servers: list[subprocess.Popen[bytes]] = []

    def start(image: Path) -> str:
        socket = tmp_path / f"nbd{len(servers)}.sock"
        command = ["qemu-nbd", "-r", "-f", "raw", "-t", "-e", "16", "-x", "vda", "-k", str(socket)]
        servers.append(subprocess.Popen([*command, str(image)]))
        limit = time.monotonic() + 20
        uri = nbd.unix_uri("vda", str(socket))
        while not answers(uri):
            assert time.monotonic() < limit
            time.sleep(0.01)
        return uri

    yield start
    for server in servers:
        server.kill()
        server.wait()


@pytest.fixture
def disk(serve: Serve, tmp_path: Path) -> Callable[[], ConfinedDisk]:
    """Connects to a disk of 1 MiB that begins with PRECIOUS."""
    image = tmp_path / "disk.img"
    image.write_bytes(b"PRECIOUS".ljust(1 << 20, b"\0"))
    uri = serve(image)

    def connect() -> ConfinedDisk:
        socket, export = nbd.connected_socket(uri)
        return ConfinedDisk("vda", socket, export)

    return connect
