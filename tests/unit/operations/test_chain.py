"""Which images of a chain are opened, by a real server that runs as we do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.serving import PROGRAM
from vircpt.blocks.image_server import ImageServer
from vircpt.errors import NotSupported
from vircpt.hypervisor.domain import Disk
from vircpt.operations import chain


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ImageServer]:
    with ImageServer(PROGRAM, tmp_path / "mark", tmp_path / "log") as found:
        yield found


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """A qcow2 image whose header names a raw one below it."""
    (tmp_path / "below").write_bytes(bytes(1 << 20))
    top = tmp_path / "top"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "below", str(top)]
    subprocess.run(command, check=True, timeout=30)
    return Disk("vda", "disk", "qcow2", "file", str(top))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server may read everything")
def test_a_server_that_is_root_follows_no_header(server: ImageServer, disk: Disk) -> None:
    """QEMU's user is root, or libvirt does not tell: no permission keeps it from any file."""
    with (
        pytest.raises(NotSupported, match="does not name") as caught,
        chain.opened(server, disk, None),
    ):
        pass
    assert "below" in str(caught.value)
    assert "backingStore" in str(caught.value.hint)


def test_what_the_definition_names_is_opened(
    server: ImageServer, disk: Disk, tmp_path: Path
) -> None:
    named = disk._replace(below=(("file", "raw", str(tmp_path / "below")),))
    with chain.opened(server, named, None) as found:
        assert [one.path for one in found.layers] == [disk.source, str(tmp_path / "below")]
