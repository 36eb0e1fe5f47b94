"""What QEMU's query-block tells of bitmaps, told apart by the disks' aliases."""

from __future__ import annotations

import json
from typing import Any

from vircpt.hypervisor.bitmaps import LiveBitmap, parse
from vircpt.hypervisor.domain import Disk, DomainFacts


def bitmap(name: str, **changes: Any) -> dict[str, Any]:
    """A bitmap as QEMU 7.2 describes it."""
    usual = {"name": name, "recording": True, "persistent": True, "busy": False,
             "granularity": 65536, "count": 131072}  # fmt: skip
    return {**usual, **changes}


def device(qdev: str, *bitmaps: dict[str, Any]) -> dict[str, Any]:
    """A device as QEMU describes it; QEMU leaves "dirty-bitmaps" out if there is none."""
    inserted: dict[str, Any] = {"node-name": "libvirt-1-format", "ro": False, "drv": "qcow2"}
    if bitmaps:
        inserted["dirty-bitmaps"] = list(bitmaps)
    return {"io-status": "ok", "device": "", "locked": False, "removable": False,
            "type": "unknown", "qdev": qdev, "inserted": inserted}  # fmt: skip


def facts(**aliases: str | None) -> DomainFacts:
    return DomainFacts(
        name="vm1", uuid="u", state="running", is_active=True, has_agent_channel=False,
        agent_connected=False, qemu_owner=None,
        disks=tuple(Disk(target, "disk", "qcow2", "file", "/x", alias=alias)
                    for target, alias in aliases.items()),
    )  # fmt: skip


def answer(*devices: dict[str, Any]) -> str:
    return json.dumps({"return": list(devices), "id": "libvirt-42"})


def test_bitmaps_are_found_by_disk_and_name() -> None:
    text = answer(
        device("/machine/peripheral/virtio-disk0/virtio-backend", bitmap("foo"), bitmap("bar")),
        device("/machine/peripheral/virtio-disk1/virtio-backend", bitmap("foo", count=0)),
    )
    found = parse(text, facts(vda="virtio-disk0", vdb="virtio-disk1"))
    assert {target: sorted(bitmaps) for target, bitmaps in found.items()} == {
        "vda": ["bar", "foo"],
        "vdb": ["foo"],
    }
    assert found["vda"]["foo"] == LiveBitmap(
        "foo", count=131072, granularity=65536, recording=True, busy=False, persistent=True,
        inconsistent=False,
    )  # fmt: skip
    assert found["vdb"]["foo"].count == 0


def test_a_broken_bitmap_is_inconsistent() -> None:
    text = answer(
        device("/machine/peripheral/scsi0-0-0-0",
               bitmap("foo", inconsistent=True, recording=False, busy=True))
    )  # fmt: skip
    found = parse(text, facts(sda="scsi0-0-0-0"))["sda"]["foo"]
    assert (found.inconsistent, found.recording, found.busy) == (True, False, True)


def test_aliases_are_compared_as_a_whole() -> None:
    text = answer(device("/machine/peripheral/virtio-disk10/virtio-backend", bitmap("foo")))
    assert parse(text, facts(vda="virtio-disk1", vdk="virtio-disk10")).keys() == {"vdk"}


def test_a_disk_without_bitmaps_is_there() -> None:
    text = answer(device("/machine/peripheral/virtio-disk0/virtio-backend"))
    assert parse(text, facts(vda="virtio-disk0")) == {"vda": {}}


def test_an_empty_drive_has_no_bitmaps() -> None:
    drive = {"device": "", "qdev": "sata0-0-1", "removable": True, "tray_open": False}
    assert parse(answer(drive), facts(sdb="sata0-0-1")) == {"sdb": {}}


def test_bitmaps_without_a_name_are_not_ours() -> None:
    unnamed = bitmap("x")
    del unnamed["name"]
    text = answer(device("/machine/peripheral/virtio-disk0/virtio-backend", unnamed))
    assert parse(text, facts(vda="virtio-disk0")) == {"vda": {}}


def test_devices_that_are_no_disks_are_ignored() -> None:
    text = answer(
        {"device": "pflash0", "inserted": {}, "removable": False},
        device("/machine/system.flash0", bitmap("foo")),
    )
    assert parse(text, facts(vda="virtio-disk0", vdb=None)) == {}
