"""Files of ours in directories that others may be changing: made, read and removed with care.

Root must not follow what QEMU's user, or the owner of a scratch directory, can replant: links
are never followed, and a directory is given away by its handle.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vircpt.errors import NotSupported, VircptError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

STATE = "state.json"


def make_private(path: Path, owner: tuple[int, int] | None) -> None:
    """Make a directory for one user alone: `owner`, if we may give it away, else us."""
    path.mkdir(mode=0o700)  # fails if anything is there, a link too
    try:
        if owner and os.geteuid() == 0:
            _give(path, owner)
    except BaseException:
        path.rmdir()
        raise


def _give(path: Path, owner: tuple[int, int]) -> None:
    """By its handle: in a directory of somebody else the name may lead elsewhere by now."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(handle)
        if status.st_uid != 0 or status.st_mode & 0o077:
            raise NotSupported(
                f"somebody meddles with {path}",
                why="it is not the directory that was just made",
                hint="use a directory that only root may write to",
            )
        os.fchown(handle, *owner)
    finally:
        os.close(handle)


def write_state(directory: Path, data: dict[str, Any]) -> None:
    """Write the state file of a directory, whole or not at all."""
    temporary = directory / f".state-{os.urandom(4).hex()}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(data, indent=1))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(directory / STATE)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_state(directory: Path) -> dict[str, Any] | str | None:
    """What its state file says; a text says why it can't be read, None if there is no directory."""
    try:
        data = json.loads((directory / STATE).read_text())
    except NotADirectoryError:
        return None
    except FileNotFoundError:
        return f"it has no {STATE}" if directory.is_dir() else None
    except (OSError, UnicodeDecodeError) as error:
        return str(error)
    except (ValueError, RecursionError) as error:
        return f"{STATE}: {type(error).__name__}: {error}"
    return data if isinstance(data, dict) else f"{STATE}: it is no object"


def check_types(record: DataclassInstance) -> None:
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


def remove_tree(path: Path) -> None:
    """Remove a directory that its owner may be changing meanwhile: rmtree follows no links."""
    import shutil  # with all its compressors, which who only looks should not wait for

    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except (RecursionError, OSError):
        _remove_deep(path)


def _remove_deep(path: Path) -> None:
    """For what QEMU's user has nested too deep for Python; rm follows no links either."""
    import subprocess

    done = subprocess.run(
        ["rm", "-rf", "--one-file-system", "--", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise VircptError(
            f"cannot remove {path}",
            why=done.stderr.strip()[-500:],
            hint=f"remove it by hand: rm -r {path}",
        )
