"""File systems for the lab's guests: made on the host, into images that are attached later."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from .vms import MIB

MAKERS = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
    "ntfs": ("mkntfs", "-q", "-F", "-f"),
}
SIZE = 320 * MIB
"""Bytes; mkfs.xfs makes nothing smaller than 300 MiB."""


def fill(image: Path, kind: str, size: int = SIZE) -> None:
    """Put a new file system into a qcow2 image, whose contents are replaced."""
    with tempfile.TemporaryDirectory(dir=image.parent) as work:
        raw = Path(work, "raw")
        with raw.open("wb") as file:
            file.truncate(size)
        subprocess.run([*MAKERS[kind], str(raw)], check=True, capture_output=True)
        convert = ["qemu-img", "convert", "-O", "qcow2", str(raw), str(image)]
        subprocess.run(convert, check=True)


def mount(kind: str, device: str, point: str) -> str:
    """The guest's command that mounts it."""
    if kind == "ntfs":
        return f"modprobe fuse; mkdir -p {point}; ntfs-3g {device} {point}"
    return f"modprobe -a {kind} 2>/dev/null; mkdir -p {point}; mount -t {kind} {device} {point}"
