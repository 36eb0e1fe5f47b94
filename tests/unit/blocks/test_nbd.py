"""NBD URIs, the clipping of answers, and what is said when `nbd` is missing or another program.

Reading from a real server is tested in test_image_server.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.blocks import nbd
from vircpt.blocks.extents import Runs
from vircpt.errors import HostUnreachable

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
SHOW_ERROR = (
    "import sys; from vircpt.blocks import nbd; from vircpt.errors import VircptError\n"
    "try: nbd.binding()\n"
    "except VircptError as error: print(error.describe()); sys.exit(error.exit_code)\n"
)


def test_a_unix_uri_is_as_the_specification_writes_it() -> None:
    assert nbd.unix_uri("vda", "/run/x/nbd.sock") == "nbd+unix:///vda?socket=/run/x/nbd.sock"


@given(TEXT, TEXT)
def test_a_unix_uri_gives_name_and_socket_back(export: str, socket: str) -> None:
    split = urlsplit(nbd.unix_uri(export, f"/{socket}"))
    assert unquote(split.path) == f"/{export}"
    assert parse_qs(split.query) == {"socket": [f"/{socket}"]}
    assert split.fragment == ""


@pytest.mark.parametrize(
    ("address", "tls_dir", "uri"),
    [
        ("192.0.2.1", None, "nbd://192.0.2.1:10809/vda"),
        ("2001:db8::1", None, "nbd://[2001:db8::1]:10809/vda"),
        ("host", "/etc/pki/x", "nbds://host:10809/vda?tls-certificates=/etc/pki/x"),
        ("host", "/a b", "nbds://host:10809/vda?tls-certificates=/a%20b"),
    ],
)
def test_tcp_uris(address: str, tls_dir: str | None, uri: str) -> None:
    assert nbd.tcp_uri("vda", address, 10809, tls_dir) == uri


@given(TEXT, st.integers(1, 65535))
def test_a_tcp_uri_gives_name_and_port_back(export: str, port: int) -> None:
    split = urlsplit(nbd.tcp_uri(export, "192.0.2.1", port))
    assert (split.hostname, split.port) == ("192.0.2.1", port)
    assert unquote(split.path) == f"/{export}"
    assert split.query == ""


@given(TEXT)
def test_uris_hold_no_character_that_a_shell_would_split(export: str) -> None:
    assert not set(nbd.unix_uri(export, f"/{export}")) & set(" \t\n'\"`$;|<>\\*")


def test_the_dirty_context_is_named_as_qemu_does() -> None:
    assert nbd.dirty_context("backup-vda") == "qemu:dirty-bitmap:backup-vda"


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1), st.data())
def test_clipping_keeps_the_first_bytes(runs: list[tuple[int, int]], data: st.DataObject) -> None:
    limit = data.draw(st.integers(1, sum(length for length, _ in runs)))
    every = [flags for length, flags in runs for _ in range(length)]
    columns = Runs([length for length, _ in runs], [flags for _, flags in runs])
    clipped = zip(*nbd._clip(columns, limit), strict=True)
    assert [flags for length, flags in clipped for _ in range(length)] == every[:limit]


def test_the_binding_here_is_libnbds() -> None:
    assert nbd.binding().__name__ == "nbd"
    assert nbd.version()[0].isdigit()


def _python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )


def test_another_program_called_nbd_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "nbd.py").write_text("def bind_server(): ...\n")
    done = _python(SHOW_ERROR, tmp_path)
    assert done.returncode == 12, done.stderr
    assert "'nbd' is not libnbd's" in done.stdout
    assert str(tmp_path) in done.stdout
    assert "pip uninstall nbd" in done.stdout
    assert "apt-get install python3-libnbd" in done.stdout


def test_a_missing_binding_is_explained(tmp_path: Path) -> None:
    (tmp_path / "nbd.py").write_text("raise ModuleNotFoundError(\"No module named 'libnbdmod'\")\n")
    done = _python(SHOW_ERROR, tmp_path)
    assert done.returncode == 12, done.stderr
    assert "libnbd's Python binding is missing: No module named 'libnbdmod'" in done.stdout
    assert "hint: apt-get install python3-libnbd" in done.stdout


def test_the_versions_are_told_with_a_wrong_binding_too(tmp_path: Path) -> None:
    (tmp_path / "nbd.py").write_text("")
    done = _python("from vircpt.api import library_versions; print(library_versions())", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'libnbd': None" in done.stdout


def test_nobody_listening_is_host_unreachable(tmp_path: Path) -> None:
    with pytest.raises(HostUnreachable, match="the export does not answer"):
        nbd.Reader(nbd.unix_uri("vda", str(tmp_path / "nbd.sock")))


def test_reading_much_takes_little_memory(tmp_path: Path) -> None:
    """libnbd 1.14's binding keeps each buffer that was read into: a reader has but one."""
    image, socket = tmp_path / "image", tmp_path / "nbd.sock"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    command = ["qemu-nbd", "-r", "-f", "raw", "-t", "-k", str(socket), str(image)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(2000):
            with suppress(HostUnreachable):
                nbd.connected_socket(nbd.unix_uri("", str(socket)))[0].close()
                break
            time.sleep(0.01)
        with nbd.Reader(nbd.unix_uri("", str(socket))) as reader:
            before = _resident()
            for offset in range(0, reader.size, 1 << 20):
                assert len(reader.pread(1 << 20, offset)) == 1 << 20
            assert len(reader.pread((5 << 20) + 3, 17)) == (5 << 20) + 3
            assert _resident() - before < 32 << 20
    finally:
        server.kill()
        server.wait()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
