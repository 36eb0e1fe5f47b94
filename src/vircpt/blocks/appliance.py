"""The process of a mount: libguestfs reads the file systems, FUSE shows them. Runs as a program.

    python -m vircpt.blocks.appliance MARK <request.json

The request (see guestmount.py) names disks and a directory. What was mounted, or what failed,
is told as one line of JSON on stdout; then the process serves the mount until that is
unmounted. The file systems are parsed in libguestfs's appliance, a small VM: what a hostile
one breaks is that, and not this host's kernel.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

_IGNORED = ("swap", "unknown", "")
_PARTITION = re.compile(r"/dev/[hsv]d[a-z]+(p?\d+)?\Z")


class _NothingThere(Exception):
    """No file system can be mounted."""


def main() -> int:
    """Mount, tell, and serve."""
    request = json.load(sys.stdin)
    try:
        import guestfs
    except ImportError as error:
        return _tell({"missing": str(error)})
    handle = guestfs.GuestFS(python_return_dict=True)
    handle.set_tmpdir(request["scratch"])
    try:
        found = _prepare(handle, request)
        options = f"fsname={request['mark']}"
        handle.mount_local(request["place"], readonly=True, options=options)
    except _NothingThere as error:
        handle.close()
        return _tell({"nothing": str(error)})
    except RuntimeError as error:
        handle.close()
        return _tell({"error": str(error)})
    _tell({"filesystems": found})
    _let_go()
    handle.mount_local_run()
    handle.close()
    return 0


def _prepare(handle: Any, request: dict[str, Any]) -> list[dict[str, Any]]:
    for disk in request["disks"]:
        # libguestfs puts a throw-away layer on a read-only drive, into which journals are replayed
        handle.add_drive_opts(
            disk["export"], readonly=True, format="raw", protocol="nbd", server=[disk["server"]]
        )
    # Its QEMU ends with us, at the hands of a process that libguestfs forks now. That looks like
    # us: whoever ends us by our command line has to spare it (processes.end_leaders).
    handle.launch()
    kinds = handle.list_filesystems()
    systems = handle.inspect_os()
    if len(systems) == 1:
        places = {device: at for at, device in handle.inspect_get_mountpoints(systems[0]).items()}
    else:
        places = {device: f"/{_name(handle, device, request)}" for device in kinds}
        for device, at in places.items():
            if kinds[device] not in _IGNORED:
                handle.mkmountpoint(at)
    rows = sorted(kinds.items(), key=lambda row: places.get(row[0], ""))  # parents first
    found = [
        {
            "device": _name(handle, device, request),
            "kind": kind,
            "path": places.get(device),
            "why": _mount(handle, device, kind, places.get(device)),
        }
        for device, kind in rows
    ]
    if all(one["why"] for one in found):
        reasons = "; ".join(f"{one['device']}: {one['why']}" for one in found)
        raise _NothingThere(reasons or "there is none")
    return found


def _mount(handle: Any, device: str, kind: str, at: str | None) -> str | None:
    """Why a file system is not mounted; None if it is."""
    if kind in _IGNORED:
        return f"it is {kind}" if kind else "it is not known"
    if kind.startswith("crypto_"):
        return "it is encrypted"
    if at is None:
        return "the guest's system does not mount it"
    try:
        handle.mount_ro(device, at)
    except RuntimeError as error:
        return str(error).strip().splitlines()[-1]
    return None


def _name(handle: Any, device: str, request: dict[str, Any]) -> str:
    """/dev/sda1 is vda1, if vda is the first disk; /dev/vg/lv is vg-lv."""
    match = _PARTITION.match(device)
    if not match:
        return re.sub(r"[^A-Za-z0-9_.-]", "-", device.removeprefix("/dev/"))
    index = handle.device_index(handle.part_to_dev(device) if match[1] else device)
    return str(request["disks"][index]["target"]) + (match[1] or "")


def _tell(answer: dict[str, Any]) -> int:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 0 if "filesystems" in answer else 1


def _let_go() -> None:
    """Whoever waits for our output need not wait for our end."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(nothing, handle)


if __name__ == "__main__":
    sys.exit(main())
