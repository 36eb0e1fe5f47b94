"""Release an export when its time has come, also when the vircpt that started it has gone.

`watch` starts a process of its own that sleeps, and runs `main` here: at the export's end
it opens a connection and releases; if the export is released earlier it just goes. The end
of an owned export is that of its owner.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from vircpt.children import let_go
from vircpt.errors import NotFound, VircptError
from vircpt.operations import ownership
from vircpt.records import directories
from vircpt.records import exports as records
from vircpt.records.exports import ExportDirectory

_LOOK = 20.0
"""Seconds between looks whether the export is there still; also bridges a suspended host."""


def watch(directory: ExportDirectory) -> None:
    """Start the process that releases the export when it expires."""
    process = subprocess.Popen(
        [sys.executable, "-m", ownership.WATCHER, directory.record.id],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env={**os.environ, "VIRCPT_STATE_DIR": str(directories.base())},
    )
    let_go(process)


def main(export_id: str) -> None:
    """Sleep until the export expires, then release it; try again for as long as it takes.

    What its state said once holds if it is damaged later.
    """
    directory: ExportDirectory | None = None
    while True:
        try:
            directory = records.read(export_id)
        except NotFound:
            return
        except VircptError:
            if directory is None:
                time.sleep(_LOOK)
                continue
        record = directory.record
        if record.owned:
            if records.is_abandoned(directory, wait=True):
                _release(directory)
            return
        if record.expires is None:
            return
        left = record.expires - time.time()
        if left <= 0:
            break
        time.sleep(min(left, _LOOK))
    _release(directory)


def _release(directory: ExportDirectory) -> None:
    from vircpt.hypervisor.connection import Connection
    from vircpt.operations import release

    pause = 0.5
    while True:
        try:
            with Connection(directory.record.uri) as connection:
                if directory.record.owned:
                    release.release_abandoned(connection, directory)
                else:
                    release.release_expired(connection, directory)
        except NotFound:
            return
        except VircptError:
            if not directory.path.exists():
                return
            time.sleep(pause)
            pause = min(2 * pause, 15)
        else:
            return


if __name__ == "__main__":
    main(sys.argv[1])
