"""What libvirt, QEMU and the images say of one domain, gathered without changing anything.

QEMU is asked over QMP only where that costs nothing: the domain is tainted by such a question
already, somebody wants it (`deep`), or libvirt shows that a bitmap is no good.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path

from vircpt.blocks import headers
from vircpt.errors import VircptError
from vircpt.hypervisor import bitmaps, checkpoints, probe
from vircpt.hypervisor.bitmaps import LiveBitmap
from vircpt.hypervisor.checkpoints import Checkpoint
from vircpt.hypervisor.domain import Disk, DomainFacts, LibvirtDomain
from vircpt.operations import jobs
from vircpt.operations.doctor.verdicts import Bitmap, Claim, DiskBitmaps, Layer, Verdict, judge

_DEEPEST = 200
_PROTOCOL = re.compile(r"[^/]*:")


@dataclass(frozen=True)
class DiskPicture:
    """A disk: its images from the top (empty if it has none here, `why` if they can't be
    read); `capacity` in bytes, as the guest sees it."""

    disk: Disk
    chain: tuple[headers.ImageInfo, ...]
    why: str | None
    capacity: int | None


@dataclass(frozen=True)
class Picture:
    """All that is known of a domain; `asked_qemu` if it was asked over QMP, `busy` if a job
    kept it from being asked."""

    domain: DomainFacts
    checkpoints: tuple[Checkpoint, ...]
    disks: tuple[DiskPicture, ...]
    verdicts: tuple[Verdict, ...]
    asked_qemu: bool
    busy: bool
    saved: frozenset[str] | None
    """The checkpoints that libvirt has on disk; None if that can't be seen."""


def gather(domain: LibvirtDomain, *, deep: bool) -> Picture:
    """The picture of a domain now."""
    busy = jobs.holds(domain)
    facts = domain.facts()
    known = tuple(checkpoints.list_all(domain, sizes=not busy))
    live = _ask_qemu(domain, facts, known, deep) if facts.is_active and not busy else None
    disks = tuple(_look(domain, facts, disk) for disk in facts.disks)
    claims = [
        Claim(one.name, disk.target, disk.bitmap, vouched=facts.is_active and disk.size is not None)
        for one in known
        for disk in one.disks
    ]
    bitmaps_of = [_bitmaps(one, live) for one in disks]
    return Picture(
        domain=facts,
        checkpoints=known,
        disks=disks,
        verdicts=judge(facts.is_active, claims, bitmaps_of),
        asked_qemu=live is not None,
        busy=busy,
        saved=probe.saved_checkpoints(domain),
    )


def _ask_qemu(
    domain: LibvirtDomain, facts: DomainFacts, known: tuple[Checkpoint, ...], deep: bool
) -> dict[str, dict[str, LiveBitmap]] | None:
    doubtful = any(disk.size is None for one in known for disk in one.disks)
    if deep or doubtful or probe.is_tainted_by_qmp(domain):
        return bitmaps.query(domain, facts)
    return None


def _look(domain: LibvirtDomain, facts: DomainFacts, disk: Disk) -> DiskPicture:
    try:
        capacity = domain.capacity(disk.target) if disk.has_medium else None
    except VircptError:
        capacity = None
    readable = disk.source and disk.source_type in ("file", "block") and disk.device == "disk"
    if domain.connection.is_remote or not readable or disk.source is None:
        return DiskPicture(disk, (), None, capacity)
    chain, why = _chain(disk, facts.is_active)
    return DiskPicture(disk, chain, why, capacity)


def _chain(disk: Disk, running: bool) -> tuple[tuple[headers.ImageInfo, ...], str | None]:
    """The disk's images from the top as far as they can be read, and why no further.

    libvirt names them while the domain runs; else their headers do, which a guest that broke
    out may have written: nothing but regular files are opened then, and only their headers.
    """
    found: list[headers.ImageInfo] = []
    known = list(disk.chain[1:])
    path: str | None = disk.source
    image_format: str | None = disk.format
    while path is not None and image_format is not None and len(found) < _DEEPEST:
        try:
            if found and not running and not stat.S_ISREG(Path(path).stat().st_mode):
                return tuple(found), f"{path}, which {found[-1].path} names, is no file"
            header = headers.read(path, image_format)
        except OSError as error:
            return (), f"{path}: {error.strerror}"
        except VircptError as error:
            return (), error.why or error.what
        found.append(header)
        if header.backing is not None and _PROTOCOL.match(header.backing):
            break
        below = str(Path(path).parent / header.backing) if header.backing else None
        path = (known.pop(0) if known else None) if running else below
        image_format = header.backing_format
    return tuple(found), None


def _bitmaps(one: DiskPicture, live: dict[str, dict[str, LiveBitmap]] | None) -> DiskBitmaps:
    target = one.disk.target
    in_qemu = None
    if live is not None:
        in_qemu = tuple(
            Bitmap(bitmap.name, bitmap.granularity, bitmap.inconsistent, bitmap.recording)
            for bitmap in live.get(target, {}).values()
            if bitmap.persistent  # others belong to a job, and go with it
        )
    layers = tuple(
        Layer(
            image.path,
            tuple(
                Bitmap(stored.name, stored.granularity, stored.in_use, stored.enabled)
                for stored in image.bitmaps
            ),
        )
        for image in one.chain
    )
    return DiskBitmaps(target, in_qemu, layers or None)
