"""Exports of domains that are shut off: their images, read-only, bitmaps too."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
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
    assert cli("-d", "off", "export", "--dry-run").returncode == 11
    assert cli("-d", "off", "release").returncode == 0


def test_a_checkpoint_cannot_be_made(off: Vm, cli: Cli) -> None:
    done = cli("-d", "off", "export", "--create", "new")
    assert done.returncode == 12
    assert leftovers() == []


def test_a_broken_bitmap(off: Vm, cli: Cli) -> None:
    off.start()
    off.kill()
    for also in ((), ("--dry-run",)):
        done = cli("-d", "off", "export", "--name", "foo", *also)
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
    export(cli)
    overlay = tmp_path / "overlay.qcow2"
    assert cli("-d", "off", "overlay", "--disk", "vda", str(overlay)).returncode == 0
    io = ["qemu-io", "-c", "read -P 0x11 0 64k", "-c", "write -P 0x77 0 64k"]
    subprocess.run([*io, "-c", "read -P 0x77 0 64k", str(overlay)], check=True, capture_output=True)
    assert cli("-d", "off", "release").returncode == 0
    assert leftovers() == []


# What the server may read


def server() -> Path:
    """The directory in /proc of the server's process."""
    found = [
        one for one in Path("/proc").glob("[0-9]*")
        if b"guest=/var/lib/vircpt/exports/" in (one / "cmdline").read_bytes()
    ]  # fmt: skip
    (one,) = found
    return one


def test_the_server_runs_as_the_user_that_qemu_runs_as(off: Vm, cli: Cli) -> None:
    for image in off.images.values():
        image.chmod(0o600)
        assert image.stat().st_uid == 0  # libvirt gives them back when the domain ends
    socket = Path(export(cli, "--name", "foo")["socket"])
    user = pwd.getpwnam("libvirt-qemu").pw_uid
    assert server().stat().st_uid == user
    assert socket.stat(follow_symlinks=False).st_uid == user
    assert cli("-d", "off", "release").returncode == 0
    assert leftovers() == []


def rebase(image: Path, below: Path, image_format: str) -> None:
    command = ["qemu-img", "rebase", "-u", "-b", str(below), "-F", image_format, str(image)]
    subprocess.run(command, check=True)


@pytest.fixture
def secret() -> Iterator[Path]:
    """What root alone may read, in a place where everybody can come."""
    directory = Path("/var/lib/libvirt/images/public")
    directory.mkdir()
    path = directory / "secret"
    path.write_bytes(b"secret" * MIB)
    path.chmod(0o600)
    yield path
    shutil.rmtree(directory)


def test_a_header_does_not_make_root_read_a_file(off: Vm, cli: Cli, secret: Path) -> None:
    rebase(off.images["vda"], secret, "raw")
    done = cli("-d", "off", "export")
    assert done.returncode == 12, done.stderr
    assert f"names {secret} below it, which QEMU's user may not read" in done.stderr
    assert "backingStore" in done.stderr
    assert leftovers() == []


def test_nor_does_a_header_further_below(off: Vm, cli: Cli, secret: Path) -> None:
    middle = secret.with_suffix(".qcow2")
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(secret), "-F", "raw"]
    subprocess.run([*create, str(middle)], check=True)
    rebase(off.images["vda"], middle, "qcow2")
    done = cli("-d", "off", "export")
    assert done.returncode == 12, done.stderr
    assert f"{secret} below it" in done.stderr
    assert leftovers() == []


def test_nor_does_a_data_file(off: Vm, cli: Cli, secret: Path) -> None:
    image = off.images["vda"]
    image.unlink()
    options = f"data_file={secret}.new,data_file_raw=on"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(image), "64M"]
    subprocess.run(create, check=True)
    Path(f"{secret}.new").rename(f"{secret}.old")
    secret.rename(f"{secret}.new")
    done = cli("-d", "off", "export")
    assert done.returncode == 12
    assert "names another file, which holds the data" in done.stderr
    assert leftovers() == []


