"""Damaged and hostile file systems: whatever becomes of the child, vircpt ends and says why.

VIRCPT_SOAK=N takes N images instead of some dozens: script/soak.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import corruption
from lab.daemon import poll
from vircpt.blocks import nbd
from vircpt.confined.messages import FetchFiles, FindChanges
from vircpt.errors import HostUnreachable, VircptError
from vircpt.operations.looking import Confinement, Look
from vircpt.operations.reading import ExportedDisk

KINDS = ("ext4", "xfs", "ntfs", "btrfs")
IMAGES = int(os.environ.get("VIRCPT_SOAK", "32"))
SECONDS = 10.0
MEMORY = 300 << 20
REQUESTS = (FindChanges(None, 65536, True), FetchFiles(((None, b""),), True, True))


@dataclass
class Served:
    image: Path
    disk: ExportedDisk
    sectors: list[int]


@pytest.fixture(scope="module", params=KINDS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp(request.param)
    image, socket = directory / "image", directory / "nbd.sock"
    corruption.build(request.param, image)
    command = ["qemu-nbd", "-r", "-f", "raw", "-t", "-e", "8", "-x", "vda", "-k", str(socket)]
    server = subprocess.Popen([*command, str(image)], stderr=subprocess.DEVNULL)
    try:
        uri = nbd.unix_uri("vda", str(socket))
        poll(lambda: _answers(uri), 20, "qemu-nbd")
        yield Served(
            image, ExportedDisk("x", "vda", uri, None, None), corruption.used_sectors(image)
        )
    finally:
        server.kill()
        server.wait()


def _answers(uri: str) -> bool:
    try:
        nbd.connected_socket(uri)[0].close()
    except HostUnreachable:
        return False
    return True


def look(disk: ExportedDisk, request: object) -> tuple[str, int]:
    """How it ended, and how many answers came; any error but VircptError is a failure."""
    answers = 0
    start = time.monotonic()
    try:
        with Look(request, [disk], Confinement(seconds=SECONDS)) as looking:
            for _ in looking.answers():
                answers += 1
            assert looking.spent is not None
            assert looking.spent.memory < MEMORY
            ended = "in peace"
    except VircptError as error:
        ended = "too slow" if "took too long" in str(error) else "told"
    assert time.monotonic() - start < SECONDS + 5
    return ended, answers


def test_the_image_is_read_when_it_is_whole(served: Served) -> None:
    assert [look(served.disk, request)[0] for request in REQUESTS] == ["in peace", "in peace"]
    assert look(served.disk, REQUESTS[0])[1] > 400


def test_damage_is_survived(served: Served) -> None:
    ends: Counter[str] = Counter()
    for seed in range(IMAGES // len(KINDS)):
        with corruption.damaged(served.image, served.sectors, seed):
            ended, _ = look(served.disk, REQUESTS[seed % 2])
            ends[ended] += 1
    # most damage is local: most of the time the rest is read
    assert ends["in peace"] > ends.total() // 4, ends
    assert ends["too slow"] <= ends.total() // 20, ends
