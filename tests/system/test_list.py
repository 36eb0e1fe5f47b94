"""vircpt list, info, dumpxml, redefine: on real VMs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.fixtures import BlankFactory, Cli
from lab.state import checkpoints
from lab.vms import MIB, Disk, Vm

CLUSTER = 65536


@pytest.fixture
def family(blank: BlankFactory, cli: Cli) -> Vm:
    """A VM with the checkpoints a, b, c in a row, 64 KiB written after each."""
    vm = blank("family")
    for number, name in enumerate(("a", "b", "c")):
        assert cli("-d", "family", "create", "--name", name).returncode == 0
        vm.write("vda", number * MIB, CLUSTER)
    return vm


def listed(cli: Cli, *args: str) -> list[dict[str, object]]:
    done = cli("list", "--json", *args)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)["checkpoints"]
    return found


def names(cli: Cli, *args: str) -> list[object]:
    return [one["name"] for one in listed(cli, *args)]


def test_sizes_are_cumulative(family: Vm, cli: Cli) -> None:
    sizes = {one["name"]: one["changed"] for one in listed(cli, "-d", "family")}
    assert sizes == {"a": 3 * CLUSTER, "b": 2 * CLUSTER, "c": CLUSTER}


def test_the_table_is_for_people(family: Vm, cli: Cli) -> None:
    lines = cli("-d", "family", "list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "CREATED", "PARENT", "DISKS", "CHANGED", "HEALTH"]
    assert [line.split()[0] for line in lines[1:]] == ["a", "b", "c"]
    assert lines[1].split()[3:] == ["-", "vda", "192", "KiB", "ok"]


def test_the_tree_shows_who_came_after_whom(family: Vm, cli: Cli) -> None:
    lines = cli("-d", "family", "list", "--tree").stdout.splitlines()
    assert lines[0] == "family"
    assert lines[1].startswith("  a ")
    assert lines[2].startswith("  └─ b ")
    assert lines[3].startswith("     └─ c ")


def test_roots_leaves_and_descendants(family: Vm, cli: Cli) -> None:
    assert names(cli, "-d", "family", "--roots") == ["a"]
    assert names(cli, "-d", "family", "--leaves") == ["c"]
    assert names(cli, "-d", "family", "--descendants-of", "a") == ["b", "c"]


def test_without_a_domain_all_are_listed(family: Vm, blank: BlankFactory, cli: Cli) -> None:
    other = blank("other")
    assert cli("-d", other.name, "create", "--name", "z").returncode == 0
    found = {(one["domain"], one["name"]) for one in listed(cli)}
    assert {("family", "a"), ("other", "z")} <= found
    assert cli("list").stdout.splitlines()[0].startswith("DOMAIN")


def test_a_domain_without_checkpoints_lists_nothing(blank: BlankFactory, cli: Cli) -> None:
    done = cli("-d", blank().name, "list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no checkpoints\n")


def test_the_domain_may_come_from_the_environment_or_after_the_command(
    family: Vm, cli: Cli
) -> None:
    assert "a" in cli("list", env={"VIRCPT_DOMAIN": "family"}).stdout
    assert "a" in cli("list", "-d", "family").stdout
    assert cli("list", "-d", family.domain.UUIDString()).returncode == 0


def test_health_after_a_crash_of_qemu(family: Vm, cli: Cli) -> None:
    family.destroy()  # writes the bitmaps into the image
    family.start()
    family.kill()
    assert [one["health"] for one in listed(cli, "-d", "family")] == ["inconsistent"] * 3
    family.start()
    assert [one["health"] for one in listed(cli, "-d", "family")] == ["inconsistent"] * 3
    assert "vda: inconsistent" in cli("-d", "family", "list").stdout


def test_health_after_a_crash_before_the_bitmaps_were_ever_written(family: Vm, cli: Cli) -> None:
    family.kill()
    assert [one["health"] for one in listed(cli, "-d", "family")] == ["missing"] * 3
    family.start()
    assert [one["health"] for one in listed(cli, "-d", "family")] == ["missing"] * 3


def test_health_of_a_shut_off_domain(family: Vm, cli: Cli) -> None:
    family.destroy()
    found = listed(cli, "-d", "family")
    assert {one["health"] for one in found} == {"ok"}
    assert {one["changed"] for one in found} == {None}


def test_a_disk_that_has_gone_is_told(blank: BlankFactory, cli: Cli) -> None:
    vm = blank(disks=(Disk("vda"), Disk("sda", bus="scsi")))
    assert cli("-d", vm.name, "create", "--name", "a").returncode == 0
    source = f"<source file='{vm.images['sda']}'/>"
    vm.domain.detachDevice(f"<disk type='file'>{source}<target dev='sda' bus='scsi'/></disk>")
    disks = {one["target"]: one["health"] for one in listed(cli, "-d", vm.name)[0]["disks"]}  # type: ignore[attr-defined]
    assert disks == {"vda": "ok", "sda": "no-disk"}


def test_info_tells_one_in_full(family: Vm, cli: Cli) -> None:
    text = cli("-d", "family", "info", "b").stdout
    assert "parent:       a\n" in text
    assert "children:     c\n" in text
    assert "made by:      vircpt\n" in text


def test_a_definition_can_be_taken_out_and_brought_back(
    family: Vm, cli: Cli, tmp_path: Path
) -> None:
    kept = tmp_path / "c.xml"
    kept.write_text(cli("-d", "family", "dumpxml", "c").stdout)
    assert cli("-d", "family", "delete", "--name", "c", "--metadata").returncode == 0
    assert checkpoints(family) == ["a", "b"]
    done = cli("-d", "family", "redefine", str(kept), "--validate")
    assert (done.returncode, done.stdout) == (0, "checkpoint c of domain family redefined\n")
    assert checkpoints(family) == ["a", "b", "c"]


def test_validation_finds_that_the_bitmap_is_gone(family: Vm, cli: Cli, tmp_path: Path) -> None:
    kept = tmp_path / "c.xml"
    kept.write_text(cli("-d", "family", "dumpxml", "c").stdout)
    assert cli("-d", "family", "delete", "--name", "c").returncode == 0
    done = cli("-d", "family", "redefine", str(kept), "--validate")
    assert done.returncode == 13
    assert checkpoints(family) == ["a", "b"]


def test_dumpxml_without_the_domain_is_short(family: Vm, cli: Cli) -> None:
    assert "<domain " not in cli("-d", "family", "dumpxml", "c", "--no-domain").stdout
    assert "<domain " in cli("-d", "family", "dumpxml", "c").stdout


@pytest.mark.parametrize("text", ["", "no xml", "<domain/>", "<domaincheckpoint/>", "<a>&b;</a>"])
def test_what_is_no_definition_is_refused(family: Vm, cli: Cli, text: str) -> None:
    done = cli("-d", "family", "redefine", "-", input=text)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
