"""Builds what the lab's Linux guest boots from: kernel, initramfs and command line in .lab/assets.

    python3 tests/lab/assets.py [--force]

The kernel and the guest agent come from Debian packages, which are downloaded and unpacked but not
installed; busybox, mkfs.ext4 and libraries are the machine's own. The same kernel makes
libguestfs's appliance in .lab/assets/appliance. Nothing outside .lab is written, but for an empty
/lib/modules, on which supermin insists. A second call finds all done and needs no network. Standard
library only: script/setup calls it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
KERNEL_META = "linux-image-cloud-amd64"
AGENT = "qemu-guest-agent"
HOST_PACKAGES = (
    "busybox-static",
    "e2fsprogs",
    "libc6",
    "libglib2.0-0",
    "libguestfs0",
    "lvm2",
    "ntfs-3g",
)

# Loaded at boot; the rest only lies ready for modprobe and mount.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_scsi", "sd_mod")
SPARE_MODULES = ("xfs", "btrfs", "dm_mod", "fuse")

# Not called mke2fs: busybox's shell would prefer its own, which makes ext2 only.
# ntfs-3g: the kernel has no driver for NTFS but FUSE.
HOST_PROGRAMS = ("/sbin/mkfs.ext4", "/sbin/lvm", "/bin/ntfs-3g")
HOST_FILES = ("/etc/mke2fs.conf",)

# Each of these spares the emulated CPU something at boot.
CMDLINE = (
    "console=ttyS0 quiet nokaslr mitigations=off lsm= tsc=reliable no_timer_check "
    "cryptomgr.notests rcupdate.rcu_expedited=1"
)

INITTAB = """\
::sysinit:/etc/rc
::respawn:/bin/qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run
::shutdown:/bin/umount -a -r
"""

# There is no udev, so the agent's port gets its name here.
RC = f"""\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
modprobe -a {" ".join(BOOT_MODULES)}
mkdir -p /dev/virtio-ports /dev/pts
tries=0
until grep -qs org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name || [ $tries = 500 ]; do
    usleep 10000
    tries=$((tries + 1))
done
for port in /sys/class/virtio-ports/*; do
    ln -s "/dev/${{port##*/}}" "/dev/virtio-ports/$(cat "$port/name")"
done
echo "LAB GUEST READY" >/dev/console
"""

# The agent calls it as: shutdown -h|-P|-r +0 "message"
SHUTDOWN = """\
#!/bin/sh
case "$1 $2" in *-r*) exec reboot ;; *) exec poweroff ;; esac
"""


class AssetsError(Exception):
    """The assets cannot be built; the message says why and what to do."""


def main(arguments: list[str]) -> int:
    target = cache_directory() / "assets"
    try:
        key = cache_key()
        if "--force" not in arguments and is_current(target, key):
            return 0
        build(target, key)
    except AssetsError as error:
        say(f"error: {error}")
        return 1
    return 0


def say(message: str) -> None:
    sys.stderr.write(f"lab: {message}\n")


def cache_directory() -> Path:
    return Path(os.environ.get("VIRCPT_LAB_CACHE", CHECKOUT / ".lab"))


def cache_key() -> str:
    """Changes with this file and with what is copied from the machine."""
    query = ("dpkg-query", "-W", *HOST_PACKAGES)
    versions = run(query, "some of the lab's packages are missing: run script/setup")
    return hashlib.sha256(Path(__file__).read_bytes() + versions.encode()).hexdigest()


def is_current(target: Path, key: str) -> bool:
    stamp = target / "stamp"
    return stamp.exists() and stamp.read_text() == key


def build(target: Path, key: str) -> None:
    """Into a directory beside it, which takes the target's place when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="assets-", dir=target.parent) as work:
        root = Path(work, "root")
        say("getting Debian's cloud kernel and the guest agent")
        unpack((kernel_package(), AGENT), Path(work), root)
        new = Path(work, "new")
        new.mkdir()
        version = next((root / "lib/modules").iterdir()).name
        shutil.copyfile(root / f"boot/vmlinuz-{version}", new / "kernel")
        (new / "initramfs").write_bytes(cpio(initramfs(root, version)))
        appliance(root, version, new / "appliance", Path(work))
        (new / "cmdline").write_text(CMDLINE + "\n")
        (new / "stamp").write_text(key)
        replace(new, target, Path(work, "old"))
    say(f"a guest with Linux {version} is ready")


def replace(new: Path, target: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    new.rename(target)


def appliance(root: Path, version: str, target: Path, work: Path) -> None:
    """libguestfs's small VM, with our kernel: a machine without one of its own can't make it."""
    say("building the appliance of libguestfs")
    Path("/lib/modules").mkdir(exist_ok=True)
    run(("depmod", "-b", str(root), version), "depmod failed")
    (supermin,) = Path("/usr/lib").glob("*/guestfs/supermin.d")
    run(
        ("env", f"SUPERMIN_KERNEL={root}/boot/vmlinuz-{version}",
         f"SUPERMIN_MODULES={root}/lib/modules/{version}", f"TMPDIR={work}",
         "supermin", "--build", "--copy-kernel", "-f", "ext2", "--host-cpu", "x86_64",
         str(supermin), "-o", str(target)),
        "supermin cannot make the appliance",
    )  # fmt: skip
    (target / "README.fixed").write_text("Made by tests/lab/assets.py.\n")


# Debian packages


def kernel_package() -> str:
    """The package that the meta package stands for today."""
    show = ("apt-cache", "--no-all-versions", "show", KERNEL_META)
    answer = run(show, f"apt does not know {KERNEL_META}: run apt-get update")
    found = re.search(r"linux-image-[0-9][\w.+-]*-cloud-amd64", answer)
    if not found:
        raise AssetsError(f"{KERNEL_META} depends on no kernel:\n{answer}")
    return found.group()


def unpack(packages: Iterable[str], work: Path, root: Path) -> None:
    # As root: the user _apt may not be able to reach the checkout.
    download = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages)
    run(download, "cannot download: is the network up? Run apt-get update and try again", work)
    for package in work.glob("*.deb"):
        run(("dpkg", "-x", str(package), str(root)), f"cannot unpack {package.name}")


