"""Exports of domains that are shut off: their images, read-only, bitmaps too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab.fixtures import BlankFactory, Cli
from lab.state import checkpoints, leftovers
from lab.vms import MIB, Disk, Vm

CLUSTER = 65536


@pytest.fixture
def off(blank: BlankFactory, cli: Cli) -> Vm:
    """A shut-off VM with checkpoint foo on vda, 64 KiB written since, and a raw vdb."""
    vm = blank("off", (Disk("vda"), Disk("vdb", kind="raw"), Disk("hda", kind="cdrom")))
    vm.write("vda", 0, MIB, 0x11)
    vm.write("vdb", 0, MIB, 0x33)
    assert cli("-d", "off", "create", "--name", "foo").returncode == 0
    vm.write("vda", 4 * MIB, CLUSTER, 0x22)
    vm.destroy()
    return vm


def export(cli: Cli, *args: str) -> dict[str, Any]:
    done = cli("-d", "off", "export", "--json", *args)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_looks_like_the_export_of_a_running_domain(off: Vm, cli: Cli) -> None:
    document = export(cli, "--name", "foo")
    assert document["offline"] is True
    found = {one["target"]: one for one in document["disks"]}
    assert (found["vda"]["bitmap"], found["vda"]["changed"]) == ("backup-vda", CLUSTER)
    assert (found["vdb"]["bitmap"], found["vdb"]["size"]) == (None, 64 * MIB)
    dirty = json.loads(cli("-d", "off", "map", "--disk", "vda", "--dirty", "--json").stdout)
    assert [(one["offset"], one["length"]) for one in dirty["extents"]] == [(4 * MIB, CLUSTER)]
    (one,) = json.loads(cli("exports", "--json").stdout)["exports"]
    assert (one["state"], one["kind"], one["base"]) == ("running", "offline", "foo")
    assert cli("-d", "off", "release").returncode == 0
    assert leftovers() == []


def test_its_contents_are_the_images(off: Vm, cli: Cli, tmp_path: Path) -> None:
    export(cli)
    assert cli("-d", "off", "copy", str(tmp_path), "--format", "raw").returncode == 0
    vda = (tmp_path / "off-vda.raw").read_bytes()
    assert vda[:MIB] == b"\x11" * MIB
    assert vda[4 * MIB : 4 * MIB + CLUSTER] == b"\x22" * CLUSTER
    assert (tmp_path / "off-vdb.raw").read_bytes()[:MIB] == b"\x33" * MIB
    assert cli("-d", "off", "release").returncode == 0


def test_people_are_told(off: Vm, cli: Cli) -> None:
    done = cli("-d", "off", "export", "--name", "foo")
    assert "the domain is shut off: its images are served read-only" in done.stderr
    assert "disk vdb is exported in full: format raw" in done.stderr
    assert "skipped hda: a cdrom" in done.stderr
    assert cli("-d", "off", "release").returncode == 0


def test_the_domain_cannot_be_started_meanwhile_and_can_after(off: Vm, cli: Cli) -> None:
    export(cli)
    with pytest.raises(libvirt.libvirtError, match="lock"):
        off.start()
    assert cli("-d", "off", "release").returncode == 0
    off.start()
    assert json.loads(cli("-d", "off", "list", "--json").stdout)["checkpoints"][0]["health"] == "ok"


def test_the_images_are_not_changed(off: Vm, cli: Cli) -> None:
    before = off.images["vda"].read_bytes(), off.images["vdb"].read_bytes()
    export(cli, "--name", "foo")
    assert cli("-d", "off", "map", "--disk", "vda", "--totals").returncode == 0
    assert cli("-d", "off", "release").returncode == 0
    assert (off.images["vda"].read_bytes(), off.images["vdb"].read_bytes()) == before


def test_the_base_is_not_forgotten_meanwhile(off: Vm, cli: Cli) -> None:
    export(cli, "--name", "foo")
    done = cli("-d", "off", "delete", "--name", "foo", "--metadata")
    assert done.returncode == 11
    assert checkpoints(off) == ["foo"]
    assert cli("-d", "off", "release").returncode == 0


def test_a_second_export_is_refused(off: Vm, cli: Cli) -> None:
    export(cli)
    assert cli("-d", "off", "export").returncode == 11
    assert cli("-d", "off", "release").returncode == 0


def test_a_checkpoint_cannot_be_made(off: Vm, cli: Cli) -> None:
    done = cli("-d", "off", "export", "--create", "new")
    assert done.returncode == 12
    assert leftovers() == []


def test_a_broken_bitmap(off: Vm, cli: Cli) -> None:
    off.start()
    off.kill()
    done = cli("-d", "off", "export", "--name", "foo")
    assert done.returncode == 13
    assert "was not closed properly" in done.stderr
    assert leftovers() == []
    export(cli)
    assert cli("-d", "off", "release").returncode == 0


def test_an_image_that_is_gone(off: Vm, cli: Cli) -> None:
    off.images["vdb"].rename(off.images["vdb"].with_suffix(".away"))
    done = cli("-d", "off", "export")
    off.images["vdb"].with_suffix(".away").rename(off.images["vdb"])
    assert done.returncode == 1
    assert "No such file" in done.stderr
    assert leftovers() == []


def test_a_ttl_ends_it(off: Vm, cli: Cli) -> None:
    from lab.daemon import poll

    export(cli, "--ttl", "2s")
    poll(lambda: leftovers() == [], 20, "the export to end")
    off.start()


def test_an_overlay_takes_writes(off: Vm, cli: Cli, tmp_path: Path) -> None:
    import subprocess

    export(cli)
    overlay = tmp_path / "overlay.qcow2"
    assert cli("-d", "off", "overlay", "--disk", "vda", str(overlay)).returncode == 0
    io = ["qemu-io", "-c", "read -P 0x11 0 64k", "-c", "write -P 0x77 0 64k"]
    subprocess.run([*io, "-c", "read -P 0x77 0 64k", str(overlay)], check=True, capture_output=True)
    assert cli("-d", "off", "release").returncode == 0
    assert leftovers() == []
