"""State files: what is remembered of an export. They are read as hostile input."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT = 1
NAME = "state.json"
_LATEST = 250e9
"""Seconds since 1970: a time in the year 9892, which calendars can tell."""
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
    `purpose` is "hotadd", "mount" or "boot" if it was made for such a consumer (see
    consumers.py): it goes with the last one. None if somebody asked for the export itself.
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
    purpose: str | None = None
    owned: bool = False
    """It ends with the process that started it, and its checkpoint with it."""
    nonce: int | None = None
    """Of the checkpoint that is made with an owned export."""


def write(directory: Path, record: DataclassInstance) -> None:
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


def load(directory: Path) -> dict[str, Any] | str | None:
    """What a state file holds, or why it can't be read; None if there is no directory."""
    try:
        data = json.loads((directory / NAME).read_text())
        if data.pop("format") != FORMAT:
            return "it was written by another version of vircpt"
    except NotADirectoryError:
        return None
    except FileNotFoundError:
        return f"it has no {NAME}" if directory.is_dir() else None
    except (OSError, UnicodeDecodeError) as error:
        return str(error)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return f"{NAME}: {type(error).__name__}: {error}"
    found: dict[str, Any] = data
    return found


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
    if not isinstance(record.uuid, str) or not is_uuid(record.uuid):
        raise ValueError("that is no UUID")
    check_types(record)
    for disk in record.disks:
        check_types(disk)
    return record


def is_uuid(text: str) -> bool:
    """Whether it has the form of a UUID, and so is harmless in a path."""
    return _UUID.match(text) is not None


def check_types(record: DataclassInstance) -> None:
    """Raise ValueError unless each field is what its annotation says, and each time can be."""
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
        if names[0] == "float" and value is not None and not 0 <= value < _LATEST:
            raise ValueError(f"{one.name} is {value!r}, which is no time")
