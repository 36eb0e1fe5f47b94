"""Serving images with a real QEMU, and reading them over NBD."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from lab import serving
from lab.serving import PROGRAM, Served, end
from vircpt.blocks import headers, nbd
from vircpt.blocks.extents import Extent, Totals, extents, total
from vircpt.blocks.image_server import Endpoint, ImageServer, Layer, User, marked
from vircpt.errors import BrokenChain, Busy, NotFound, NotSupported, VircptError

# the daemon outlives the object that started it
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

KIB, MIB = 1024, 1024 * 1024
Serve = Callable[..., str]


def qemu_io(image: Path, *commands: str, image_format: str = "qcow2") -> None:
    """Run qemu-io on an image: this is how blocks are written here."""
    options = [part for command in commands for part in ("-c", command)]
    subprocess.run(
        ["qemu-io", "-f", image_format, *options, str(image)],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A qcow2 of 8 MiB: 64 KiB of 0xaa at 1 MiB, then checkpoint `foo`, then 128 KiB at 4 MiB."""
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "8M"], check=True, timeout=30)
    qemu_io(path, "write -P 0xaa 1M 64k")
    subprocess.run(["qemu-img", "bitmap", "--add", path, "foo"], check=True, timeout=30)
    qemu_io(path, "write -P 0xbb 4M 128k", "write -z 6M 64k")
    return path


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serve images; the URI of the first. All daemons are ended afterwards."""
    running: list[int] = []

    def start(*served: Served) -> str:
        directory = tmp_path / f"io{len(running)}"
        directory.mkdir(mode=0o700)
        endpoint = Endpoint(socket=directory / "nbd.sock")
        running.append(serving.start(directory / "server", endpoint, *served))
        return nbd.unix_uri(served[0].name, str(endpoint.socket))

    yield start
    for pid in running:
        end(pid)


def break_bitmaps(path: Path) -> None:
    """Leave the bitmaps in use, as a QEMU that was killed does."""
    process = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    process.stdin.write("write 2M 64k\n")
    process.stdin.flush()
    while "wrote" not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.communicate()


def as_tuples(found: Sequence[Extent]) -> list[tuple[int, int]]:
    return [(one.offset, one.length) for one in found]


def test_what_changed_since_the_checkpoint_is_read(image: Path, serve: Serve) -> None:
    uri = serve(Served("vda", str(image), "qcow2", since="foo", bitmap="backup-vda"))
    with nbd.Reader(uri, "backup-vda") as reader:
        dirty = list(extents(one.only_dirty() for one in reader.columns()))
        assert as_tuples(dirty) == [(4 * MIB, 128 * KIB), (6 * MIB, 64 * KIB)]
        assert [one.zero for one in dirty] == [False, True]
        assert reader.size == 8 * MIB
        assert reader.pread(64 * KIB, 1 * MIB) == b"\xaa" * (64 * KIB)
        assert reader.pread(128 * KIB, 4 * MIB) == b"\xbb" * (128 * KIB)
        totals = total(reader.columns())
    assert totals.size == 8 * MIB
    assert totals.dirty == 192 * KIB
    assert totals.dirty_zero == 64 * KIB


def test_without_a_bitmap_only_allocation_is_known(image: Path, serve: Serve) -> None:
    uri = serve(Served("vda", str(image), "qcow2"))
    with nbd.Reader(uri) as reader:
        found = list(extents(reader.columns()))
    assert {one.dirty for one in found} == {None}
    assert as_tuples([one for one in found if not one.zero]) == [
        (1 * MIB, 64 * KIB),
        (4 * MIB, 128 * KIB),
    ]


def test_two_disks_are_served_on_one_socket(image: Path, serve: Serve, tmp_path: Path) -> None:
    raw = tmp_path / "disk, two.img"
    raw.write_bytes(b"\xcc" * MIB)
    uri = serve(
        Served("vda", str(image), "qcow2", since="foo", bitmap="backup-vda"),
        Served("vdb", str(raw), "raw"),
    )
    with nbd.Reader(uri, "backup-vda") as first, nbd.Reader(uri.replace("/vda?", "/vdb?")) as other:
        assert first.size == 8 * MIB
        assert other.size == MIB
        assert other.pread(512, 0) == b"\xcc" * 512


def test_a_disk_larger_than_one_question_is_read_whole(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "large.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "10G"], check=True, timeout=30)
    subprocess.run(["qemu-img", "bitmap", "--add", path, "foo"], check=True, timeout=30)
    qemu_io(path, "write 9G 64k")
    uri = serve(Served("vda", str(path), "qcow2", since="foo", bitmap="backup-vda"))
    with nbd.Reader(uri, "backup-vda") as reader:
        found = list(extents(reader.columns()))
    gib = 1 << 30
    assert [(one.offset, one.length, one.dirty) for one in found] == [
        (0, 9 * gib, False),
        (9 * gib, 64 * KIB, True),
        (9 * gib + 64 * KIB, gib - 64 * KIB, False),
    ]


def test_a_disk_of_nothing_has_no_extents(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "empty.img"
    path.touch()
    with nbd.Reader(serve(Served("vda", str(path), "raw"))) as reader:
        assert reader.size == 0
        assert total(reader.columns()) == Totals(0, None, None, 0, 0, 0)


def test_an_image_is_served_read_only_and_not_changed(image: Path, serve: Serve) -> None:
    before = image.read_bytes()
    uri = serve(Served("vda", str(image), "qcow2", since="foo", bitmap="backup-vda"))
    done = subprocess.run(
        ["qemu-io", "-f", "raw", "-c", "write 0 64k", uri],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode != 0 or "read-only" in done.stdout + done.stderr
    assert image.read_bytes() == before


def test_an_unknown_bitmap_is_not_found(image: Path, serve: Serve) -> None:
    uri = serve(Served("vda", str(image), "qcow2"))
    with pytest.raises(NotFound, match="qemu:dirty-bitmap:backup-vda"):
        nbd.Reader(uri, "backup-vda")


def test_reading_beyond_the_end_fails_in_words(image: Path, serve: Serve) -> None:
    with (
        nbd.Reader(serve(Served("vda", str(image), "qcow2"))) as reader,
        pytest.raises(VircptError, match="NBD failed"),
    ):
        reader.pread(512, 8 * MIB)


def test_a_missing_bitmap_is_a_broken_chain(image: Path, serve: Serve) -> None:
    with pytest.raises(BrokenChain, match="bitmap of checkpoint nosuch") as caught:
        serve(Served("vda", str(image), "qcow2", since="nosuch", bitmap="backup-vda"))
    assert caught.value.disk == "vda"
    assert caught.value.hint


def test_a_bitmap_left_in_use_by_a_crash_is_a_broken_chain(image: Path, serve: Serve) -> None:
    break_bitmaps(image)
    assert [one.in_use for one in headers.read(str(image), "qcow2").bitmaps] == [True]
    with pytest.raises(BrokenChain):
        serve(Served("vda", str(image), "qcow2", since="foo", bitmap="backup-vda"))


def test_an_image_that_another_process_writes_to_is_busy(image: Path, serve: Serve) -> None:
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdin
        assert writer.stdout
        writer.stdin.write(b"read 0 512\n")
        writer.stdin.flush()
        assert b"read 512/512" in writer.stdout.readline().replace(b"qemu-io> ", b"")
        with pytest.raises(Busy) as caught:
            serve(Served("vda", str(image), "qcow2"))
        writer.stdin.close()
    assert caught.value.hint


def test_while_it_is_served_nobody_can_write_to_the_image(image: Path, serve: Serve) -> None:
    serve(Served("vda", str(image), "qcow2"))
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write 0 64k", str(image)],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode != 0
    assert "lock" in done.stderr


def test_a_missing_image_fails_in_words_and_leaves_no_daemon(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(VircptError, match="No such file"):
        serve(Served("vda", str(tmp_path / "none.qcow2"), "qcow2"))


def test_a_failed_start_ends_the_daemon(image: Path, serve: Serve) -> None:
    with pytest.raises(BrokenChain):
        serve(Served("vda", str(image), "qcow2", since="nosuch", bitmap="backup-vda"))
    qemu_io(image, "write 0 64k")  # the image is free again


def test_it_listens_on_an_address_and_port(image: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    endpoint = Endpoint(address="127.0.0.1", port=port)
    pid = serving.start(tmp_path / "server", endpoint, Served("vda", str(image), "qcow2"))
    try:
        with nbd.Reader(nbd.tcp_uri("vda", "127.0.0.1", port)) as reader:
            assert reader.size == 8 * MIB
    finally:
        end(pid)


def test_a_port_that_is_taken_is_busy(image: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = Endpoint(address="127.0.0.1", port=server.getsockname()[1])
        with pytest.raises(Busy, match="Address already in use"):
            serving.start(tmp_path / "server", endpoint, Served("vda", str(image), "qcow2"))


def test_the_server_is_known_by_its_mark(image: Path, tmp_path: Path) -> None:
    mark = tmp_path / "a,b"
    endpoint = Endpoint(socket=tmp_path / "nbd.sock")
    pid = serving.start(mark, endpoint, Served("vda", str(image), "qcow2"))
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    end(pid)
    assert "\0".join(marked(mark)).encode() in command
    qemu_io(image, "write 0 64k")  # with the server its locks have gone


@pytest.fixture
def chain(image: Path, tmp_path: Path) -> list[Path]:
    """An overlay on `image`, with 64 KiB of 0xcc at 2 MiB, and the image."""
    top = tmp_path / "top.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image.name, str(top)]
    subprocess.run(create, check=True, timeout=30)
    qemu_io(top, "write -P 0xcc 2M 64k")
    return [top, image]


def test_what_a_header_says(chain: list[Path], tmp_path: Path) -> None:
    with ImageServer(PROGRAM, tmp_path / "mark", tmp_path / "log") as server:
        top, below = (server.look(Layer(str(one), "qcow2")) for one in chain)
    assert (top.backing, top.backing_format) == (chain[1].name, "qcow2")
    assert (below.backing, [one.name for one in below.bitmaps]) == (None, ["foo"])


def test_nothing_is_opened_because_a_header_says_so(chain: list[Path], tmp_path: Path) -> None:
    with ImageServer(PROGRAM, tmp_path / "mark", tmp_path / "log") as server:
        server.open("vda", [Layer(str(chain[0]), "qcow2")])
        pid = server._process.pid
        opened = {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()}
    assert str(chain[0]) in opened
    assert str(chain[1]) not in opened


@pytest.mark.parametrize("by_handle", [False, True])
def test_nor_is_a_data_file(by_handle: bool, tmp_path: Path) -> None:
    path, data = tmp_path / "disk.qcow2", tmp_path / "data"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", f"{path}", "1M"]
    subprocess.run(create, check=True, timeout=30)
    data.unlink()
    os.mkfifo(data)  # who opens it waits
    handle = os.open(path, os.O_RDONLY)
    layer = Layer(str(path), "qcow2", handle if by_handle else None)
    with ImageServer(PROGRAM, tmp_path / "mark", tmp_path / "log") as server:
        for use in (server.look, lambda one: server.open("vda", [one])):
            with pytest.raises(NotSupported, match="names another file, which holds the data"):
                use(layer)
    os.close(handle)


@pytest.fixture
def nobody() -> User:
    if os.geteuid() != 0:
        pytest.fail("only root can start a server as another user")
    return User(65534, 65534, (65534,))


def hand_in(server: ImageServer, chain: list[Path]) -> None:
    """Have it serve images that we have opened."""
    handles = [os.open(one, os.O_RDONLY) for one in chain]
    pairs = zip(chain, handles, strict=True)
    server.open("vda", [Layer(str(one), "qcow2", handle) for one, handle in pairs])
    for handle in handles:
        os.close(handle)


def test_it_runs_as_another_user_in_a_sandbox(
    chain: list[Path], nobody: User, tmp_path: Path
) -> None:
    for one in chain:
        one.chmod(0o600)
    with ImageServer(PROGRAM, tmp_path / "mark", tmp_path / "log", nobody) as server:
        with pytest.raises(VircptError, match="Permission denied"):
            server.look(Layer(str(chain[0]), "qcow2"))
        hand_in(server, chain)
        status = Path(f"/proc/{server._process.pid}/status").read_text()
        environment = Path(f"/proc/{server._process.pid}/environ").read_bytes()
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(found["Uid"].split()) == set(found["Gid"].split()) == {"65534"}
    assert (found["NoNewPrivs"], found["Seccomp"], int(found["CapPrm"], 16)) == ("1", "2", 0)
    assert b"HOME=" not in environment


def test_descriptors_hold_the_locks_too(chain: list[Path], nobody: User, tmp_path: Path) -> None:
    with ImageServer(PROGRAM, tmp_path / "mark", tmp_path / "log", nobody) as server:
        hand_in(server, chain)
        for one in chain:
            with pytest.raises(subprocess.CalledProcessError):
                qemu_io(one, "write 0 64k")
    for one in reversed(chain):
        qemu_io(one, "write 0 64k")


def test_certificates_that_its_user_may_not_read(nobody: User, tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir(mode=0o700)
    endpoint = Endpoint(address="127.0.0.1", port=1, tls_dir=str(tmp_path / "tls"))
    with (
        ImageServer(PROGRAM, tmp_path / "mark", tmp_path / "log", nobody) as server,
        pytest.raises(NotSupported) as caught,
    ):
        server.listen(endpoint)
    assert caught.value.hint == "QEMU's user has to be able to read them"


def test_a_signal_at_its_start_leaves_no_server(tmp_path: Path) -> None:
    """Between the fork and our knowing of it: nobody would find it then, nor end it."""
    code = (
        "import os, signal, subprocess, sys, time; from pathlib import Path\n"
        "from vircpt.blocks.image_server import ImageServer\n"
        "from vircpt.cli import signals; from vircpt.errors import Interrupted\n"
        "class Late(subprocess.Popen):\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        "        print(self.pid, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "subprocess.Popen = Late; signals.catch()\n"
        "try:\n"
        "    with ImageServer(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])): pass\n"
        "except Interrupted as error: os._exit(error.exit_code)\n"
    )
    command = [sys.executable, "-c", code, PROGRAM, f"{tmp_path}/mark", f"{tmp_path}/log"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 143, done.stderr
    pid = int(done.stdout)
    alive = Path(f"/proc/{pid}").exists()
    if alive:
        end_orphan(pid)
    assert not alive


def end_orphan(pid: int) -> None:
    """Nobody waits for it but init."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_a_program_that_is_missing(tmp_path: Path) -> None:
    with (
        pytest.raises(NotSupported, match="nonexistent is missing"),
        ImageServer("/nonexistent", tmp_path / "mark", tmp_path / "log"),
    ):
        pass


def test_a_program_that_is_no_qemu(tmp_path: Path) -> None:
    with (
        pytest.raises(VircptError, match="cannot serve"),
        ImageServer("false", tmp_path / "mark", tmp_path / "log"),
    ):
        pass
