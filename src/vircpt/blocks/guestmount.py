"""File systems in an export, mounted read-only on this host: the process that serves them.

It is a program of its own (appliance.py), known by a mark in its command line and in
/proc/self/mountinfo, that goes on when we end.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vircpt import trace
from vircpt.children import let_go
from vircpt.errors import Busy, NotSupported, VircptError, quoted

MODULE = "vircpt.blocks.appliance"
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Drive:
    """A disk to look for file systems in: NBD export `export` on `server`.

    `server` is written as libguestfs does: unix:/PATH, or HOST:PORT.
    """

    target: str
    export: str
    server: str


@dataclass(frozen=True)
class MountedFilesystem:
    """A file system of the guest; `path` is where it is below the mount, if `why` is None.

    `device` is vda1, or vg-lv; `why` says why it is not mounted.
    """

    device: str
    kind: str
    path: str | None
    why: str | None


def marked(mark: str) -> tuple[str, ...]:
    """The words of the process's command line by which it is known."""
    return MODULE, mark


def start(
    mark: str, place: Path, scratch: Path, drives: Sequence[Drive], limit: float
) -> tuple[MountedFilesystem, ...]:
    """Mount what is in `drives` at `place`; returns when it is to be seen.

    `scratch` is a directory of ours, for libguestfs's throw-away layers. Raises NotSupported
    if libguestfs is missing, VircptError if it fails, Busy if it takes longer than `limit`
    seconds.
    """
    request = {
        "mark": mark,
        "place": str(place),
        "scratch": str(scratch),
        "disks": [vars(one) for one in drives],
    }
    command = [sys.executable, "-m", *marked(mark)]
    trace.tell(f"run: {' '.join(command)}")
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        # not through libvirt: its QEMU would run as another user, who may not read the export
        env={"LIBGUESTFS_BACKEND": "direct", **os.environ},
    )
    with process:
        try:
            mounted = _parse(_ask(process, json.dumps(request), limit))
            let_go(process)
        except BaseException:
            process.kill()  # its appliance ends with it
            raise
    return mounted


def _ask(process: subprocess.Popen[bytes], request: str, limit: float) -> dict[str, Any]:
    assert process.stdin
    assert process.stdout
    process.stdin.write(request.encode())
    process.stdin.close()
    if not select.select([process.stdout], [], [], limit)[0]:
        raise Busy(
            "the guest's file systems could not be mounted in time",
            why=f"libguestfs has not answered for {limit:g} s",
            hint="without KVM its appliance starts slowly: try a longer --timeout",
        )
    line = process.stdout.readline()
    answer: dict[str, Any] = json.loads(line) if line else {"error": "the process has ended"}
    return answer


def _parse(answer: dict[str, Any]) -> tuple[MountedFilesystem, ...]:
    if "missing" in answer:
        raise NotSupported(
            "libguestfs's Python binding is missing",
            why=answer["missing"],
            hint="apt-get install python3-guestfs, and use system site packages in a venv",
        )
    if "nothing" in answer:
        raise NotSupported(
            "none of the disks holds a file system that can be mounted", why=answer["nothing"]
        )
    if "error" in answer:
        raise VircptError(
            "the guest's file systems can't be mounted",
            why=answer["error"].strip(),
            hint="does libguestfs work here? Try libguestfs-test-tool",
        )
    return tuple(MountedFilesystem(**one) for one in answer["filesystems"])


def place_of(mark: str) -> Path | None:
    """Where the mount with that mark is."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[1:2] == [mark]:
            return Path(_OCTAL.sub(lambda one: chr(int(one[1], 8)), before.split()[4]))
    return None


def unmount(mark: str) -> bool:
    """Unmount the mount with that mark, True if it was there; raises Busy if it is in use."""
    was_there = False
    while place := place_of(mark):
        was_there = True
        command = ["umount", "--"] if os.geteuid() == 0 else ["fusermount", "-u", "--"]
        trace.tell(f"run: {' '.join(command)} {place}")
        done = subprocess.run(
            [*command, str(place)],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode and place_of(mark):
            raise Busy(
                f"{place} can't be unmounted",
                why=done.stderr.strip(),
                hint=f"whoever uses it must leave it first: fuser -vm {quoted(str(place))}",
            )
        time.sleep(0.01)
    return was_there
