"""All that the doctor can find: ids, how bad each is, and a title. docs/doctor.md explains each."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.Enum):
    BROKEN = "broken"
    """something that vircpt or libvirt promises does not work: exit code 13"""
    WARNING = "warning"
    """it works, and may not for long, or not as somebody expects"""
    NOTE = "note"
    """good to know"""


class Safety(enum.Enum):
    """What a repair may do unasked."""

    SAFE = "safe"
    """nothing is lost"""
    DESTRUCTIVE = "destructive"
    """something of vircpt's goes: asked for, or --yes"""
    FOREIGN = "foreign"
    """something goes that vircpt did not make: asked for, or --yes --foreign"""


class Action(enum.Enum):
    """What repair.py can do."""

    DROP_CHECKPOINT = "drop-checkpoint"
    REMOVE_BITMAP = "remove-bitmap"
    REDEFINE = "redefine"
    RELEASE = "release"
    TIDY = "tidy"


@dataclass(frozen=True)
class Repair:
    """A repair: `text` says in words what it does, and what goes with it."""

    action: Action
    safety: Safety
    text: str
    checkpoint: str | None = None
    disk: str | None = None
    bitmap: str | None = None
    export: str | None = None
    uuid: str | None = None


@dataclass(frozen=True)
class Kind:
    severity: Severity
    title: str


@dataclass(frozen=True)
class Finding:
    """Something found; `advice` is the exact repair for a person, `repair` that of --fix."""

    id: str
    cause: str
    consequence: str
    advice: str
    domain: str | None = None
    disk: str | None = None
    checkpoint: str | None = None
    repair: Repair | None = None

    @property
    def severity(self) -> Severity:
        return KINDS[self.id].severity

    @property
    def title(self) -> str:
        return KINDS[self.id].title


_BROKEN, _WARNING, _NOTE = Severity.BROKEN, Severity.WARNING, Severity.NOTE

KINDS: dict[str, Kind] = {
    # bitmaps
    "inconsistent-bitmap": Kind(_BROKEN, "a bitmap was not closed properly"),
    "missing-bitmap": Kind(_BROKEN, "a checkpoint without its bitmap"),
    "disabled-bitmap": Kind(_BROKEN, "a bitmap that notes nothing"),
    "chain-gap": Kind(_BROKEN, "a bitmap has a gap in the chain of images"),
    "granularity-mismatch": Kind(_WARNING, "a bitmap with different granularities"),
    "orphan-bitmap": Kind(_WARNING, "a bitmap without a checkpoint"),
    "bitmap-below": Kind(_NOTE, "a bitmap spread over the chain of images"),
    "unknown-bitmap": Kind(_NOTE, "a bitmap that can't be looked at"),
    # chain
    "lost-metadata": Kind(_WARNING, "bitmaps, and libvirt knows no checkpoint"),
    "unsaved-metadata": Kind(_WARNING, "checkpoints that libvirt will forget"),
    "coverage-gap": Kind(_WARNING, "a checkpoint in the middle leaves a disk out"),
    "foreign-checkpoint": Kind(_NOTE, "checkpoints of another program"),
    # disks
    "disk-gone": Kind(_WARNING, "a checkpoint of a disk that has gone"),
    "disk-added": Kind(_NOTE, "a disk that the newest checkpoint does not cover"),
    "disk-grown": Kind(_WARNING, "a disk that was resized since a checkpoint"),
    "qcow2-v2": Kind(_WARNING, "an image of the old qcow2 version 2"),
    "raw-disk": Kind(_NOTE, "a raw disk"),
    "internal-snapshot": Kind(_WARNING, "internal snapshots beside bitmaps"),
    "image-unreadable": Kind(_WARNING, "an image that can't be read"),
    # exports
    "dead-export": Kind(_WARNING, "what an export left that has died"),
    "damaged-export": Kind(_WARNING, "an export whose state can't be read"),
    "unfinished-export": Kind(_WARNING, "what a killed vircpt left half-made"),
    "foreign-job": Kind(_NOTE, "a backup job of another program"),
    "scratch-small": Kind(_WARNING, "little space for scratch files"),
    "scratch-unreachable": Kind(_WARNING, "scratch files where QEMU can't reach them"),
    # agent
    "agent-missing": Kind(_NOTE, "no channel for the guest agent"),
    "agent-unreachable": Kind(_WARNING, "a guest agent that does not answer"),
    "agent-without-freeze": Kind(_WARNING, "a guest agent that can't freeze"),
    "guest-frozen": Kind(_BROKEN, "a guest with frozen file systems"),
    "clock-off": Kind(_WARNING, "a guest's clock that is far off"),
    # host
    "version-too-old": Kind(_WARNING, "a version that is too old"),
    "missing-tool": Kind(_WARNING, "a program that is not installed"),
    "wrong-nbd-binding": Kind(_WARNING, "the wrong Python module nbd"),
    "no-nbd-module": Kind(_NOTE, "a kernel without nbd devices"),
    "access-denied-by-policy": Kind(_WARNING, "AppArmor or SELinux stopped QEMU"),
    "harmless-message": Kind(_NOTE, "a message in a log that means no harm"),
}
