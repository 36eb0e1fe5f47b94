"""QEMU's live dirty bitmaps of a running domain, asked for over QMP (read-only).

A QMP query by a third party marks the domain as tainted ("custom-monitor") in libvirt, for
good: ask only when libvirt's own answer shows that something is wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vircpt.hypervisor.domain import DomainFacts, LibvirtDomain
from vircpt.hypervisor.translate import translated


@dataclass(frozen=True)
class LiveBitmap:
    """A bitmap in QEMU; `count` is the dirty bytes."""

    name: str
    count: int
    granularity: int
    recording: bool
    busy: bool
    persistent: bool
    inconsistent: bool


def query(domain: LibvirtDomain, facts: DomainFacts) -> dict[str, dict[str, LiveBitmap]]:
    """Per disk target, the bitmaps by name on the image that QEMU writes to."""
    import libvirt_qemu

    with translated("cannot ask QEMU for its bitmaps", domain=domain.name):
        text = libvirt_qemu.qemuMonitorCommand(
            domain.raw, json.dumps({"execute": "query-block"}), 0
        )
    return parse(text, facts)


def parse(text: str, facts: DomainFacts) -> dict[str, dict[str, LiveBitmap]]:
    """What `query-block` answered, by disk target: devices are told apart by their alias."""
    found: dict[str, dict[str, LiveBitmap]] = {}
    for device in json.loads(text)["return"]:
        parts = str(device.get("qdev") or "").split("/")
        for disk in facts.disks:
            if disk.alias and disk.alias in parts:
                bitmaps = (device.get("inserted") or {}).get("dirty-bitmaps", ())
                found[disk.target] = {one["name"]: _bitmap(one) for one in bitmaps if "name" in one}
    return found


def _bitmap(one: dict[str, Any]) -> LiveBitmap:
    return LiveBitmap(
        name=one["name"],
        count=int(one["count"]),
        granularity=int(one["granularity"]),
        recording=bool(one["recording"]),
        busy=bool(one["busy"]),
        persistent=bool(one["persistent"]),
        inconsistent=bool(one.get("inconsistent", False)),
    )