def run(command: tuple[str, ...], failure: str, directory: Path | None = None) -> str:
    """The command's output.

    :raise AssetsError: it failed; says `failure` and what the command said.
    """
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if result.returncode:
        raise AssetsError(f"{failure}\n{' '.join(command)}:\n{result.stderr.strip()}")
    return result.stdout


# The initramfs


@dataclass(frozen=True)
class Entry:
    """A file in the initramfs; for a symbolic link, data is where it points."""

    path: str
    mode: int
    data: bytes = b""


def directory(path: str) -> Entry:
    return Entry(path, stat.S_IFDIR | 0o755)


def link(path: str, to: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, to.encode())


def program(path: str, data: bytes) -> Entry:
    return Entry(path, stat.S_IFREG | 0o755, data)


def initramfs(root: Path, version: str) -> Iterator[Entry]:
    for path in ("bin", "dev", "etc", "lib", "lib64", "mnt", "proc", "run", "sys", "tmp", "usr"):
        yield directory(path)
    for path in ("sbin", "usr/bin", "usr/sbin"):
        yield link(path, "/bin")
    yield link("init", "/bin/busybox")  # which acts by the name it is called: init reaps orphans
    yield program("etc/inittab", INITTAB.encode())
    yield program("etc/rc", RC.encode())
    programs = [root / "usr/sbin/qemu-ga", *map(Path, HOST_PROGRAMS)]
    yield program("bin/shutdown", SHUTDOWN.encode())
    yield from busybox()
    for source in programs:
        yield program(f"bin/{source.name}", source.read_bytes())
    for name in HOST_FILES:
        yield program(name.lstrip("/"), Path(name).read_bytes())
    yield from libraries(programs)
    yield from modules(root / "lib/modules" / version, version)


def busybox() -> Iterator[Entry]:
    path = Path("/bin/busybox")
    yield program("bin/busybox", path.read_bytes())
    for applet in run((str(path), "--list"), "busybox does not run").split():
        if applet != "busybox":
            yield link(f"bin/{applet}", "busybox")


def libraries(programs: Iterable[Path]) -> Iterator[Entry]:
    """Shared libraries, from the machine: QEMU's package depends on all that its agent needs."""
    found: set[str] = set()
    for path in programs:
        listing = run(("ldd", str(path)), f"cannot find the libraries of {path}")
        if missing := re.findall(r"(\S+) => not found", listing):
            raise AssetsError(f"{path.name} needs {', '.join(missing)}: run script/setup")
        found.update(re.findall(r"(/\S+) \(0x", listing))
    directories = {str(parent)[1:] for name in found for parent in Path(name).parents} - {""}
    yield from map(directory, sorted(directories - {"lib", "lib64"}))
    for name in sorted(found):
        yield program(name[1:], Path(name).read_bytes())


def modules(tree: Path, version: str) -> Iterator[Entry]:
    """The modules wanted, what they depend on, and the indexes that busybox's modprobe reads."""
    files = {canonical(path.stem): path for path in tree.rglob("*.ko")}
    wanted = with_dependencies((*BOOT_MODULES, *SPARE_MODULES), files)
    base = f"lib/modules/{version}"
    for path in ("lib/modules", base):
        yield directory(path)
    dependencies, aliases = "", ""
    for name, needs in wanted.items():
        dependencies += f"{name}.ko: {' '.join(f'{need}.ko' for need in needs)}\n"
        aliases += "".join(f"alias {alias} {name}\n" for alias in info(files[name], "alias"))
        yield program(f"{base}/{name}.ko", files[name].read_bytes())
    yield program(f"{base}/modules.dep", dependencies.encode())
    yield program(f"{base}/modules.alias", aliases.encode())


def with_dependencies(names: Iterable[str], files: dict[str, Path]) -> dict[str, list[str]]:
    """Every module needed, with all that it needs in turn, users before what they use.

    A module that has no file is built into this kernel.
    """
    wanted: dict[str, list[str]] = {}

    def visit(name: str) -> list[str]:
        if name not in files:
            return []
        if name not in wanted:
            needs: list[str] = []
            for depends in info(files[name], "depends"):
                for need in filter(None, map(canonical, depends.split(","))):
                    if need in files:
                        needs += [need, *visit(need)]
            wanted[name] = list(reversed(dict.fromkeys(reversed(needs))))
        return wanted[name]

    for name in names:
        visit(name)
    return wanted


def canonical(name: str) -> str:
    return name.replace("-", "_")


def info(module: Path, key: str) -> list[str]:
    """Values of a key in the module's .modinfo: key=value strings that end with a NUL."""
    found = re.findall(rb"\0" + key.encode() + rb"=([^\0]*)(?=\0)", b"\0" + module.read_bytes())
    return [value.decode() for value in found]


def cpio(entries: Iterable[Entry]) -> bytes:
    """The "newc" format: https://docs.kernel.org/driver-api/early-userspace/buffer-format.html"""
    archive = bytearray()
    for inode, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.path.encode() + b"\0"
        # ino, mode, uid, gid, nlink, mtime, filesize; device numbers (4); namesize, check
        fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.data), *(0, 0, 0, 0), len(name), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        archive += bytes(-len(archive) % 4) + entry.data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
