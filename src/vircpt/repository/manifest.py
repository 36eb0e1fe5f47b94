"""The manifest of a backup: what stands in it, checked as input of an enemy. Pure.

Nothing in it is a path: names of files follow from ids and targets, which match strict
patterns. The words of docs/backup-format.md.
"""

from __future__ import annotations

import enum
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCHEMA = "vircpt/backup-manifest/1"
ID = re.compile(r"[0-9a-f]{8}\Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
FILES = ("domain.xml", "nvram", "kernel", "initrd", "tpm.tar")
"""The names that files beside the disks may have."""
_MOST = 1 << 63


class Level(enum.Enum):
    """How much a backup holds."""

    FULL = "full"
    INCREMENTAL = "incremental"
    DIFFERENTIAL = "differential"
    COPY = "copy"


@dataclass(frozen=True)
class StoredDisk:
    """A disk in a backup, in bytes: its `size`, the `stored` length of its file, and how much
    of the disk is `data` and `zero` in it. `parent` is the id of the backup that holds its
    backing file. `sums` is the SHA-256 of the file of checksums.
    """

    target: str
    size: int
    parent: str | None
    why_full: str | None
    stored: int
    data: int
    zero: int
    sums: str


@dataclass(frozen=True)
class StoredFile:
    """A file beside the disks; `length` in bytes."""

    name: str
    length: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A backup; `created` in seconds since 1970, when its data was frozen."""

    id: str
    created: float
    repository: str
    domain: str
    uuid: str
    level: Level
    parent: str | None
    checkpoint: bool
    state: str
    freeze: str | None
    compress: str
    disks: tuple[StoredDisk, ...]
    files: tuple[StoredFile, ...]

    @property
    def stored(self) -> int:
        """Bytes of all its images."""
        return sum(disk.stored for disk in self.disks)

    def disk(self, target: str) -> StoredDisk | None:
        return next((disk for disk in self.disks if disk.target == target), None)


def directory_name(created: float, backup_id: str) -> str:
    """20261123T170405Z-9f8e7d6c"""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(created))}-{backup_id}"


def is_target(text: str) -> bool:
    """Whether a disk's target can be the name of a file."""
    return _TARGET.match(text) is not None


def image_name(target: str) -> str:
    return f"{target}.qcow2"


def sums_name(target: str) -> str:
    return f"{target}.qcow2.sums"


def checkpoint_name(repository: str, backup_id: str) -> str:
    """The checkpoint that is made with a backup."""
    return f"vircpt-{repository}-{backup_id}"


def dump(manifest: Manifest) -> dict[str, Any]:
    """As it stands in the file."""
    from dataclasses import asdict

    content = asdict(manifest)
    content |= {"level": manifest.level.value}
    content |= {key: list(content[key]) for key in ("disks", "files")}
    return {"schema": SCHEMA, **content}


def parse(data: Mapping[str, Any]) -> Manifest:
    """Raises ValueError, in words, for anything that is not as it should be."""
    if data.get("schema") != SCHEMA:
        raise ValueError(f"its schema is {data.get('schema')!r}, of another version of vircpt")
    disks = tuple(_parse_disk(one) for one in _list(data, "disks"))
    files = tuple(_parse_file(one) for one in _list(data, "files"))
    if len({one.target for one in disks}) < len(disks):
        raise ValueError("it names a disk twice")
    if len({one.name for one in files}) < len(files):
        raise ValueError("it names a file twice")
    created = data.get("created")
    if isinstance(created, bool) or not isinstance(created, (int, float)):
        raise ValueError("created is no number")
    if not 0 <= created < 1 << 36:
        raise ValueError("created is out of range")
    return Manifest(
        id=_match(data, "id", ID),
        created=created,
        repository=_match(data, "repository", ID),
        domain=_text(data, "domain"),
        uuid=_match(data, "uuid", _UUID),
        level=Level(_text(data, "level")),
        parent=_optional(data, "parent", ID),
        checkpoint=data.get("checkpoint") is True,
        state=_text(data, "state"),
        freeze=None if data.get("freeze") is None else _text(data, "freeze"),
        compress=_text(data, "compress"),
        disks=disks,
        files=files,
    )


def _parse_disk(data: Mapping[str, Any]) -> StoredDisk:
    return StoredDisk(
        target=_match(data, "target", _TARGET),
        size=_number(data, "size"),
        parent=_optional(data, "parent", ID),
        why_full=None if data.get("why_full") is None else _text(data, "why_full"),
        stored=_number(data, "stored"),
        data=_number(data, "data"),
        zero=_number(data, "zero"),
        sums=_match(data, "sums", _SHA256),
    )


def _parse_file(data: Mapping[str, Any]) -> StoredFile:
    name = _text(data, "name")
    if name not in FILES:
        raise ValueError(f"it names a file {name[:40]!r}, which no backup has")
    return StoredFile(name, _number(data, "length"), _match(data, "sha256", _SHA256))


def _list(data: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = data.get(key)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError(f"{key} is no list of objects")
    return found


def _text(data: Mapping[str, Any], key: str) -> str:
    found = data.get(key)
    if not isinstance(found, str) or not found:
        raise ValueError(f"{key} is no text")
    return found


def _match(data: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    found = _text(data, key)
    if not pattern.match(found):
        raise ValueError(f"{key} is {found[:60]!r}, which it can't be")
    return found


def _optional(data: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str | None:
    return None if data.get(key) is None else _match(data, key, pattern)


def _number(data: Mapping[str, Any], key: str) -> int:
    found = data.get(key)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < _MOST:
        raise ValueError(f"{key} is no size")
    return found
