"""Directories of vircpt's own: where they are, that nobody else can lead them astray, their end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vircpt import ways
from vircpt.errors import InvalidInput, NotSupported, VircptError


def base() -> Path:
    """The directory of all that vircpt remembers."""
    given = os.environ.get("VIRCPT_STATE_DIR")
    if given:
        return Path(given).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/vircpt")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "vircpt"


def make_base() -> Path:
    """The directory of all, and those in it; made if they are not there. Raises VircptError."""
    top = base()
    try:
        for path, mode in ((top, 0o711), (top / "exports", 0o711), (top / "locks", 0o700)):
            if not path.is_dir():
                path.mkdir(mode=mode, parents=True, exist_ok=True)
                path.chmod(mode)
            check(path)
    except OSError as error:
        raise unusable(top, error) from error
    return top


def check(path: Path) -> None:
    """Raise NotSupported if somebody else could lead us astray; OSError if it is not there.

    Links are good as long as nobody else could have made them.
    """
    for step in ways.walk(str(path)):
        _check_step(step)
    _check_ours(path)


def _check_step(step: ways.Step) -> None:
    if _is_open_to_others(step.directory_status, step.status.st_uid):
        raise NotSupported(
            f"{step.entry} can't be trusted",
            why=f"other users may write to {step.directory}, or own it",
            hint=f"chmod go-w {step.directory}, or set VIRCPT_STATE_DIR to another directory",
        )


def _is_open_to_others(directory: os.stat_result, entry_owner: int) -> bool:
    """True if others could replace an entry of that directory."""
    ours = (0, os.geteuid())
    by_others = directory.st_mode & 0o022
    if os.geteuid() != 0 and directory.st_gid == os.getegid():
        by_others &= 0o002  # many a user has a group of their own
    is_safe = directory.st_mode & stat.S_ISVTX and entry_owner in ours
    return directory.st_uid not in ours or bool(by_others and not is_safe)


def unusable(top: Path, error: OSError) -> VircptError:
    """The error for a directory of state that can't be used."""
    return VircptError(
        f"cannot use {top} for the state of exports",
        why=f"{error.filename}: {error.strerror}",
        hint="run as root, or set VIRCPT_STATE_DIR to a directory of yours",
    )


def _check_ours(path: Path) -> None:
    """A directory that somebody else can write to could be made to lead us astray."""
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o022:
        raise NotSupported(
            f"{path} can't be trusted",
            why="other users may write to it, or own it",
            hint=f"chown it to yourself and chmod go-w {path}",
        )


def check_scratch(path: Path) -> None:
    """Raises InvalidInput unless it is the absolute path of a directory, and NotSupported if
    somebody else could replace what we make there: libvirtd, who is root, would follow a link.
    """
    if not path.is_absolute():
        raise InvalidInput(f"the scratch directory {path} is no absolute path")
    if not path.is_dir():
        raise InvalidInput(f"the scratch directory {path} is no directory", hint="make it first")
    try:
        steps = [(one.directory, one.directory_status, one.status.st_uid) for one in
                 ways.walk(str(path))]  # fmt: skip
        steps.append((str(path), path.stat(), os.geteuid()))
    except OSError as error:
        raise VircptError(f"cannot use {path}", why=error.strerror or str(error)) from error
    for directory, status, entry_owner in steps:
        if _is_open_to_others(status, entry_owner):
            raise NotSupported(
                f"the scratch directory {path} can't be trusted",
                why=f"other users may write to {directory}, or own it",
                hint="name a directory that only root may write to, or a sticky one such as "
                "/var/tmp",
            )


def make_private(path: Path, owner: tuple[int, int] | None) -> None:
    """Make a directory for `owner` (user and group) alone, if we can give it away; else ours."""
    path.mkdir(mode=0o700)  # fails if anything is there, a link too
    try:
        if owner and os.geteuid() == 0:
            _hand_over(path, owner)
    except BaseException:
        path.rmdir()
        raise


def make_passable(path: Path) -> None:
    """Make a directory of ours that QEMU's user may pass through."""
    path.mkdir(mode=0o700)  # fails if anything is there, a link too
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(handle).st_uid != os.geteuid():
                raise _meddled(path)
            os.fchmod(handle, 0o711)  # whatever the umask is
        finally:
            os.close(handle)
    except BaseException:
        path.rmdir()
        raise


def _meddled(path: Path) -> NotSupported:
    return NotSupported(
        f"somebody meddles with {path}",
        why="it is not the directory that was just made",
        hint="use a directory that only root may write to",
    )


def _hand_over(path: Path, owner: tuple[int, int]) -> None:
    """By its handle: in a directory of somebody else the name may lead elsewhere by now."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(handle)
        if status.st_uid != 0 or status.st_mode & 0o077:
            raise _meddled(path)
        os.fchown(handle, *owner)
    finally:
        os.close(handle)


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
