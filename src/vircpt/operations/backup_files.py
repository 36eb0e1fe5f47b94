"""What a backup holds beside the disks: the definition, NVRAM, TPM state, kernel and initrd."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

from vircpt.errors import VircptError
from vircpt.hypervisor.domain import LibvirtDomain, boot_files
from vircpt.operations.selection import Skipped
from vircpt.repository import files
from vircpt.repository.manifest import StoredFile

_SWTPM = Path("/var/lib/libvirt/swtpm")
_PIECE = 1 << 20


def collect(domain: LibvirtDomain, directory: Path) -> tuple[list[StoredFile], list[Skipped]]:
    """Store them in `directory`; those that can't be read from here are left out, with why."""
    definition = domain.full_definition()
    found = [_write(directory, "domain.xml", definition.encode())]
    left_out: list[Skipped] = []
    wanted = boot_files(definition)
    for name, path in (
        ("nvram", wanted.nvram),
        ("kernel", wanted.kernel),
        ("initrd", wanted.initrd),
    ):
        if path is None:
            continue
        try:
            if domain.connection.is_remote:
                raise OSError("it is on another host")
            found.append(_copy(Path(path.strip()), directory, name))
        except OSError as error:
            left_out.append(Skipped(name, f"{path}: {error.strerror or error}"))
    if wanted.tpm:
        try:
            found.append(_write(directory, "tpm.tar", _tar(_SWTPM / domain.uuid)))
        except OSError as error:
            left_out.append(Skipped("tpm", f"{_SWTPM / domain.uuid}: {error.strerror or error}"))
    return found, left_out


def _write(directory: Path, name: str, data: bytes) -> StoredFile:
    try:
        files.write_new(directory / name, data)
    except OSError as error:
        raise VircptError(f"cannot write {directory / name}", why=error.strerror) from error
    return StoredFile(name, len(data), hashlib.sha256(data).hexdigest())


def _copy(source: Path, directory: Path, name: str) -> StoredFile:
    """Piece by piece: an initrd may be larger than the memory that we want to take."""
    handle = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # waits for no fifo
    with os.fdopen(handle, "rb") as reader:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("it is no file")
        digest, length = hashlib.sha256(), 0
        try:
            with os.fdopen(files.create(directory / name), "wb") as writer:
                while piece := reader.read(_PIECE):
                    writer.write(piece)
                    digest.update(piece)
                    length += len(piece)
                writer.flush()
                os.fsync(writer.fileno())
        except OSError as error:
            raise VircptError(f"cannot write {directory / name}", why=error.strerror) from error
    return StoredFile(name, length, digest.hexdigest())


def _tar(directory: Path) -> bytes:
    """The regular files below a directory, of which QEMU's user is the owner: no links."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for place, below, names in os.walk(directory, onerror=_raise):
            below.sort()
            for name in sorted(names):
                path = Path(place) / name
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                with os.fdopen(handle, "rb") as file:
                    if stat.S_ISREG(os.fstat(handle).st_mode):
                        entry = archive.gettarinfo(str(path), str(path.relative_to(directory)),
                                                   file)  # fmt: skip
                        archive.addfile(entry, file)
    return packed.getvalue()


def _raise(error: OSError) -> None:
    raise error
