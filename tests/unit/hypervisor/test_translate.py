"""libvirt's errors in vircpt's words, and small things read from libvirt's answers."""

from __future__ import annotations

import libvirt
import pytest

from vircpt.errors import Busy, NotSupported, VircptError
from vircpt.hypervisor.connection import Owner, default_uri, library_version, parse_owner
from vircpt.hypervisor.translate import code, translate, translated


@pytest.fixture(autouse=True)
def _no_error_before() -> None:
    """A libvirtError takes what libvirt remembers as this thread's last error, if anything."""
    libvirt.virResetLastError()


def test_a_message_is_explained_with_the_domain_in_the_hint() -> None:
    error = libvirt.libvirtError("Requested operation is not valid: domain is not running")
    told = translate(error, "cannot create the checkpoint", domain="vm1", checkpoint="friday")
    assert type(told) is NotSupported
    assert told.what == "cannot create the checkpoint"
    assert "domain is not running" in (told.why or "")
    assert told.hint == "start it: virsh start vm1"
    assert (told.domain, told.checkpoint) == ("vm1", "friday")


def test_an_unknown_message_is_told_as_it_is() -> None:
    told = translate(libvirt.libvirtError("something odd"), "cannot do it")
    assert type(told) is VircptError
    assert (told.why, told.hint) == ("something odd", None)


def test_inside_translated_only_libvirts_errors_change() -> None:
    with pytest.raises(Busy, match="cannot start"), translated("cannot start"):
        raise libvirt.libvirtError("there is already another job running")
    with pytest.raises(KeyError), translated("cannot start"):
        raise KeyError


def test_the_first_error_stays_the_cause() -> None:
    first = libvirt.libvirtError("x")
    with pytest.raises(VircptError) as caught, translated("y"):
        raise first
    assert caught.value.__cause__ is first


def test_what_is_no_error_of_libvirts_has_no_code() -> None:
    assert code(None) is None
    assert code(ValueError()) is None
    assert code(VircptError("x")) is None


@pytest.mark.parametrize(
    ("label", "owner"),
    [
        ("+64055:+107", Owner(64055, 107)),
        ("0:0", Owner(0, 0)),
        ("", None),
        ("64055", None),
        ("+64055:", None),
        (":", None),
        ("qemu:kvm", None),
        ("-1:-1", None),
        ("system_u:system_r:svirt_t:s0:c1,c2", None),
    ],
)
def test_owners_in_labels(label: str, owner: Owner | None) -> None:
    assert parse_owner(label) == owner


def test_the_default_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIBVIRT_DEFAULT_URI")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_uri() == "qemu:///system"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert default_uri() == "qemu:///session"
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "qemu+ssh://host/system")
    assert default_uri() == "qemu+ssh://host/system"


def test_the_version_has_three_numbers() -> None:
    assert [part.isdigit() for part in library_version().split(".")] == [True] * 3
