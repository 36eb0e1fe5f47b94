"""`diff` on file systems with many files, and `cp` of a large one against nbdcopy.

The images are made once, by mounting them here, and kept in .lab/bench: NAME.before, and
NAME.after, in which some files were changed. A VM gets the first; the clusters in which the
second differs are written by qemu-io while it is off, which its bitmap notes.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.daemon import LabError
from lab.vms import MIB, Disk, define_blank

from .timing import VIRCPT, Row, in_turn, output_of, run

NAME = "files"
CACHE = Path(__file__).parents[2] / ".lab/bench"
CLUSTER = 65536
CHANGED = 1000
RUNS = 5
MAKERS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-N"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "ntfs": ("mkntfs", "-q", "-F", "-f"),
}


@dataclass(frozen=True)
class Case:
    """A file system with so many files; the goal in seconds for `diff`."""

    kind: str
    files: int
    size: int
    goal: float


CASES = (
    Case("ext4", 90_000, 1024 * MIB, 1.5),
    Case("ntfs", 90_000, 1024 * MIB, 3.0),
    Case("xfs", 90_000, 1024 * MIB, 10.0),
    Case("ext4", 1_000_000, 8192 * MIB, 15.0),
)


def files_rows(connection: Any) -> Iterator[Row]:
    for case in CASES:
        before, after = images(case)
        with exported(connection, before, after):
            yield _diff_row(case)
    with large_file(connection) as uri:
        yield _copy_row(uri)


def _diff_row(case: Case) -> Row:
    document = json.loads(output_of(VIRCPT, "-d", NAME, "--json", "diff", "--export"))
    listed = {one["path"] for one in document["changes"]}
    wanted = {f"/{path}" for path in changed_paths(case.files)}
    if wanted - listed:  # nothing is certain here: the images are older than the checkpoint
        raise LabError(f"{len(wanted - listed)} changed files are not in the list")
    output_of(VIRCPT, "-d", NAME, "release")
    (took,) = in_turn(RUNS, lambda: run(VIRCPT, "-d", NAME, "--json", "diff", "--since", "friday"))
    spent = document["spent"]
    met = took.seconds <= case.goal and max(took.memory, spent["memory"]) <= 300 * MIB
    what = (
        f"diff, {case.files:,} files of {case.kind}: {spent['fetched'] / MIB:.0f} MiB read, "
        f"child {spent['memory'] / MIB:.0f} MiB"
    )
    return Row(what, took, "the goal", took, f"≤ {case.goal:g} s, ≤ 300 MiB", met)


def path_of(number: int) -> str:
    return f"d{number // 10_000}/e{number // 100 % 100}/file-{number}"


def changed_paths(files: int) -> list[str]:
    """Fifty times twenty neighbours: what changes together was mostly made together."""
    step = files // 50
    return [path_of(first + number) for first in range(0, files, step) for number in range(20)]


def images(case: Case) -> tuple[Path, Path]:
    CACHE.mkdir(parents=True, exist_ok=True)
    stem = CACHE / f"{case.kind}-{case.files}"
    before, after = stem.with_suffix(".before"), stem.with_suffix(".after")
    if after.exists() and before.exists():
        return before, after
    part = stem.with_suffix(".part")
    with part.open("wb") as file:
        file.truncate(case.size)
    inodes = [str(case.files + 20_000)] if case.kind == "ext4" else []
    subprocess.run([*MAKERS[case.kind], *inodes, str(part)], check=True, capture_output=True)
    with mounted(case.kind, part) as root:
        for number in range(case.files):
            path = root / path_of(number)
            if number % 100 == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * (number % 5000))
    subprocess.run(["cp", "--sparse=always", str(part), str(before)], check=True)
    with mounted(case.kind, part) as root:
        for name in changed_paths(case.files):
            with (root / name).open("ab") as file:
                file.write(b"changed")
    part.rename(after)
    return before, after


@contextmanager
def mounted(kind: str, image: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as point:
        mount = ["ntfs-3g"] if kind == "ntfs" else ["mount", "-o", "loop"]
        subprocess.run([*mount, str(image), point], check=True)
        try:
            yield Path(point)
        finally:
            os.sync()
            subprocess.run(["umount", point], check=True)


@contextmanager
def exported(connection: Any, before: Path, after: Path) -> Iterator[None]:
    """A running VM whose checkpoint friday lies between both images; it is exported."""
    vm = define_blank(connection, NAME, [Disk("vda", before.stat().st_size)])
    image = vm.images["vda"]
    try:
        output_of("qemu-img", "convert", "-O", "qcow2", str(before), str(image))
        vm.start()
        output_of(VIRCPT, "-d", NAME, "create", "--name", "friday")
        vm.destroy()
        _write_differences(before, after, image)
        vm.start()
        output_of(VIRCPT, "-d", NAME, "export", "--name", "friday")
        yield
    finally:
        vm.remove()


def _write_differences(before: Path, after: Path, image: Path) -> None:
    commands = []
    with tempfile.TemporaryDirectory() as work, before.open("rb") as old, after.open("rb") as new:
        for offset in range(0, before.stat().st_size, CLUSTER):
            then, now = old.read(CLUSTER), new.read(CLUSTER)
            if then != now:
                piece = Path(work, str(offset))
                piece.write_bytes(now)
                commands.append(f"write -s {piece} {offset} {len(now)}\n")
        output_of("qemu-io", "-f", "qcow2", str(image), input="".join(commands))


@contextmanager
def large_file(connection: Any) -> Iterator[str]:
    """An export that holds one file of 1 GiB; its URI."""
    CACHE.mkdir(parents=True, exist_ok=True)
    image = CACHE / "large.before"
    if not image.exists():
        part = image.with_suffix(".part")
        with part.open("wb") as file:
            file.truncate(1200 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(part)], check=True)
        with mounted("ext4", part) as root, (root / "large").open("wb") as file:
            for _ in range(1024):
                file.write(os.urandom(MIB))
        part.rename(image)
    vm = define_blank(connection, NAME, [Disk("vda", image.stat().st_size)])
    try:
        output_of("qemu-img", "convert", "-O", "qcow2", str(image), str(vm.images["vda"]))
        vm.start()
        output_of(VIRCPT, "-d", NAME, "export")
        (socket,) = Path("/var/lib/vircpt/exports").glob("*/io/nbd.sock")
        yield f"nbd+unix:///vda?socket={socket}"
        output_of(VIRCPT, "-d", NAME, "release")
    finally:
        vm.remove()


def _copy_row(uri: str) -> Row:
    with tempfile.TemporaryDirectory(dir=CACHE) as work:

        def ours() -> Any:
            Path(work, "large").unlink(missing_ok=True)
            return run(VIRCPT, "-d", NAME, "cp", "vm:/large", work)

        def theirs() -> Any:
            Path(work, "copy").unlink(missing_ok=True)
            return run("nbdcopy", uri, f"{work}/copy")

        one, other = in_turn(RUNS, ours, theirs)
    # nbdcopy copies 1024 MiB of data and the file system's own few blocks
    met = one.seconds * 0.8 <= other.seconds
    return Row("cp of a file of 1 GiB", one, "nbdcopy of its disk", other, "≥ 0.8 x rate", met)
