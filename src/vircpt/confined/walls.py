"""bubblewrap's part of the sandbox: what the child can see at all."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from vircpt.errors import NotSupported

_SYSTEM = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/lib32")


def import_paths() -> list[str]:
    """Where the child imports from: as we do, less what isn't there."""
    found = [os.path.realpath(one) for one in sys.path if one and os.access(one, os.X_OK)]
    here = str(Path(__file__).resolve().parents[2])
    return list(dict.fromkeys([*found, here]))


def bubblewrap(interpreter: str, paths: Sequence[str]) -> list[str]:
    program = shutil.which("bwrap")
    if program is None:
        raise NotSupported(
            "the program bwrap is missing, which keeps hostile guests' disks confined",
            hint="apt-get install bubblewrap; without protection: --no-sandbox",
        )
    command = [program, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts",
               "--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv",
               "--setenv", "LANG", "C.UTF-8"]  # fmt: skip
    if os.geteuid() == 0:
        # no user namespace: the child becomes the real nobody, and these are gone with that
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    for place in _SYSTEM:
        if Path(place).is_symlink():
            command += ["--symlink", str(Path(place).readlink()), place]
        elif Path(place).is_dir():
            command += ["--ro-bind", place, place]
    bound = [*_SYSTEM]
    for place in [interpreter, sysconfig.get_path("stdlib"), *_packages(paths)]:
        if not any(Path(place).is_relative_to(one) for one in bound):
            command += ["--ro-bind", place, place]
            bound.append(place)
    return [*command, "--remount-ro", "/", "--chdir", "/"]


def _packages(paths: Sequence[str]) -> list[str]:
    """Of the directory that vircpt is in, only vircpt: beside it anything may lie."""
    package = Path(__file__).resolve().parents[1]
    return [str(package) if Path(one) == package.parent else one for one in paths]