def test_nor_does_a_format_that_names_files_of_its_own(off: Vm, cli: Cli, secret: Path) -> None:
    below = secret.with_suffix(".vmdk")
    extent = f'RW 131072 FLAT "{secret}" 0'
    below.write_text(f'# Disk DescriptorFile\ncreateType="monolithicFlat"\n{extent}\n')
    rebase(off.images["vda"], below, "vmdk")
    done = cli("-d", "off", "export")
    assert done.returncode == 12, done.stderr
    assert f"names {below} below it, whose format is vmdk" in done.stderr
    assert leftovers() == []


def test_nor_does_a_link_that_qemus_user_could_have_put_there(
    off: Vm, cli: Cli, secret: Path
) -> None:
    """The directory is that user's: what the definition names there may be anything by now."""
    place = secret.parent / "theirs"
    place.mkdir()
    os.chown(place, pwd.getpwnam("libvirt-qemu").pw_uid, -1)
    (place / "disk.img").symlink_to(secret)
    redefine(off, str(off.images["vdb"]), str(place / "disk.img"))
    done = cli("-d", "off", "export")
    assert done.returncode == 12, done.stderr
    assert "could put another file in its place" in done.stderr
    assert leftovers() == []


def redefine(vm: Vm, old: str, new: str) -> None:
    text = vm.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert old in text
    vm.domain.connect().defineXML(text.replace(old, new))


@pytest.fixture
def overlay(off: Vm) -> Path:
    """What was vda's image lies below another one now; its path."""
    below = off.images["vda"].with_suffix(".base")
    off.images["vda"].rename(below)
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", below.name, "-F", "qcow2"]
    subprocess.run([*create, str(off.images["vda"])], check=True)
    off.images["below"] = below
    return below


def assert_reads_what_is_below(cli: Cli, tmp_path: Path) -> None:
    export(cli)
    copy = tmp_path / "copy.raw"
    assert cli("-d", "off", "copy", "--disk", "vda", str(copy)).returncode == 0
    assert copy.read_bytes()[:MIB] == b"\x11" * MIB
    assert cli("-d", "off", "release").returncode == 0
    assert leftovers() == []


def test_an_image_below_that_qemus_user_may_read(
    off: Vm, cli: Cli, overlay: Path, tmp_path: Path
) -> None:
    overlay.chmod(0o644)
    assert_reads_what_is_below(cli, tmp_path)


def test_an_image_below_that_the_definition_names(
    off: Vm, cli: Cli, overlay: Path, tmp_path: Path
) -> None:
    overlay.chmod(0o600)
    off.images["vda"].chmod(0o600)
    assert cli("-d", "off", "export").returncode == 12
    name = f"<source file='{off.images['vda']}'/>"
    source = f"<source file='{overlay}'/>"
    below = f"<backingStore type='file'><format type='qcow2'/>{source}</backingStore>"
    redefine(off, name, name + below)
    assert_reads_what_is_below(cli, tmp_path)
    export(cli)
    with pytest.raises(subprocess.CalledProcessError):  # the lock holds for it, too
        subprocess.run(["qemu-io", "-c", "write 0 64k", str(overlay)], check=True)
    assert cli("-d", "off", "release").returncode == 0


def test_an_image_that_lies_on_itself(off: Vm, cli: Cli) -> None:
    rebase(off.images["vda"], off.images["vda"], "qcow2")
    off.images["vda"].chmod(0o644)
    done = cli("-d", "off", "export")
    assert done.returncode == 12
    assert "more than 200 images below each other" in done.stderr
    assert leftovers() == []


def test_a_block_device(off: Vm, cli: Cli, tmp_path: Path) -> None:
    image = off.images["vdb"]
    find = ["losetup", "--find", "--show", str(image)]
    device = subprocess.run(find, check=True, capture_output=True, text=True).stdout.strip()
    try:
        domain = ET.fromstring(off.domain.XMLDesc())
        for disk in domain.iter("disk"):
            source = disk.find("source")
            if source is not None and source.get("file") == str(image):
                disk.set("type", "block")
                source.attrib = {"dev": device}
        off.domain.connect().defineXML(ET.tostring(domain, encoding="unicode"))
        export(cli)
        copy = tmp_path / "copy.raw"
        assert cli("-d", "off", "copy", "--disk", "vdb", str(copy)).returncode == 0
        assert copy.read_bytes()[:MIB] == b"\x33" * MIB
        assert cli("-d", "off", "release").returncode == 0
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
