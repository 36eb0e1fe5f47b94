"""What the child can be asked: the layout, what changed, lists of files, and files."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pkgutil import walk_packages

from vircpt import guestfiles
from vircpt.confined.fetching import fetch
from vircpt.confined.finding import Disks, describe, find, list_files
from vircpt.confined.messages import Answer, FetchFiles, FindChanges, ListFiles, LookAtLayout

_OPTIONAL = ("zstandard",)
_CODECS = ("utf-8", "utf-16-le", "latin-1", "ascii", "cp437")


def run(
    request: LookAtLayout | FindChanges | ListFiles | FetchFiles, disks: Disks
) -> Iterator[Answer | bytes]:
    """The answers to a request, as they are found; raises VircptError."""
    match request:
        case LookAtLayout():
            return describe(request, disks)
        case FindChanges():
            return find(request, disks)
        case ListFiles():
            return list_files(request, disks)
        case FetchFiles():
            return fetch(request, disks)


def preload() -> None:
    """Import all that parsing takes: behind the closed doors no module can be read any more."""
    for module in walk_packages(guestfiles.__path__, "vircpt.guestfiles."):
        import_module(module.name)
    for name in _OPTIONAL:
        with suppress(ImportError):  # told when it is needed
            import_module(name)
    for name in _CODECS:
        codecs.lookup(name)
