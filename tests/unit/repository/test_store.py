"""Repositories on disk: who may write, what is found, what is removed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from unit.repository.test_manifest import GOOD
from vircpt.errors import BrokenChain, Busy, InvalidInput, Mismatch, NotFound, VircptError
from vircpt.repository import chain, store, sums
from vircpt.repository.manifest import Level, StoredDisk
from vircpt.repository.store import DamagedBackup, Stored, Vm

UUID = GOOD.uuid


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    return store.make_repository(tmp_path / "repository").make_vm("vm 1/ä", UUID)


def add(vm: Vm, number: int, parent: int | None = None, level: Level = Level.FULL) -> Stored:
    above = f"{parent:08x}" if parent is not None else None
    content = replace(
        GOOD,
        id=f"{number:08x}",
        created=1e9 + number,
        repository=vm.repository.id,
        level=level,
        parent=above,
        disks=(StoredDisk("vda", 1, above, None, 1, 1, 0, "a" * 64),),
    )
    return vm.commit(vm.partial(content.created, content.id), content)


def test_a_repository_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "repository"
    with pytest.raises(NotFound, match="no repository"):
        store.open_repository(path)
    made = store.make_repository(path)
    assert store.make_repository(path) == store.open_repository(path) == made
    assert path.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="not empty"):
        store.make_repository(tmp_path)
    with pytest.raises(VircptError, match="cannot write"):
        store.make_repository(tmp_path / "file" / "below")


def test_a_vm_is_found_by_its_uuid(vm: Vm) -> None:
    assert vm.path.name == "vm_1__-4c37b064"
    assert vm.repository.make_vm("renamed", UUID) == vm
    assert vm.repository.make_vm("..", "0" * 36).path.name == "_..-00000000"


def test_backups_come_oldest_first_and_damaged_ones_are_told(vm: Vm) -> None:
    two, one = add(vm, 2), add(vm, 1)
    assert vm.good() == [one, two]
    place = vm.path / "20010909T014640Z-00000007"
    two.path.rename(place)  # not where it belongs
    (damaged,) = vm.damaged()
    assert damaged == DamagedBackup(place, "00000007", damaged.why)
    assert "does not belong here" in damaged.why
    (place / "manifest.json").unlink()
    assert "missing" in vm.damaged()[0].why
    with pytest.raises(Mismatch, match="damaged"):
        store.find(vm.repository, "00000007", [vm])
    assert store.find(vm.repository, "latest", [vm]) == (vm, one)
    with pytest.raises(NotFound):
        store.find(vm.repository, "00000009", [vm])


def test_who_writes_keeps_others_out_and_removes_what_is_left(vm: Vm) -> None:
    vm.partial(1e9, "00000001").joinpath("vda.qcow2").touch()
    (vm.path / ".gone-x").mkdir()
    with vm.writing("vm1"):
        assert [one.name for one in vm.path.iterdir()] == ["lock"]
        vm.partial(1e9, "00000002")
        with pytest.raises(Busy, match=r"process \d+, since"), vm.writing("vm1"):
            pass
        assert vm.path.joinpath(".partial-20010909T014640Z-00000002").exists()


def test_chains(vm: Vm) -> None:
    full = add(vm, 1)
    one = add(vm, 2, 1, Level.INCREMENTAL)
    two = add(vm, 3, 2, Level.INCREMENTAL)
    every = {backup.id: backup for backup in vm.good()}
    assert chain.images(every, two, "vda") == [two, one, full]
    assert chain.full_below(every, two) == full
    assert chain.newest_base(vm.good()) == two
    assert chain.children(vm.good(), one.id) == [two]
    names = {f"vircpt-{vm.repository.id}-{id_}" for id_ in (full.id, two.id)}
    assert chain.needed_checkpoints(vm.good()) == names
    del every[one.id]
    assert chain.full_below(every, two) is None
    with pytest.raises(BrokenChain, match=one.id):
        chain.images(every, two, "vda")
    with pytest.raises(BrokenChain, match="does not hold disk vdb"):
        chain.images(every, full, "vdb")


def test_a_chain_that_goes_round_is_an_error(vm: Vm) -> None:
    add(vm, 1, 2, Level.INCREMENTAL)
    two = add(vm, 2, 1, Level.INCREMENTAL)
    every = {backup.id: backup for backup in vm.good()}
    assert chain.full_below(every, two) is None
    with pytest.raises(BrokenChain, match="rests on itself"):
        chain.images(every, two, "vda")


def test_checksums_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "sums"
    digests = hashlib.sha256(b"one").digest() + hashlib.sha256(b"two").digest()
    data = sums.write(digests, sums.BLOCK + 1)
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    assert sums.read(path, sha256, sums.BLOCK + 1) == digests
    with pytest.raises(Mismatch, match="not of this image"):
        sums.read(path, sha256, sums.BLOCK)
    path.write_bytes(data.replace(b"a", b"b"))
    with pytest.raises(Mismatch, match="damaged"):
        sums.read(path, sha256, sums.BLOCK + 1)
