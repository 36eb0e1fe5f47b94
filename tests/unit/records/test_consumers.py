"""What is written down about the consumers of an export."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vircpt.errors import InvalidInput, NotSupported
from vircpt.records import consumers, exports
from vircpt.records.consumers import Consumer, ConsumerDisk, ConsumerRecord
from vircpt.records.exports import Damaged, ExportDirectory
from vircpt.records.state import ExportRecord

EXPORT = ExportRecord(
    id="", kind="live", uri="qemu:///system", domain="vm1",
    uuid="11111111-2222-3333-4444-555555555555", user="root", created=1000.0,
)  # fmt: skip


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExportDirectory:
    monkeypatch.setenv("VIRCPT_STATE_DIR", str(tmp_path / "state"))
    return exports.create(EXPORT, None)


def record(export: ExportDirectory, **changes: Any) -> ConsumerRecord:
    made = ConsumerRecord(
        id=consumers.new_id(),
        kind="hotadd",
        export=export.record.id,
        created=2000.0,
        uri="qemu:///system",
        domain="tools",
        uuid="61111111-2222-3333-4444-555555555555",
        disks=(ConsumerDisk("vda", "vdb", "vm1-vda-0123", "ua-vircpt", overlay=True),),
    )
    return replace(made, **changes)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_overlays_do_not_go_where_others_could_put_a_link(
    export: ExportDirectory, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    os.chown(other, 4321, 0)
    with pytest.raises(NotSupported, match="can't be trusted"):
        consumers.create(export, record(export, overlay_dir=str(other)))
    assert consumers.of_export(export) == []


def test_what_is_written_is_read(export: ExportDirectory) -> None:
    made = consumers.create(export, record(export))
    (found,) = consumers.of_export(export)
    assert isinstance(found, Consumer)
    assert found.record == made.record
    assert found.path == made.path
    made.remove()
    assert consumers.of_export(export) == []
    made.remove()


def test_without_consumers(export: ExportDirectory) -> None:
    assert consumers.of_export(export) == []


def test_the_oldest_stands_first(export: ExportDirectory) -> None:
    times = (5.0, 3.0, 4.0)
    for created in times:
        consumers.create(export, record(export, created=created))
    found = [one.record.created for one in consumers.of_export(export) if isinstance(one, Consumer)]
    assert found == sorted(times)


def test_all_goes_with_the_export(export: ExportDirectory) -> None:
    consumers.create(export, record(export))
    export.remove()
    assert not export.path.exists()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_overlays_are_new_files_in_a_directory_of_ours(
    export: ExportDirectory, tmp_path: Path, elsewhere: bool
) -> None:
    os.umask(0o077)
    other = tmp_path / "other"
    other.mkdir()
    made = consumers.create(export, record(export, overlay_dir=str(other) if elsewhere else None))
    os.close(made.make_file("vda.qcow2", None))
    path = made.overlay("vda")
    assert (path.parent.parent == other) == elsewhere
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o711
    with pytest.raises(FileExistsError):
        made.make_file("vda.qcow2", None)
    made.remove()
    assert list(other.iterdir()) == []


def test_a_link_in_place_of_the_overlays_is_not_followed(
    export: ExportDirectory, tmp_path: Path
) -> None:
    other, treasure = tmp_path / "other", tmp_path / "treasure"
    other.mkdir()
    treasure.mkdir()
    (treasure / "gold").write_text("precious")
    made = consumers.create(export, record(export, overlay_dir=str(other)))
    made.overlays.rmdir()
    made.overlays.symlink_to(treasure)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        made.make_file("vda.qcow2", None)
    made.remove()
    assert (treasure / "gold").read_text() == "precious"


def test_a_directory_that_is_none_is_refused(export: ExportDirectory) -> None:
    with pytest.raises(InvalidInput, match="nonexistent"):
        consumers.create(export, record(export, overlay_dir="/nonexistent"))
    assert consumers.of_export(export) == []


def test_an_existing_directory_is_not_taken_over(export: ExportDirectory, tmp_path: Path) -> None:
    wanted = record(export, overlay_dir=str(tmp_path))
    there = tmp_path / f"vircpt-{wanted.export}-{wanted.id}"
    there.mkdir()
    (there / "file").write_text("precious")
    with pytest.raises(Exception, match="cannot make"):
        consumers.create(export, wanted)
    assert (there / "file").read_text() == "precious"
    assert consumers.of_export(export) == []


def test_what_a_killed_vircpt_left_is_swept(export: ExportDirectory) -> None:
    made = consumers.create(export, record(export))
    made.path.rename(made.path.with_name(".passing-01234567"))
    assert consumers.of_export(export) == []
    consumers.create(export, record(export))
    assert len(list((export.path / "consumers").iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"kind": "other"},
        {"export": "01234567"},
        {"id": "01234567"},
        {"created": "now"},
        {"disks": [{"source": "../../etc"}]},
        {"disks": [{"source": "vda", "overlay": 1}]},
        {"more": 1},
    ],
)
def test_a_damaged_state_is_named(export: ExportDirectory, change: dict[str, Any]) -> None:
    made = consumers.create(export, record(export))
    state = made.path / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | change))
    (found,) = consumers.of_export(export)
    assert isinstance(found, Damaged)
    assert found.directory == made.path


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", "\udcff".encode("utf-8", "surrogateescape")])
def test_a_state_that_is_none_is_named(export: ExportDirectory, text: str | bytes) -> None:
    made = consumers.create(export, record(export))
    (made.path / "state.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert isinstance(consumers.of_export(export)[0], Damaged)
