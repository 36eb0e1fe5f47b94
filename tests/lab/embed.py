"""libvirt inside the process: `qemu:///embed?root=DIR`, without a daemon and without the lab.

One process at a time can open it; its VMs live on in between.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import libvirt

from .daemon import qemu_conf


@contextmanager
def embedded(root: Path, **settings: str) -> Iterator[Any]:
    """A connection to the driver whose state lives below root; `settings` go into its qemu.conf.

    root is an absolute path that QEMU's user can reach.
    """
    (root / "etc").mkdir(parents=True, exist_ok=True)
    # libvirt cannot give QEMU its own /dev where mounts are stacked below /dev, as in containers.
    (root / "etc/qemu.conf").write_text(qemu_conf(**settings) + "namespaces = []\n")
    _start_event_loop()
    connection = libvirt.open(uri(root))
    try:
        yield connection
    finally:
        connection.close()


def uri(root: Path) -> str:
    return f"qemu:///embed?root={root}"


@cache
def _start_event_loop() -> None:
    """Before the first connection; cannot be unregistered, so it lasts as long as the process."""
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt events", daemon=True).start()
