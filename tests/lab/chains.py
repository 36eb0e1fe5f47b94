"""Random chains of backups: a VM is written to, resized, given disks, killed, and backed up.

After each backup the disks are copied with qemu-img, which knows nothing of vircpt. In the end
each backup is compared with that copy, read by qemu-img alone, and restored by vircpt.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import libvirt

from . import inject
from .daemon import LabError
from .vms import KIB, MIB, Disk, define_blank, disk_xml

SIZES = (4 * MIB, 16 * MIB, 8 * MIB + 512, 3 * MIB + 64 * KIB)
STEPS = ("write", "write", "write", "zero", "discard", "resize", "hotplug", "kill", "off")
HOW = ("auto", "auto", "auto", "incremental", "differential", "full", "copy", "die")


class Chain:
    """A VM and its repository, both below directories that are removed at the end."""

    def __init__(self, connection: Any, name: str, seed: int, directory: Path) -> None:
        self.random = random.Random(seed)
        self.directory = directory
        self.repository = directory / f"{name}-repository"
        disks = [Disk("vda", self.random.choice(SIZES))]
        if self.random.random() < 0.5:
            disks.append(Disk("vdb", self.random.choice(SIZES)))
        self.connection = connection
        self.vm = define_blank(connection, name, disks)
        self.references: dict[str, dict[str, str]] = {}
        """By id of the backup and target, the hash of the disk."""
        self.log = [f"seed {seed}: {[(one.target, one.size) for one in disks]}"]

    def __enter__(self) -> Chain:
        self.vm.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.vm.remove()
        shutil.rmtree(self.repository, ignore_errors=True)

    def run(self, points: int) -> None:
        """Make that many backups, and check them all.

        :raise LabError: one is not what it should be; the message has the way to it.
        """
        try:
            for _ in range(points):
                for _ in range(self.random.randint(0, 4)):
                    self._change(self.random.choice(STEPS))
                self._back_up(self.random.choice(HOW))
            self._check()
        except Exception as error:
            error.add_note("\n".join(self.log))
            raise

    # What happens to the VM

    def _change(self, step: str) -> None:
        target = self.random.choice(list(self.vm.images))
        if not self.vm.domain.isActive():
            self.vm.start()
        size = self.vm.domain.blockInfo(target)[0]
        offset = self.random.randrange(size // 512) * 512
        length = min(size - offset, 512 * self.random.choice((1, 8, 128, 300, 2000)))
        self.log.append(f"{step} {target} {offset} {length}")
        if step == "write":
            pattern = self.random.randrange(256)
            self.vm.qemu_io(target, f"write -P {pattern} {offset} {length}")
        elif step == "zero":
            self.vm.qemu_io(target, f"write -z {offset} {length}")
        elif step == "discard":
            self.vm.qemu_io(target, f"discard {offset} {length}")
        elif step == "resize":
            grown = size + self.random.choice((64 * KIB, 512, 5 * MIB))
            self.vm.domain.blockResize(target, grown, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        elif step == "hotplug":
            self._plug()
        elif self.random.random() < 0.3:  # rarely: it ends the chain
            self.vm.kill() if step == "kill" else self.vm.destroy()

    def _plug(self) -> None:
        if len(self.vm.images) > 2:
            return
        target = f"vd{'abcd'[len(self.vm.images)]}"
        disk = Disk(target, self.random.choice(SIZES))
        path = self.vm.images["vda"].with_name(f"{self.vm.name}-{target}.qcow2")
        disk.create_image(path)
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
        self.vm.domain.attachDeviceFlags(disk_xml(disk, path), flags)
        self.vm.images[target] = path

    # Backups

    def _back_up(self, how: str) -> None:
        arguments = ["-d", self.vm.name, "--json", "backup", "--to", str(self.repository)]
        arguments += ["--compress", self.random.choice(("none", "zstd"))]
        if how == "die":
            # at a step in the middle of it, which there may not be
            step = self.random.randint(20, 120)
            inject.run(*arguments, order=f"kill:{step}")
            self.log.append(f"killed before step {step}")
            inject.wait_alone(10)
            how = "auto"
        done = inject.run(*arguments, "--level", how)
        if how in ("incremental", "differential") and done.returncode == 13:
            self.log.append(f"{how}: {done.stderr.strip()}")
            how = "auto"
            done = inject.run(*arguments, "--level", how)
        if done.returncode:
            raise LabError(inject.shown(done))
        made = json.loads(done.stdout.splitlines()[-1])
        self.log.append(f"{how}: {made['id']} {made['level']} {made['why_full'] or ''}")
        disks = {target: self._hash(target) for target in self.vm.images}
        for path in self.repository.glob("*/*-????????"):  # one that was killed may be whole
            self.references.setdefault(path.name[-8:], dict(disks))

    def _hash(self, target: str) -> str:
        if self.vm.domain.isActive():
            self.vm.qemu_io(target, "flush")  # what QEMU holds back of the image's tables
        return hash_of_disk(self.vm.images[target], self.directory)

    def _check(self) -> None:
        moved = self.repository.with_name(self.repository.name + "-moved")
        self.repository.rename(moved)
        try:
            verified = inject.run("verify", "--deep", "--from", str(moved))
            if verified.returncode:
                raise LabError(inject.shown(verified))
            for path in images_of(moved):
                check_image(path)
                found = self.references[path.parent.name[-8:]].pop(path.stem)
                if hash_of_disk(path, self.directory) != found:
                    raise LabError(f"{path} is not what the disk was")
                if self.random.random() < 0.2:
                    self._restore(moved, path, found)
            left = {one: disks for one, disks in self.references.items() if disks}
            if left:
                raise LabError(f"not in the repository: {left}")
        finally:
            moved.rename(self.repository)

    def _restore(self, repository: Path, path: Path, found: str) -> None:
        place = self.directory / f"{self.vm.name}-{path.stem}.qcow2"
        arguments = ["--to-dir", str(self.directory), "--disk", path.stem]
        done = inject.run("restore", path.parent.name[-8:], "--from", str(repository), *arguments)
        if done.returncode or hash_of_disk(place, self.directory) != found:
            raise LabError(f"{path} was not restored: {inject.shown(done)}")
        place.unlink()


def images_of(repository: Path) -> Iterator[Path]:
    """The images of all backups, oldest first."""
    yield from sorted(repository.glob("*/*/*.qcow2"))


def check_image(path: Path) -> None:
    done = subprocess.run(["qemu-img", "check", "-q", path], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"qemu-img check {path}: {done.stdout}{done.stderr}")


def hash_of_disk(image: Path, directory: Path) -> str:
    """Of all that the disk holds, read by qemu-img; a running VM may have it open."""
    raw = directory / f"reference-{image.parent.name}-{image.name}.raw"
    command: Sequence[str | Path] = ["qemu-img", "convert", "-U", "-O", "raw", image, raw]
    subprocess.run(command, check=True)
    with raw.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    raw.unlink()
    return digest
