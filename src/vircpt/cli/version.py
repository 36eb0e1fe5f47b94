"""vircpt --version: our version, and those of what we stand on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vircpt.cli import output

if TYPE_CHECKING:
    from vircpt.cli.session import Session


def show(session: Session, version: str) -> None:
    """Print the versions; a host that can't be reached is told, and is no failure."""
    from vircpt.api import library_versions
    from vircpt.errors import VircptError

    found: dict[str, str | None] = {"vircpt": version, **library_versions()}
    try:
        versions = session.host.versions()
        found |= {"libvirt_daemon": versions.daemon, "qemu": versions.hypervisor}
    except VircptError as error:
        output.warning(session, f"no versions of the daemon and of QEMU: {error}")
        found |= {"libvirt_daemon": None, "qemu": None}
    if session.json:
        output.document("version/1", **found)
        return
    names = {"libvirt": "libvirt (library)", "libvirt_daemon": "libvirt (daemon)", "qemu": "QEMU"}
    for name, value in found.items():
        output.result(f"{names.get(name, name)} {value or 'not reached'}")
