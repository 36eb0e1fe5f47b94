"""`hotadd` against `virsh attach-device` with the same XML, and reading a disk inside the other VM.

The first on a VM without a guest, whose disks go without one: the export runs, and nobody waits
for a guest. The second reads the same disk in a guest, and from this host with nbdcopy.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import libvirt

from lab.daemon import LabError, poll
from lab.vms import MIB, Disk, Vm, define_blank, define_guest

from .timing import VIRCPT, Row, Sample, in_turn, output_of, run

SIZE = 256 * MIB
RUNS = 15
MORE = 0.150
OPTIONS = ("--bus", "scsi", "--timeout", "0")


def hotadd_rows(connection: Any) -> Iterator[Row]:
    with ExitStack() as stack:
        source = define_blank(connection, "source", [Disk("vda", SIZE)])
        stack.callback(source.remove)
        other = define_blank(connection, "other", [Disk("sda", bus="scsi")])
        stack.callback(other.remove)
        source.start()
        other.start()
        source.write("vda", 0, SIZE - MIB, 0x5A)
        output_of(VIRCPT, "-d", "source", "export")
        yield from plugged(other)
        yield from read_inside(connection)
        output_of(VIRCPT, "-d", "source", "release")


def plugged(other: Vm) -> Iterator[Row]:
    definition = Path(tempfile.mkdtemp()) / "disk.xml"
    output_of(VIRCPT, "-d", "source", "hotadd", "--to", "other", *OPTIONS)
    found = re.search(r"<disk type='network'.*?</disk>", other.domain.XMLDesc(), re.S)
    if not found:
        raise LabError("the disk was not attached")
    definition.write_text(found[0])
    remove(other)

    def ours() -> Sample:
        sample = run(VIRCPT, "-d", "source", "hotadd", "--to", "other", *OPTIONS)
        remove(other)
        return sample

    def theirs() -> Sample:
        sample = run("virsh", "attach-device", "other", str(definition), "--live")
        other.domain.detachDevice(other_disk(other))
        poll(lambda: "protocol='nbd'" not in other.domain.XMLDesc(), 10, "the disk to go")
        return sample

    mine, virsh = in_turn(RUNS, ours, theirs)
    met = mine.seconds <= virsh.seconds + MORE
    yield Row("hotadd, export runs", mine, "virsh attach-device", virsh, "≤ 150 ms more", met)


def other_disk(other: Vm) -> str:
    found = re.findall(r"<disk type='network'.*?</disk>", other.domain.XMLDesc(), re.S)
    return str(found[0])


def remove(other: Vm) -> None:
    output_of(VIRCPT, "hotremove", "--from", other.name)


def read_inside(connection: Any) -> Iterator[Row]:
    tools = define_guest(connection, "tools", [Disk("vda", 16 * MIB)])
    try:
        tools.start()
        tools.wait_agent()
        told = output_of(VIRCPT, "--json", "-d", "source", "hotadd", "--to", "tools")
        device = json.loads(told)["disks"][0]["name"]
        (socket,) = Path("/var/lib/vircpt/exports").glob("*/io/nbd.sock")
        uri = f"nbd+unix:///vda?socket={socket}"

        def inside() -> Sample:
            tools.guest("echo 3 >/proc/sys/vm/drop_caches")
            start = time.monotonic()
            tools.guest(f"dd if={device} of=/dev/null bs=1M", timeout=200)
            return Sample(time.monotonic() - start)

        guest, host = in_turn(3, inside, lambda: run("nbdcopy", uri, "null:"))
        yield Row("256 MiB read inside the other VM (TCG)", guest, "nbdcopy URI null:", host)
        remove(tools)
    except libvirt.libvirtError as error:
        raise LabError(str(error)) from error
    finally:
        tools.remove()
