"""`map` on a large and very fragmented dirty map, against nbdinfo.

The disk is a sparse qcow2 of 1 TiB, of which every second 64 KiB are dirty in a range of 64 GiB:
524,288 dirty extents. They are discards, since they cost no data and dirty a bitmap like any
write; qemu-io makes them in the image while its VM is off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.daemon import LabError
from lab.vms import MIB, Disk, define_blank

from .timing import VIRCPT, Row, in_turn, output_of, run

NAME = "large"
SIZE = 1024**4
RANGE = 64 * 1024**3
CLUSTER = 65536
RUNS = 11
LIMIT = 256 * MIB
CONTEXT = "qemu:dirty-bitmap:backup-vda"


def map_rows(connection: Any) -> Iterator[Row]:
    with fragmented_export(connection) as uri:
        check(uri)
        ours = [VIRCPT, "-d", NAME, "map"]
        one, dirty, totals, as_json, theirs, base = in_turn(
            RUNS,
            lambda: run(*ours),
            lambda: run(*ours, "--dirty"),
            lambda: run(*ours, "--totals"),
            lambda: run(*ours, "--json"),
            lambda: run("nbdinfo", f"--map={CONTEXT}", uri),
            lambda: run("nbdinfo", "--map", uri),
        )
        met = one.seconds <= 1.5 * theirs.seconds and one.memory <= LIMIT
        against = "nbdinfo --map=…backup-vda"
        yield Row("map", one, against, theirs, "≤ 1.5 x, ≤ 256 MiB", met)
        yield Row("map --dirty", dirty, against, theirs)
        yield Row("map --totals", totals, against, theirs)
        yield Row("map --json", as_json, against, theirs)
        yield Row("map", one, "nbdinfo --map (allocation)", base)


@contextmanager
def fragmented_export(connection: Any) -> Iterator[str]:
    """The URI of the disk in a running export."""
    vm = define_blank(connection, NAME, [Disk("vda", SIZE)])
    try:
        vm.start()
        vircpt("create", "--name", "friday")
        vm.destroy()
        dirty_every_second_cluster(vm.images["vda"])
        vm.start()
        vircpt("export", "--name", "friday")
        yield f"nbd+unix:///vda?socket={socket()}"
        vircpt("release")
    finally:
        vm.remove()


def dirty_every_second_cluster(image: Path) -> None:
    offsets = range(0, RANGE, 2 * CLUSTER)
    commands = "".join(f"discard {offset} {CLUSTER}\n" for offset in offsets)
    output_of("qemu-io", "-f", "qcow2", str(image), input=commands)


def check(uri: str) -> None:
    """Both must tell of the same dirty bytes: half of the range.

    :raise LabError: they do not.
    """
    totals = output_of("nbdinfo", f"--map={CONTEXT}", "--totals", uri)
    lines = [line.split() for line in totals.splitlines()]
    theirs = sum(int(line[0]) for line in lines if line[-1] == "dirty")
    ours = vircpt("map", "--totals")
    if theirs != RANGE // 2 or f"({theirs} bytes)" not in ours:
        raise LabError(f"that is not the dirty map that was made:\n{totals}\n{ours}")


def socket() -> Path:
    (path,) = Path("/var/lib/vircpt/exports").glob("*/io/nbd.sock")
    return path


def vircpt(*arguments: str) -> str:
    return output_of(VIRCPT, "-d", NAME, *arguments)
