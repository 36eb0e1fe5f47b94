"""Where an export may listen on TCP, and which certificates libvirt would use."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.errors import InvalidInput
from vircpt.operations.tcp import DEFAULT_PORT, TcpListen, _configured, parse_listen


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1", "192.0.2.1", DEFAULT_PORT),
        ("192.0.2.1:9000", "192.0.2.1", 9000),
        ("host.example", "host.example", DEFAULT_PORT),
        ("host.example:65535", "host.example", 65535),
        ("localhost:1", "localhost", 1),
        ("::1", "::1", DEFAULT_PORT),
        ("[::1]", "::1", DEFAULT_PORT),
        ("[::1]:9000", "::1", 9000),
        ("2001:db8::1", "2001:db8::1", DEFAULT_PORT),
        ("[2001:db8::1]:9000", "2001:db8::1", 9000),
    ],
)
def test_addresses_that_are_understood(text: str, address: str, port: int) -> None:
    assert parse_listen(text, None, insecure=True) == TcpListen(address, port, None)
    assert parse_listen(text, "/tls", insecure=False) == TcpListen(address, port, "/tls")


@pytest.mark.parametrize(
    "text",
    ["", ":", ":9000", "host:", "host:x", "host:-1", "host:0", "host:65536", "host:123456",
     "a:b:c", "1:2:3", "[::1", "::1]", "[]", "[]:9000", "[::1]9000", "[::1]:", "[::1]:0"],
)  # fmt: skip
def test_texts_that_are_no_address(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_listen(text, None, insecure=True)


@given(st.text())
def test_any_text_is_an_address_or_invalid(text: str) -> None:
    try:
        listen = parse_listen(text, None, insecure=True)
    except InvalidInput:
        return
    assert listen.address
    assert 0 < listen.port < 65536


def test_without_tls_it_must_be_called_insecure() -> None:
    with pytest.raises(InvalidInput, match="needs TLS") as caught:
        parse_listen("192.0.2.1", None, insecure=False)
    assert "--tls-dir" in str(caught.value.hint)


def test_tls_and_insecure_exclude_each_other() -> None:
    with pytest.raises(InvalidInput, match="exclude each other"):
        parse_listen("192.0.2.1", "/tls", insecure=True)


@pytest.mark.parametrize(
    "text", ["0.0.0.0", "0.0.0.0:9000", "::", "[::]", "[::]:9000", "0:0:0:0:0:0:0:0", "[::0]"]
)
def test_every_network_is_refused_without_tls(text: str) -> None:
    with pytest.raises(InvalidInput, match="refusing to listen"):
        parse_listen(text, None, insecure=True)
    assert parse_listen(text, "/tls", insecure=False).tls_dir == "/tls"


def test_the_directory_of_certificates_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_listen("host", "tls", insecure=False).tls_dir == str(tmp_path / "tls")


@pytest.mark.parametrize(
    ("text", "directory"),
    [
        ("", "/etc/pki/qemu"),
        ('#backup_tls_x509_cert_dir = "/a"\n', "/etc/pki/qemu"),
        ('backup_tls_x509_cert_dir = "/a"\n', "/a"),
        ('  backup_tls_x509_cert_dir="/a b"  # mine\n', "/a b"),
        ('default_tls_x509_cert_dir = "/b"\n', "/b"),
        ('default_tls_x509_cert_dir = "/b"\nbackup_tls_x509_cert_dir = "/a"\n', "/a"),
        ('backup_tls_x509_cert_dir = "/a"\nbackup_tls_x509_cert_dir = "/c"\n', "/c"),
        ('vnc_tls_x509_cert_dir = "/v"\nbackup_tls_x509_verify = 1\n', "/etc/pki/qemu"),
    ],
)
def test_the_certificates_that_libvirt_uses(text: str, directory: str, tmp_path: Path) -> None:
    path = tmp_path / "qemu.conf"
    path.write_text(text)
    assert _configured(path) == directory


def test_without_a_configuration_libvirt_has_its_default(tmp_path: Path) -> None:
    assert _configured(tmp_path / "none") == "/etc/pki/qemu"
