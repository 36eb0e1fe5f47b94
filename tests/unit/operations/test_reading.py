"""The disks of an export, from what is written down of it: their URIs, which one is meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vircpt.errors import InvalidInput, NotFound
from vircpt.hypervisor.backups import BackupJob, Listen
from vircpt.operations import reading
from vircpt.operations.ownership import is_ours
from vircpt.records.exports import ExportDirectory
from vircpt.records.state import DiskRecord, ExportRecord

RECORD = ExportRecord(
    id="0123abcd", kind="live", uri="qemu:///system", domain="vm1", uuid="u", user="me",
    created=0.0, base="friday",
    disks=(DiskRecord("vda", since="friday"), DiskRecord("vdb")),
)  # fmt: skip
PLACE = Path("/var/lib/vircpt/exports/0123abcd")


def directory(**changes: object) -> ExportDirectory:
    return ExportDirectory(PLACE, replace(RECORD, **changes))  # type: ignore[arg-type]


def job(listen: Listen, *scratch: str) -> BackupJob:
    return BackupJob(True, listen, frozenset(), ("vda",), scratch)


def test_disks_on_a_socket() -> None:
    vda, vdb = reading.disks(directory())
    assert vda.uri == f"nbd+unix:///vda?socket={PLACE}/io/nbd.sock"
    assert (vda.domain, vda.target, vda.since, vda.bitmap) == ("vm1", "vda", "friday", "backup-vda")
    assert (vdb.target, vdb.since, vdb.bitmap) == ("vdb", None, None)


def test_disks_on_tcp() -> None:
    listening = directory(address="192.0.2.1", port=9000, tls_dir="/tls")
    assert reading.disk(listening, "vdb").uri == ("nbds://192.0.2.1:9000/vdb?tls-certificates=/tls")


def test_without_its_bitmap_a_disk_is_the_same_disk() -> None:
    vda = reading.disk(directory(), "vda")
    assert vda.without_bitmap() == replace(vda, bitmap=None)


def test_the_only_disk_need_not_be_named() -> None:
    assert reading.disk(directory(disks=RECORD.disks[1:]), None).target == "vdb"


def test_one_of_many_must_be_named() -> None:
    with pytest.raises(InvalidInput, match="which disk") as caught:
        reading.disk(directory(), None)
    assert "vda, vdb" in str(caught.value)


def test_an_unknown_disk_is_not_found() -> None:
    with pytest.raises(NotFound, match="no disk 'vdz'") as caught:
        reading.disk(directory(), "vdz")
    assert caught.value.hint == "it holds vda, vdb"


def test_a_job_is_ours_if_it_serves_from_our_directory() -> None:
    assert is_ours(job(Listen(socket=f"{PLACE}/io/nbd.sock")), directory())
    assert not is_ours(job(Listen(socket="/tmp/other.sock")), directory())
    assert not is_ours(job(Listen(socket=f"{PLACE}x/io/nbd.sock")), directory())


def test_a_job_on_tcp_is_ours_if_its_scratch_files_are() -> None:
    ours = directory(address="192.0.2.1", port=9000, scratch_dir="/scratch")
    listen = Listen(address="192.0.2.1", port=9001)
    assert is_ours(job(listen, "/scratch/vircpt-0123abcd/vda.scratch"), ours)
    assert not is_ours(job(listen, "/scratch/vircpt-0123abcdef/vda.scratch"), ours)
    assert not is_ours(job(listen, "/scratch/other/vda.scratch"), ours)


def test_a_job_on_tcp_elsewhere_is_known_by_its_scratch_files() -> None:
    ours = directory(address="192.0.2.1", port=9000, remote=True)
    listen = Listen(address="192.0.2.1", port=9000)
    assert is_ours(job(listen, "/images/a.qcow2.vircpt-0123abcd"), ours)
    assert not is_ours(job(listen, "/images/a.qcow2.1795455101"), ours)
    assert not is_ours(job(listen), ours)


def test_a_job_that_pushes_is_not_ours() -> None:
    assert not is_ours(job(Listen()), directory())
