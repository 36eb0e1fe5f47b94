"""What AppArmor and SELinux need so that QEMU can use exports: recognised, and told as exact rules.

docs/security.md explains them. Whether one of them is active is asked of this host's kernel.
"""

from __future__ import annotations

from pathlib import Path

_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
_SELINUX = Path("/sys/fs/selinux/enforce")

APPARMOR_RULES = (
    "/var/lib/vircpt/exports/*/io/** rwk,",
    "/var/lib/vircpt/exports/*/scratch/** rwk,",
    "/var/lib/vircpt/exports/*/consumers/*/** rwk,",
)
"""For /etc/apparmor.d/local/abstractions/libvirt-qemu."""
SELINUX_RULES = (
    "semanage fcontext -a -t svirt_image_t '/var/lib/vircpt/exports(/.*)?'",
    "restorecon -R /var/lib/vircpt/exports",
)


def hint(apparmor: Path = _APPARMOR, selinux: Path = _SELINUX) -> str:
    """What to do about a "Permission denied" of QEMU's, by what is active here."""
    if _says(apparmor, "Y"):
        return (
            "AppArmor is active: if journalctl -k | grep DENIED shows QEMU, add to "
            "/etc/apparmor.d/local/abstractions/libvirt-qemu the lines  "
            + "  ".join(APPARMOR_RULES)
            + "  (docs/security.md)"
        )
    if _says(selinux, "1"):
        return (
            "SELinux is active: if ausearch -m avc -ts recent shows QEMU, run  "
            + " && ".join(SELINUX_RULES)
            + "  (docs/security.md)"
        )
    return (
        "every directory above must be searchable (o+x) for the user that QEMU runs as; "
        "AppArmor and SELinux are not active here (docs/security.md)"
    )


def _says(path: Path, word: str) -> bool:
    try:
        return path.read_text().strip() == word
    except OSError:
        return False
