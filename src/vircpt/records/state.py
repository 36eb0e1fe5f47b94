"""The state file of an export: what is remembered of it. It is read as hostile input."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

FORMAT = 1
NAME = "state.json"
_UUID = re.compile(r"[0-9a-fA-F-]{36}\Z")


@dataclass(frozen=True)
class DiskRecord:
    """A disk of an export: the checkpoint its bitmap comes from, if any."""

    target: str
    since: str | None = None


@dataclass(frozen=True)
class ExportRecord:
    """What is written down about an export; times in seconds since 1970.

    `kind` is "live" (a backup job in libvirt) or "offline" (a storage daemon of ours).
    `address` and `port` are those of TCP exports; `remote` if QEMU runs on another host.
    """

    id: str
    kind: str
    uri: str
    domain: str
    uuid: str
    user: str
    created: float
    disks: tuple[DiskRecord, ...] = ()
    base: str | None = None
    checkpoint: str | None = None
    remote: bool = False
    address: str | None = None
    port: int | None = None
    tls_dir: str | None = None
    scratch_dir: str | None = None
    expires: float | None = None
    owned: bool = False
    """It ends with the process that started it, and its checkpoint with it."""
    nonce: int | None = None
    """Of the checkpoint that is made with an owned export."""


def write(directory: Path, record: ExportRecord) -> None:
    """Write it into `directory`: whole, or not at all."""
    data = json.dumps({"format": FORMAT, **asdict(record)}, indent=1)
    temporary = directory / f".state-{os.urandom(4).hex()}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(directory / NAME)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def parse(text: str, export_id: str) -> ExportRecord:
    """Raises ValueError, TypeError, KeyError, AttributeError or RecursionError if damaged."""
    data: dict[str, Any] = json.loads(text)
    if data.pop("format") != FORMAT:
        raise ValueError("it was written by another version of vircpt")
    if data["id"] != export_id:
        raise ValueError("it belongs to another export")
    data["disks"] = tuple(DiskRecord(**disk) for disk in data["disks"])
    record = ExportRecord(**data)
    if record.kind not in ("live", "offline"):
        raise ValueError(f"unknown kind {record.kind!r}")
    if not isinstance(record.uuid, str) or not _UUID.match(record.uuid):
        raise ValueError("that is no UUID")
    _check_types(record)
    for disk in record.disks:
        _check_types(disk)
    return record


def _check_types(record: ExportRecord | DiskRecord) -> None:
    """Raise ValueError unless each field is what its annotation says."""
    kinds = {"str": str, "int": int, "float": (int, float), "bool": bool, "None": type(None)}
    for one in fields(record):
        names = str(one.type).split(" | ")
        if names[0] not in kinds:
            continue
        value = getattr(record, one.name)
        allowed = tuple(kinds[name] for name in names)
        is_bool = isinstance(value, bool)
        if is_bool != (names == ["bool"]) or not isinstance(value, allowed):  # type: ignore[arg-type]
            raise ValueError(f"{one.name} is a {type(value).__name__}")
