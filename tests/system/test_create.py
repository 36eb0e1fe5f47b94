"""vircpt create: on real VMs."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

from lab.fixtures import BlankFactory, Cli
from lab.state import checkpoints
from lab.vms import MIB, Disk, Vm

MIXED = (
    Disk("vda"),
    Disk("vdb"),
    Disk("vdc", kind="raw"),
    Disk("hda", kind="cdrom"),
    Disk("fda", kind="floppy"),
)


def covered(vm: Vm, name: str) -> list[str]:
    """The disks that a checkpoint covers, says libvirt."""
    root = ET.fromstring(vm.domain.checkpointLookupByName(name).getXMLDesc())
    return [
        one.get("name", "") for one in root.findall("disks/disk") if one.get("checkpoint") != "no"
    ]


def test_the_line_of_the_first_users_works(blank: BlankFactory, cli: Cli) -> None:
    vm = blank("vm1")
    done = cli("-d", "vm1", "create", "--name", "foo")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "checkpoint foo of domain vm1 created: vda\n"
    assert checkpoints(vm) == ["foo"]


def test_disks_that_cannot_take_part_are_skipped_and_told(blank: BlankFactory, cli: Cli) -> None:
    vm = blank(disks=MIXED)
    done = cli("-d", vm.name, "create", "--name", "foo")
    assert done.returncode == 0, done.stderr
    assert covered(vm, "foo") == ["vda", "vdb"]
    assert "skipped vdc: format raw" in done.stderr
    assert "skipped hda: a cdrom" in done.stderr
    assert "skipped fda: a floppy" in done.stderr


def test_disk_and_exclude_choose(blank: BlankFactory, cli: Cli) -> None:
    vm = blank(disks=MIXED)
    assert cli("-d", vm.name, "create", "--name", "a", "--disk", "vdb").returncode == 0
    assert cli("-d", vm.name, "create", "--name", "b", "--exclude", "vdb").returncode == 0
    assert covered(vm, "a") == ["vdb"]
    assert covered(vm, "b") == ["vda"]


def test_a_name_by_date_when_none_is_given(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    assert cli("-d", vm.name, "create").returncode == 0
    assert cli("-d", vm.name, "create").returncode == 0
    first, second = checkpoints(vm)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d\.\d\d\.\d\d", first)
    assert second != first


def test_the_description_is_kept_and_the_mark_is_not_shown(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    text = 'before <the> "upgrade" & more'
    assert cli("-d", vm.name, "create", "--name", "foo", "--description", text).returncode == 0
    shown = json.loads(cli("-d", vm.name, "info", "foo", "--json").stdout)["checkpoint"]
    assert shown["description"] == text
    assert shown["made_by_vircpt"] is True


def test_dry_run_prints_the_xml_and_changes_nothing(blank: BlankFactory, cli: Cli) -> None:
    vm = blank(disks=MIXED)
    done = cli("-d", vm.name, "create", "--name", "foo", "--dry-run")
    root = ET.fromstring(done.stdout)
    assert root.findtext("name") == "foo"
    assert {one.get("name"): one.get("checkpoint") for one in root.findall("disks/disk")} == {
        "vda": "bitmap",
        "vdb": "bitmap",
        "vdc": "no",
        "hda": "no",
        "fda": "no",
    }
    assert checkpoints(vm) == []


def test_the_xml_of_a_dry_run_is_what_libvirt_takes(blank: BlankFactory, cli: Cli) -> None:
    vm = blank(disks=MIXED)
    vm.domain.checkpointCreateXML(cli("-d", vm.name, "create", "--name", "foo", "--dry-run").stdout)
    assert covered(vm, "foo") == ["vda", "vdb"]


def test_keep_last_drops_the_oldest_that_vircpt_made(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    vm.domain.checkpointCreateXML("<domaincheckpoint><name>foreign</name></domaincheckpoint>")
    for name in ("a", "b", "c"):
        assert cli("-d", vm.name, "create", "--name", name).returncode == 0
    done = cli("-d", vm.name, "create", "--name", "d", "--keep-last", "2")
    assert done.returncode == 0
    assert checkpoints(vm) == ["foreign", "c", "d"]
    assert "checkpoint a deleted" in done.stdout
    assert "checkpoint b deleted" in done.stdout


def test_keep_last_keeps_the_base_of_a_running_export(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    for name in ("a", "b"):
        assert cli("-d", vm.name, "create", "--name", name).returncode == 0
    assert cli("-d", vm.name, "export", "--name", "a").returncode == 0
    done = cli("-d", vm.name, "create", "--name", "c", "--keep-last", "1")
    assert done.returncode == 3, "asked to drop a, and could not"
    assert checkpoints(vm) == ["a", "c"]
    assert "checkpoint a kept" in done.stderr
    assert cli("-d", vm.name, "release").returncode == 0


def test_keep_last_in_a_dry_run_names_what_would_go(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    assert cli("-d", vm.name, "create", "--name", "a").returncode == 0
    done = cli("-d", vm.name, "create", "--name", "b", "--keep-last", "1", "--dry-run")
    assert "would delete checkpoint a" in done.stderr
    assert checkpoints(vm) == ["a"]


def test_a_paused_domain_can_be_checkpointed(blank: BlankFactory, cli: Cli) -> None:
    vm = blank()
    vm.domain.suspend()
    assert cli("-d", vm.name, "create", "--name", "foo").returncode == 0
    assert checkpoints(vm) == ["foo"]


def test_json_tells_all(blank: BlankFactory, cli: Cli) -> None:
    vm = blank(disks=MIXED)
    document = json.loads(cli("--json", "-d", vm.name, "create", "--name", "foo").stdout)
    assert document["schema"] == "vircpt/create/1"
    made = document["checkpoint"]
    assert (made["name"], made["disks"]) == ("foo", ["vda", "vdb"])
    assert [one["target"] for one in made["skipped"]] == ["vdc", "hda", "fda"]
    assert made["freeze"]["state"] == "no-agent"


def test_file_systems_stand_frozen_and_for_how_long(guest: Vm, cli: Cli) -> None:
    done = cli("-d", guest.name, "create", "--name", "foo", "--json")
    freeze = json.loads(done.stdout)["checkpoint"]["freeze"]
    assert freeze["state"] == "frozen"
    assert freeze["filesystems"] >= 1
    assert 0 < freeze["seconds"] < 10
    assert guest.agent("guest-fsfreeze-status") == "thawed"
    done = cli("-d", guest.name, "create", "--name", "bar")
    assert re.search(r"\d+ file systems? stood frozen for 0\.\d+ s", done.stderr)


def test_what_the_guest_writes_is_counted(guest: Vm, cli: Cli) -> None:
    assert cli("-d", guest.name, "create", "--name", "foo").returncode == 0
    guest.guest("dd if=/dev/urandom of=/mnt/vda/big bs=1M count=8 && sync")
    listed = json.loads(cli("-d", guest.name, "list", "--json").stdout)["checkpoints"][0]
    assert 8 * MIB <= listed["changed"] <= 12 * MIB
