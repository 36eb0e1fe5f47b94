"""Images served by vircpt's own server, for the unit tests: no libvirt is needed for that."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from vircpt.blocks.image_server import Endpoint, ImageServer, Layer

PROGRAM = "qemu-system-x86_64"


@dataclass(frozen=True)
class Served:
    """An image to serve: as export `name`, with the bitmap `since` as `bitmap` if given."""

    name: str
    path: str
    format: str
    since: str | None = None
    bitmap: str | None = None


def start(mark: Path, endpoint: Endpoint, *served: Served) -> int:
    """Serve the images; the server's pid."""
    with ImageServer(PROGRAM, mark, mark.with_suffix(".log")) as server:
        for one in served:
            server.open(one.name, [Layer(one.path, one.format)])
            if one.since and one.bitmap:
                server.add_bitmap(one.name, one.since, one.bitmap)
        server.listen(endpoint)
        for one in served:
            server.export(one.name, one.bitmap)
        return server.keep()


def end(pid: int) -> None:
    """End a server that was started here, and wait until it has gone."""
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
