"""The types of the system tests' fixtures, for annotations: conftest.py cannot be imported."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from .vms import Disk, Vm

MOUNT_POINT = "/mnt/vda"  # of the shared guest's file system


class BlankFactory(Protocol):
    """Makes VMs without a guest; `name` may be left out. Started, unless start=False."""

    def __call__(
        self, name: str | None = None, disks: Sequence[Disk] = (Disk("vda"),), *, start: bool = True
    ) -> Vm: ...


class Cli(Protocol):
    """Runs vircpt; `env` is added to the environment."""

    def __call__(
        self,
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]: ...
