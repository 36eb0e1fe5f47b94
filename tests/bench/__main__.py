"""python -m bench [list|create|freeze|map|hotadd …], in the lab: script/bench does it."""

from __future__ import annotations

import os
import sys

import libvirt

from lab.daemon import LabError, Libvirtd

from .commands import create_rows, freeze_rows, list_rows
from .dirtymap import map_rows
from .files import files_rows
from .hotadd import hotadd_rows
from .timing import table

BENCHES = {
    "list": list_rows,
    "create": create_rows,
    "freeze": freeze_rows,
    "map": map_rows,
    "hotadd": hotadd_rows,
    "files": files_rows,
}


def main(chosen: list[str]) -> int:
    if unknown := set(chosen) - set(BENCHES):
        sys.stderr.write(f"bench: no {', '.join(unknown)}; there are {', '.join(BENCHES)}\n")
        return 2
    libvirt.registerErrorHandler(lambda *_: None, None)  # errors come as exceptions as well
    os.environ["LIBVIRT_DEFAULT_URI"] = "qemu:///system"  # for all that is measured
    os.environ.pop("PYTHONPATH", None)  # was for this process
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or vircpt is compiled anew at each run
    rows = []
    try:
        with Libvirtd():
            connection = libvirt.open()
            for name in chosen or BENCHES:
                sys.stderr.write(f"bench: {name}\n")
                rows += list(BENCHES[name](connection))
            connection.close()
    except LabError as error:
        sys.stderr.write(f"bench: error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
