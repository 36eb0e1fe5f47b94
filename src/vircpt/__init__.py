"""vircpt: checkpoints of running libvirt domains, and what they are good for.

The public API, in one list; everything else may change. See ARCHITECTURE.md for the rooms.

    import vircpt
    with vircpt.connect("qemu:///system") as host:
        vm = host.domain("vm1")
        vm.create_checkpoint("foo")
        with vm.export(since="foo") as export:
            for extent in export.disk("vda").dirty():
                print(extent.offset, extent.length)

Sizes and offsets are bytes, times are seconds (points in time since 1970, UTC). Whatever
fails raises a `VircptError`; its sub-classes are told apart in `vircpt.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vircpt import errors
from vircpt.errors import VircptError

if TYPE_CHECKING:
    from vircpt.api import (
        Domain,
        Export,
        Extent,
        Freeze,
        Host,
        Level,
        Repository,
        Totals,
        connect,
        open_repository,
    )

__version__ = "0.1.0"
__all__ = [
    "Domain",
    "Export",
    "Extent",
    "Freeze",
    "Host",
    "Level",
    "Repository",
    "Totals",
    "VircptError",
    "__version__",
    "connect",
    "errors",
    "open_repository",
]


def __getattr__(name: str) -> object:
    """Import on first use: the command line needs little of this, and starts often."""
    if name not in __all__:
        raise AttributeError(f"module 'vircpt' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("vircpt.api"), name)
