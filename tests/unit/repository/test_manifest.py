"""Manifests: what is written is read again, and nothing else is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.errors import Mismatch
from vircpt.repository import manifest, sealed
from vircpt.repository.manifest import Level, Manifest, StoredDisk, StoredFile

GOOD = Manifest(
    id="9f8e7d6c",
    created=1795465445.5,
    repository="1a2b3c4d",
    domain="vm 1/ä",
    uuid="4c37b064-0a87-49dc-bd97-f593683007de",
    level=Level.INCREMENTAL,
    parent="00000001",
    checkpoint=True,
    state="running",
    freeze="frozen",
    compress="zstd",
    disks=(StoredDisk("vda", 1 << 40, "00000001", None, 5, 4, 3, "a" * 64),),
    files=(StoredFile("domain.xml", 7, "b" * 64),),
)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(sealed.write(manifest.dump(GOOD)))
    assert manifest.parse(sealed.read(path)) == GOOD
    assert manifest.directory_name(GOOD.created, GOOD.id) == "20261123T202405Z-9f8e7d6c"


def test_what_a_later_version_adds_is_ignored() -> None:
    data = manifest.dump(GOOD) | {"new": 1}
    data["disks"] = [one | {"new": 2} for one in data["disks"]]
    assert manifest.parse(data) == GOOD


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "vircpt/backup-manifest/2"),
        ("id", "../../x"),
        ("id", "9f8e7d6c\n"),
        ("id", None),
        ("parent", "../x"),
        ("repository", 7),
        ("uuid", "x"),
        ("created", "now"),
        ("created", True),
        ("created", float("nan")),
        ("created", 1e300),
        ("level", "most"),
        ("domain", ""),
        ("disks", {}),
        ("disks", [7]),
        ("files", None),
    ],
)
def test_a_bad_value_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        manifest.parse(manifest.dump(GOOD) | {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target", "../vda"),
        ("target", ".vda"),
        ("target", "vda/x"),
        ("target", "-f"),
        ("target", "v" * 40),
        ("size", -1),
        ("size", 1.5),
        ("size", True),
        ("size", 1 << 64),
        ("parent", "x"),
        ("sums", "A" * 64),
    ],
)
def test_a_bad_disk_is_refused(key: str, value: Any) -> None:
    data = manifest.dump(GOOD)
    data["disks"] = [data["disks"][0] | {key: value}]
    with pytest.raises(ValueError, match=r"\w"):
        manifest.parse(data)


@pytest.mark.parametrize("name", ["../x", "/etc/shadow", "vda.qcow2", "manifest.json", ""])
def test_files_have_names_of_a_closed_list(name: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        manifest.parse(manifest.dump(replace(GOOD, files=(StoredFile(name, 1, "c" * 64),))))


def test_nothing_is_named_twice() -> None:
    for twice in (replace(GOOD, disks=GOOD.disks * 2), replace(GOOD, files=GOOD.files * 2)):
        with pytest.raises(ValueError, match="twice"):
            manifest.parse(manifest.dump(twice))


@given(st.data())
def test_one_changed_byte_breaks_the_seal(tmp_path_factory: Any, data: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "sealed.json"
    good = sealed.write(manifest.dump(GOOD))
    place = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bad)
    with pytest.raises(Mismatch, match=r"sealed\.json"):
        sealed.read(path)
    path.write_bytes(good[:place])
    with pytest.raises(Mismatch, match=r"sealed\.json"):
        sealed.read(path)
