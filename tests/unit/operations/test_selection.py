"""Which disks take part: all, those asked for, less those excluded and those that can't."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.errors import InvalidInput, NotFound, NotSupported, VircptError
from vircpt.hypervisor.domain import Disk, DomainFacts
from vircpt.operations.create import need_running
from vircpt.operations.selection import Selection, Skipped, select

VDA = Disk("vda", "disk", "qcow2", "file", "/images/vda.qcow2")
VDB = Disk("vdb", "disk", "qcow2", "file", "/images/vdb.qcow2")
RAW = Disk("vdc", "disk", "raw", "file", "/images/vdc.img")
CDROM = Disk("sda", "cdrom", "raw", "file", "/images/x.iso", read_only=True)
EVERY = (VDA, VDB, RAW, CDROM)
TARGETS = [disk.target for disk in EVERY]


def facts(*disks: Disk, active: bool = True) -> DomainFacts:
    return DomainFacts(
        name="vm1", uuid="u", state="running" if active else "shut off", is_active=active,
        disks=disks, has_agent_channel=False, agent_connected=False, qemu_owner=None,
    )  # fmt: skip


def for_checkpoint(
    only: list[str], exclude: list[str], disks: tuple[Disk, ...] = EVERY
) -> Selection:
    return select(facts(*disks), only, exclude, lambda disk: disk.no_checkpoint, "a checkpoint")


def test_all_disks_that_can_take_part_do() -> None:
    selection = for_checkpoint([], [])
    assert selection.targets == ("vda", "vdb")
    assert selection.skipped == (
        Skipped("vdc", "format raw: only qcow2 holds bitmaps"),
        Skipped("sda", "a cdrom"),
    )


def test_only_those_asked_for() -> None:
    selection = for_checkpoint(["vdb"], [])
    assert selection.targets == ("vdb",)
    assert selection.skipped[0] == Skipped("vda", "not asked for", wished=True)
    assert selection.left_out == ("vda", "vdc", "sda")


def test_less_those_excluded() -> None:
    selection = for_checkpoint([], ["vda", "sda"])
    assert selection.targets == ("vdb",)
    assert selection.skipped[0] == Skipped("vda", "excluded", wished=True)


def test_to_name_a_disk_twice_is_to_name_it_once() -> None:
    assert for_checkpoint(["vda", "vda"], ["vdb", "vdb"]).targets == ("vda",)


@pytest.mark.parametrize(("only", "exclude"), [(["vdz"], []), ([], ["vdz"]), (["vda"], ["vdz"])])
def test_an_unknown_disk_is_not_found(only: list[str], exclude: list[str]) -> None:
    with pytest.raises(NotFound, match="no disk 'vdz'"):
        for_checkpoint(only, exclude)


def test_a_disk_cannot_be_asked_for_and_excluded() -> None:
    with pytest.raises(InvalidInput, match="disk vda is asked for and excluded at once"):
        for_checkpoint(["vdb", "vda"], ["vda"])


def test_a_disk_that_was_asked_for_must_be_able() -> None:
    with pytest.raises(NotSupported, match="disk vdc can't be in a checkpoint") as caught:
        for_checkpoint(["vda", "vdc"], [])
    assert caught.value.disk == "vdc"
    assert "raw" in str(caught.value.why)


def test_no_disk_left_is_an_error_that_tells_why() -> None:
    with pytest.raises(NotSupported, match="no disk of domain vm1 is left") as caught:
        for_checkpoint([], ["vda", "vdb"])
    assert "vda is left out (excluded)" in str(caught.value.why)
    assert "vdc is left out (format raw" in str(caught.value.why)


def test_a_domain_without_disks() -> None:
    with pytest.raises(NotSupported, match="it has no disks"):
        for_checkpoint([], [], ())


@given(
    st.lists(st.sampled_from(TARGETS)), st.lists(st.sampled_from(TARGETS)), st.permutations(EVERY)
)
def test_each_disk_is_chosen_or_skipped(
    only: list[str], exclude: list[str], disks: list[Disk]
) -> None:
    try:
        selection = for_checkpoint(only, exclude, tuple(disks))
    except VircptError:
        return
    assert sorted(selection.targets + selection.left_out) == sorted(TARGETS)
    assert not set(selection.targets) & set(exclude)
    assert set(only) <= set(selection.targets)
    assert list(selection.disks) == [disk for disk in disks if disk in selection.disks]


def test_a_domain_that_is_shut_off_is_told_with_its_state() -> None:
    need_running(facts(), "why")
    with pytest.raises(NotSupported, match=r"domain vm1 is not running \(shut off\): why"):
        need_running(facts(active=False), "why")
