"""Names for disks in another domain."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from vircpt.hypervisor.hotplug import Sockets
from vircpt.operations import plugs

TARGETS = st.from_regex(r"\A[shv]d[a-z]{1,2}\Z")


@given(st.text(), TARGETS, st.from_regex(r"\A[0-9a-f]{8}\Z"))
def test_serials_fit_and_are_plain(domain: str, target: str, number: str) -> None:
    """What libvirt takes and the guest sees whole, whatever the domain is called."""
    found = plugs.serial(domain, target, number)
    assert len(found) <= 20
    assert re.fullmatch(r"[A-Za-z0-9_-]+", found)
    assert found.endswith(f"-{target}-{number[:4]}")


@given(st.lists(TARGETS, unique=True, max_size=8), st.frozensets(TARGETS, max_size=8))
def test_names_are_free(sources: list[str], taken: frozenset[str]) -> None:
    sockets = Sockets(True, taken, frozenset(), ())
    number, disks = plugs.name_disks(sources, "vm1", sockets, "virtio")
    assert [one.source for one in disks] == sources
    assert not {one.target for one in disks} & taken
    for field in ("target", "serial", "alias"):
        assert len({getattr(one, field) for one in disks}) == len(sources)
    assert all(re.fullmatch(r"ua-[A-Za-z0-9_-]+", one.alias or "") for one in disks)
    assert all(number in (one.alias or "") for one in disks)


def test_the_domain_stands_in_the_serial() -> None:
    assert plugs.serial("vm1", "vda", "1a2b3c4d") == "vm1-vda-1a2b"
    assert plugs.serial("a-rather-long-name", "vda", "1a2b3c4d") == "a-rather-lo-vda-1a2b"
