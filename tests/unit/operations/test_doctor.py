"""The doctor's pure parts: facts into verdicts, findings, logs; and that all ids are documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.hypervisor.connection import Versions
from vircpt.operations.doctor import host, logs
from vircpt.operations.doctor.findings import KINDS, Severity
from vircpt.operations.doctor.logs import Denial, parse_denial
from vircpt.operations.doctor.verdicts import (
    Bitmap,
    Claim,
    DiskBitmaps,
    Layer,
    State,
    Verdict,
    judge,
)

CHECKOUT = Path(__file__).parents[3]


# Ids


def documented() -> dict[str, str]:
    text = (CHECKOUT / "docs/doctor.md").read_text()
    return dict(re.findall(r"^### ([a-z0-9-]+)\n\*(Broken|Warning|Note)", text, re.M))


def test_ids_in_code_documents_and_tests_agree() -> None:
    assert set(documented()) == set(KINDS)
    source = [path.read_text() for path in (CHECKOUT / "src/vircpt/operations/doctor").glob("*.py")]
    for one in KINDS:
        assert sum(f'"{one}"' in text for text in source) >= 2, f"{one} is found by nobody"
    tests = "".join(path.read_text() for path in (CHECKOUT / "tests").rglob("test_*.py"))
    assert set(re.findall(r'finding\("([a-z0-9-]+)"\)', tests)) == set(KINDS)


def test_the_document_calls_each_as_bad_as_the_code() -> None:
    assert documented() == {one: kind.severity.value.title() for one, kind in KINDS.items()}
    assert {kind.severity for kind in KINDS.values()} == set(Severity)


# Verdicts

NAMES = st.sampled_from(["a", "b", "c"])
TARGETS = st.sampled_from(["vda", "vdb"])
BITMAPS = st.builds(Bitmap, NAMES, st.sampled_from([65536, 131072]), st.booleans(), st.booleans())
UNIQUE = st.lists(BITMAPS, max_size=3, unique_by=lambda one: one.name).map(tuple)
LAYERS = st.lists(st.builds(Layer, st.text(max_size=3), UNIQUE), min_size=1, max_size=3).map(tuple)
DISKS = st.lists(
    st.builds(DiskBitmaps, TARGETS, st.none() | UNIQUE, st.none() | LAYERS),
    max_size=2,
    unique_by=lambda one: one.target,
)
CLAIMS = st.lists(
    NAMES.flatmap(
        lambda name: st.builds(Claim, st.just(name), TARGETS, st.just(name), st.booleans())
    ),
    max_size=6,
    unique_by=lambda one: (one.checkpoint, one.target),
)


@given(st.booleans(), CLAIMS, DISKS)
def test_each_claim_gets_one_verdict_and_each_unclaimed_bitmap_on_top_one(
    running: bool, claims: list[Claim], disks: list[DiskBitmaps]
) -> None:
    found = judge(running, claims, disks)
    of_claims, orphans = found[: len(claims)], found[len(claims) :]
    assert [(one.checkpoint, one.target) for one in of_claims] == [
        (one.checkpoint, one.target) for one in claims
    ]
    assert all(one.state is not State.ORPHAN for one in of_claims)
    assert all(one.state is State.ORPHAN and one.checkpoint is None for one in orphans)
    assert len({(one.target, one.bitmap) for one in orphans}) == len(orphans)
    claimed = {(one.target, one.bitmap) for one in claims}
    assert claimed.isdisjoint((one.target, one.bitmap) for one in orphans)


@given(CLAIMS, DISKS)
def test_nothing_stored_is_called_good_that_is_not(
    claims: list[Claim], disks: list[DiskBitmaps]
) -> None:
    """Shut off: ok means that the top image has it, closed and recording, as all that have it."""
    layers = {disk.target: disk.layers for disk in disks}
    for one in judge(False, claims, disks):
        if one.state not in (State.OK, State.GRANULARITY):
            continue
        chain = layers[one.target]
        assert chain is not None
        top = chain[0].get(one.bitmap)
        assert top is not None
        assert top.recording
        parts = [layer.get(one.bitmap) for layer in chain]
        assert not any(part.inconsistent for part in parts if part)
        assert len({part.granularity for part in parts if part}) == (
            1 if one.state is State.OK else 2
        )


@given(CLAIMS, DISKS)
def test_what_libvirt_vouches_for_is_never_called_broken(
    claims: list[Claim], disks: list[DiskBitmaps]
) -> None:
    for claim, one in zip(claims, judge(True, claims, disks), strict=False):
        if claim.vouched:
            assert one.state in (State.OK, State.GRANULARITY, State.NO_DISK)


@given(st.booleans(), CLAIMS, DISKS)
def test_order_of_disks_does_not_matter(
    running: bool, claims: list[Claim], disks: list[DiskBitmaps]
) -> None:
    assert set(judge(running, claims, disks)) == set(judge(running, claims, disks[::-1]))


def layer(path: str, *names: str) -> Layer:
    return Layer(path, tuple(Bitmap(name, 65536) for name in names))


@pytest.mark.parametrize(
    ("chain", "state"),
    [
        ((layer("top", "a"),), State.OK),
        ((layer("top", "a"), layer("base", "a")), State.OK),
        ((layer("top", "a"), layer("middle", "a"), layer("base")), State.OK),
        ((layer("top"), layer("base", "a")), State.CHAIN_GAP),
        ((layer("top", "a"), layer("middle"), layer("base", "a")), State.CHAIN_GAP),
        ((layer("top"), layer("base")), State.MISSING),
    ],
)
def test_chains_of_images(chain: tuple[Layer, ...], state: State) -> None:
    claim = Claim("a", "vda", "a")
    (stored,) = judge(False, [claim], [DiskBitmaps("vda", None, chain)])
    assert stored.state is state
    # running, the top is in QEMU and not in the file
    in_qemu = chain[0].bitmaps
    files = (Layer("top", ()), *chain[1:])
    (live, *_) = judge(True, [claim], [DiskBitmaps("vda", in_qemu, files)])
    assert live.state is state


def test_an_orphan_below_is_nobody_s_business() -> None:
    """Templates that many overlays share hold bitmaps of their own past."""
    disk = DiskBitmaps("vda", None, (layer("top"), layer("template", "old")))
    assert judge(False, [], [disk]) == ()
    disk = DiskBitmaps("vda", None, (layer("top", "left"), layer("template", "old")))
    assert judge(False, [], [disk]) == (Verdict(None, "vda", "left", State.ORPHAN, ("top",)),)


def test_qemu_s_word_counts_for_more_than_the_file_s() -> None:
    disk = DiskBitmaps("vda", (), (layer("top", "removed"),))
    assert judge(True, [], [disk]) == ()


# Logs


def test_names_in_hexadecimal() -> None:
    line = (
        'audit: type=1400 audit(1.2:3): apparmor="DENIED" operation="file_lock" '
        'profile="libvirt-3f8a2f3e-1d4b-4c8e-9a6b-0a1b2c3d4e5f" name=2F7372762F6120622E71636F7732 '
        'comm="qemu"'
    )
    assert parse_denial(line) == Denial(
        "AppArmor", "file_lock", "/srv/a b.qcow2", "3f8a2f3e-1d4b-4c8e-9a6b-0a1b2c3d4e5f"
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        'apparmor="DENIED" operation="open" profile="cupsd" name="/x" comm="cupsd"',
        'apparmor="ALLOWED" operation="open" profile="libvirt-x" name="/x" comm="qemu"',
        'avc:  denied  { read } for  pid=1 comm="httpd" path="/x" scontext=u:r:httpd_t:s0',
        "qemu was denied",
    ],
)
def test_what_is_no_denial_of_qemu(line: str) -> None:
    assert parse_denial(line) is None


@given(st.lists(st.text()))
def test_any_log_is_read_without_complaint(lines: list[str]) -> None:
    list(logs.judge(lines))


def test_the_same_thing_is_told_once() -> None:
    line = 'apparmor="DENIED" operation="open" profile="libvirtd" name="/x" comm="qemu"'
    (found,) = logs.judge([line] * 5)
    assert "5 times" in found.cause


# The host


@pytest.mark.finding("version-too-old")
@pytest.mark.parametrize(
    ("libvirt", "qemu", "old"),
    [
        ("9.0.0", "7.2.22", []),
        ("7.2.0", "5.2.0", []),
        ("7.0.0", "5.2.0", ["libvirt 7.0.0"]),
        ("10.10.0", "4.2.1", ["QEMU 4.2.1"]),
        ("6.0.0", "4.2.0", ["libvirt 6.0.0", "QEMU 4.2.0"]),
    ],
)
def test_versions(libvirt: str, qemu: str, old: list[str]) -> None:
    found = [one.cause for one in host.judge_versions(Versions(libvirt, libvirt, qemu))]
    assert len(found) == len(old)
    assert all(name in cause for name, cause in zip(old, found, strict=True))


def test_tools() -> None:
    assert list(host.judge_tools(lambda name: f"/usr/bin/{name}")) == []
    assert len(list(host.judge_tools(lambda _name: None))) == 3
