"""Definitions of checkpoints kept outside of libvirt: a directory with a manifest.

    DIR/manifest.json    0600  the domain's UUID, the checkpoints with parents first, hashes
    DIR/0001.xml …       0600  a definition each, as libvirt gave it

The directory is made whole under another name first. What is read is input of a stranger: only
files that the manifest names by number, of bounded size, no links, and with the right hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vircpt.errors import InvalidInput, VircptError
from vircpt.interrupts import uninterrupted

FORMAT = 1
_MANIFEST = "manifest.json"
_LIMIT = 16 << 20
"""Bytes of one file: a definition holds that of its domain, which is never that long."""
_MOST = 100_000
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class SavedDefinition:
    """A checkpoint's name, its parent, and its definition as XML."""

    name: str
    parent: str | None
    xml: str


@dataclass(frozen=True)
class SavedSet:
    """All checkpoints of a domain, parents first; `created` in seconds since 1970."""

    domain: str
    uuid: str
    created: float
    definitions: tuple[SavedDefinition, ...]


@dataclass(frozen=True)
class _Entry:
    name: str
    parent: str | None
    file: str
    sha256: str


def write(directory: Path, saved: SavedSet) -> None:
    """Make the directory; an existing one is never touched, not even an empty one.

    Raises InvalidInput if something is there, VircptError if it can't be written.
    """
    path = directory.absolute()
    if os.path.lexists(path):
        raise InvalidInput(f"{directory} exists already", hint="choose another name")
    temporary = path.with_name(f".{path.name[:200]}.{os.urandom(4).hex()}.part")
    try:
        with uninterrupted():
            temporary.mkdir(mode=0o700)
            try:
                _fill(temporary, saved)
                _place(temporary, path)
            except BaseException:
                _take_away(temporary)
                raise
    except FileExistsError as error:
        raise InvalidInput(f"{directory} exists already", hint="choose another name") from error
    except OSError as error:
        raise VircptError(
            f"cannot write the definitions to {directory}",
            why=f"{error.filename}: {error.strerror}",
        ) from error


def _place(temporary: Path, path: Path) -> None:
    """A rename replaces an empty directory, but never one with content, nor a file or link."""
    path.mkdir(mode=0o700)
    try:
        temporary.rename(path)
        _sync(path.parent)
    except BaseException:
        with suppress(OSError):
            path.rmdir()
        raise


def _take_away(temporary: Path) -> None:
    for one in temporary.iterdir():
        one.unlink()
    temporary.rmdir()


def _fill(directory: Path, saved: SavedSet) -> None:
    entries = []
    for number, one in enumerate(saved.definitions, 1):
        data = one.xml.encode()
        name = f"{number:04}.xml"
        _write_file(directory / name, data)
        entries.append(_Entry(one.name, one.parent, name, hashlib.sha256(data).hexdigest()))
    manifest = {
        "format": FORMAT,
        "domain": saved.domain,
        "uuid": saved.uuid,
        "created": saved.created,
        "checkpoints": [asdict(one) for one in entries],
    }
    _write_file(directory / _MANIFEST, json.dumps(manifest, indent=1).encode())
    _sync(directory)


def _write_file(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(directory: Path) -> SavedSet:
    """What `write` made. Raises InvalidInput for anything else, or if something was changed."""
    try:
        top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InvalidInput(f"cannot read {directory}", why=error.strerror) from error
    try:
        return _parse(top, json.loads(_read_file(top, _MANIFEST)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidInput(
            f"{directory} holds no definitions that vircpt save-metadata wrote", why=str(error)
        ) from error
    except OSError as error:
        raise InvalidInput(
            f"{directory} is not whole", why=f"{error.filename}: {error.strerror}"
        ) from error
    finally:
        os.close(top)


def _parse(top: int, data: dict[str, Any]) -> SavedSet:
    if data["format"] != FORMAT:
        raise ValueError("it was written by another version of vircpt")
    texts = (data["domain"], data["uuid"])
    if not all(isinstance(one, str) for one in texts) or not isinstance(
        data["created"], float | int
    ):
        raise ValueError("its manifest has fields of the wrong kind")
    entries = [_entry(one) for one in data["checkpoints"]]
    if len(entries) > _MOST:
        raise ValueError("it names too many checkpoints")
    _check_order(entries)
    definitions = tuple(
        SavedDefinition(one.name, one.parent, _definition(top, one)) for one in entries
    )
    return SavedSet(data["domain"], data["uuid"], float(data["created"]), definitions)


def _entry(data: dict[str, Any]) -> _Entry:
    one = _Entry(**data)
    if not all(isinstance(value, str) for value in (one.name, one.file, one.sha256)):
        raise ValueError("its manifest has fields of the wrong kind")
    if one.parent is not None and not isinstance(one.parent, str):
        raise ValueError("its manifest has fields of the wrong kind")
    if not re.fullmatch(r"[0-9]{4,6}\.xml", one.file) or not _SHA256.match(one.sha256):
        raise ValueError(f"its manifest names a file that can't be: {one.file!r}")
    return one


def _check_order(entries: Sequence[_Entry]) -> None:
    """Each once, and a parent never after its child; it may be missing altogether."""
    names = [one.name for one in entries]
    if len(set(names)) != len(names):
        raise ValueError("it names a checkpoint twice")
    seen: set[str] = set()
    for one in entries:
        if one.parent in names and one.parent not in seen:
            raise ValueError(f"it names {one.name} before its parent")
        seen.add(one.name)


def _definition(top: int, entry: _Entry) -> str:
    data = _read_file(top, entry.file)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ValueError(f"{entry.file} has been changed: its hash is another one")
    return data.decode()


def _read_file(top: int, name: str) -> bytes:
    """A regular file in the directory, not a link, a pipe or a device, and not too long."""
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=top)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LIMIT:
            raise ValueError(f"{name} is no file, or too long")
        return file.read(_LIMIT + 1)
