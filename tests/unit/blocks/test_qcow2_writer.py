"""Images that we write, as QEMU reads them: qemu-img checks and converts each one."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vircpt.blocks import qcow2
from vircpt.blocks.hashed_file import BLOCK, Lease
from vircpt.blocks.qcow2 import CLUSTER
from vircpt.blocks.qcow2_writer import Qcow2Writer, zstd_clusters
from vircpt.errors import VircptError

Run = tuple[int, int, str]
"""Clusters from, how many, and what: data, text (which compresses), nothing, zero."""


def content(run: Run, size: int) -> bytearray:
    first, count, kind = run
    length = min(count * CLUSTER, size - first * CLUSTER)
    if kind == "text":
        return bytearray((b"vircpt %d " % first) * (length // 7 + 1))[:length]
    if kind == "nothing":
        return bytearray(length)
    return bytearray(random.Random(first).randbytes(length))


def write(path: Path, size: int, runs: list[Run], backing: str | None, zstd: bool) -> bytes:
    """The digests of the image."""
    lent: list[bool] = []
    with ThreadPoolExecutor(2) as workers, path.open("w+b") as file:
        writer = Qcow2Writer(
            file.fileno(), size, workers,
            backing=backing, compress=zstd_clusters() if zstd else None,
        )  # fmt: skip
        for run in runs:
            offset, length = run[0] * CLUSTER, min(run[1] * CLUSTER, size - run[0] * CLUSTER)
            if run[2] == "zero":
                writer.zero(offset, length)
            else:
                lent.append(True)
                lease = Lease(lambda: lent.__delitem__(0))
                writer.data(offset, memoryview(content(run, size)), lease)
        digests = writer.finish()
        assert writer.length == path.stat().st_size
    assert lent == [], "all buffers came back"
    return digests


def disk_of(path: Path) -> bytes:
    raw = path.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, raw], check=True)
    return raw.read_bytes()


def is_sound(path: Path, digests: bytes) -> None:
    subprocess.run(["qemu-img", "check", "-q", path], check=True)
    data = path.read_bytes()
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    assert digests == b"".join(hashlib.sha256(one).digest() for one in blocks)


RUNS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 8),
              st.sampled_from(["data", "text", "nothing", "zero"])),
    max_size=12,
)  # fmt: skip


def placed(gaps: list[tuple[int, int, str]], size: int) -> list[Run]:
    """Runs one after the other, with gaps, cut at the end of the disk."""
    runs: list[Run] = []
    position, clusters = 0, -(-size // CLUSTER)
    for gap, count, kind in gaps:
        position += gap
        count = min(count, clusters - position)  # noqa: PLW2901
        if count > 0:
            runs.append((position, count, kind))
            position += count
    return runs


@given(RUNS, RUNS, st.sampled_from([1, 40, 41 * CLUSTER // CLUSTER]), st.booleans(), st.booleans())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_qemu_reads_what_was_written(
    tmp_path: Path,
    below: list[tuple[int, int, str]],
    above: list[tuple[int, int, str]],
    clusters: int,
    zstd: bool,
    odd: bool,
) -> None:
    size = clusters * CLUSTER - (CLUSTER - 512 if odd else 0)
    full, increment = tmp_path / "full.qcow2", tmp_path / "increment.qcow2"
    expected = bytearray(size)
    for path, runs, backing in ((full, placed(below, size), None),
                                (increment, placed(above, size), "full.qcow2")):  # fmt: skip
        digests = write(path, size, runs, backing, zstd)
        is_sound(path, digests)
        for run in runs:
            data = content(run, size) if run[2] != "zero" else bytearray(
                min(run[1] * CLUSTER, size - run[0] * CLUSTER))  # fmt: skip
            expected[run[0] * CLUSTER : run[0] * CLUSTER + len(data)] = data
        assert disk_of(path) == expected


@pytest.mark.parametrize("zstd", [False, True])
def test_a_large_sparse_disk(tmp_path: Path, zstd: bool) -> None:
    """More L2 tables than one, and an L1 table behind data of more than 512 MiB of disk."""
    size = 4 << 40
    last = size // CLUSTER - 3
    runs: list[Run] = [(0, 2, "data"), (8191, 4, "text"), (16384, 1, "data"), (last, 3, "data")]
    path = tmp_path / "large.qcow2"
    is_sound(path, write(path, size, runs, None, zstd))
    for run in runs:
        read = ["qemu-img", "dd", "-f", "qcow2", "-O", "raw", f"bs={CLUSTER}", f"skip={run[0]}",
                f"count={run[0] + run[1]}", f"if={path}", f"of={tmp_path / 'part'}"]  # fmt: skip
        subprocess.run(read, check=True, capture_output=True)
        assert (tmp_path / "part").read_bytes()[: run[1] * CLUSTER] == content(run, size)


def test_zeroes_of_a_large_disk_cost_no_memory(tmp_path: Path) -> None:
    size = 1 << 40
    path = tmp_path / "zero.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "full.qcow2", str(size)],
                   check=True)  # fmt: skip
    with ThreadPoolExecutor(2) as workers, path.open("w+b") as file:
        writer = Qcow2Writer(file.fileno(), size, workers, backing="full.qcow2")
        writer.zero(0, size)
        assert len(writer._l2) <= 1
        writer.finish()
    subprocess.run(["qemu-img", "check", "-q", path], check=True)
    assert writer.zero_bytes == size


def test_a_write_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    handle = os.open(tmp_path / "file", os.O_RDONLY)
    with ThreadPoolExecutor(2) as workers:
        writer = Qcow2Writer(handle, 64 * CLUSTER, workers)
        run = (0, 1, "data")
        writer.data(0, memoryview(content(run, 64 * CLUSTER)), Lease(lambda: None))
        with pytest.raises(VircptError, match="cannot write the image"):
            writer.finish()
    os.close(handle)


# Headers


@pytest.mark.parametrize("backing", [None, "../20261123T170405Z-9f8e7d6c/vda.qcow2"])
@pytest.mark.parametrize("zstd", [False, True])
def test_a_header_is_read_as_it_was_written(
    tmp_path: Path, backing: str | None, zstd: bool
) -> None:
    path = tmp_path / "image"
    write(path, 3 * CLUSTER, [(0, 1, "data")], backing, zstd)
    header = qcow2.parse(path.read_bytes()[: qcow2.READ_AHEAD], "image")
    assert header.size == 3 * CLUSTER
    assert header.backing == backing
    assert header.backing_format == ("qcow2" if backing else None)
    assert header.zstd == zstd
    assert header.strange is None


@pytest.mark.parametrize(
    "create",
    [
        ["-o", "cluster_size=4k"],
        ["-o", "data_file=/etc/shadow,data_file_raw=on"],
        ["-o", "extended_l2=on"],
    ],
)
def test_headers_that_we_never_write(tmp_path: Path, create: list[str]) -> None:
    path = tmp_path / "image"
    create = [one.replace("/etc/shadow", str(tmp_path / "other")) for one in create]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *create, path, "1M"], check=True)
    assert qcow2.parse(path.read_bytes()[: qcow2.READ_AHEAD], "image").strange


@given(st.binary(max_size=300), st.integers(0, 200))
def test_a_damaged_header_is_an_error_in_words(noise: bytes, at: int) -> None:
    good = qcow2.build(
        CLUSTER, l1_offset=CLUSTER, l1_entries=1, table_offset=CLUSTER, table_clusters=1,
        backing="../x", zstd=True,
    )  # fmt: skip
    bad = good[:at] + noise + good[at + len(noise) :]
    for data in (bad, bad[: at + 1], noise):
        try:
            qcow2.parse(data, "image")
        except VircptError as error:
            assert "image" in str(error)  # noqa: PT017
