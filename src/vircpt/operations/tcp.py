"""Exports over TCP: what is allowed, and where TLS certificates come from.

libvirt takes the certificates of a backup's NBD server from its qemu.conf; no call can name
others. For a running domain `--tls-dir` must therefore be the directory that stands there.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from vircpt.errors import InvalidInput, NotSupported
from vircpt.hypervisor.connection import Connection

DEFAULT_PORT = 10809
"""NBD's port at IANA."""
_NEEDED = ("ca-cert.pem", "server-cert.pem", "server-key.pem")
_SETTINGS = ("backup_tls_x509_cert_dir", "default_tls_x509_cert_dir")
_FALLBACK = "/etc/pki/qemu"


@dataclass(frozen=True)
class TcpListen:
    """Where an export listens; `tls_dir` holds its certificates, None for no TLS."""

    address: str
    port: int = DEFAULT_PORT
    tls_dir: str | None = None


def parse_listen(text: str, tls_dir: str | None, insecure: bool) -> TcpListen:
    """ADDRESS, ADDRESS:PORT, [IPV6] or [IPV6]:PORT; raises InvalidInput."""
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::(\d{1,5}))?", text)
    bare_ipv6 = text.count(":") > 1 and _ip(text)
    if bare_ipv6:
        address, port = text, DEFAULT_PORT
    elif match:
        address, port = match[1] or match[2], int(match[3] or DEFAULT_PORT)
    else:
        raise InvalidInput(
            f"{text!r} is no address to listen on",
            hint="write ADDRESS, ADDRESS:PORT or [IPV6]:PORT",
        )
    if not 0 < port < 65536:
        raise InvalidInput(f"{port} is no TCP port")
    if insecure and tls_dir:
        raise InvalidInput("--tls-dir and --insecure exclude each other")
    if not insecure and not tls_dir:
        raise InvalidInput(
            "an export over TCP needs TLS",
            why="whoever can reach the port could read the disks",
            hint="give --tls-dir DIR with certificates, or --insecure on a network you trust",
        )
    _check_address(address)
    if insecure and _is_wildcard(address):
        raise InvalidInput(
            f"refusing to listen on {address} without TLS",
            why="that is every network of this host",
            hint="name one address, or use --tls-dir",
        )
    return TcpListen(address, port, str(Path(tls_dir).absolute()) if tls_dir else None)


def check_tcp(listen: TcpListen, connection: Connection, *, live: bool) -> None:
    """Raise what keeps the export from listening there with these certificates."""
    if listen.tls_dir is None or connection.is_remote:
        return
    directory = Path(listen.tls_dir)
    missing = [name for name in _NEEDED if not (directory / name).is_file()]
    if missing:
        raise InvalidInput(
            f"{directory} holds no {missing[0]}",
            hint=f"it must hold {', '.join(_NEEDED)}; see https://libvirt.org/kbase/tlscerts.html",
        )
    if not live:
        return
    configuration = _configuration(connection)
    used = _configured(configuration)
    if os.path.realpath(used) != os.path.realpath(directory):
        raise NotSupported(
            f"libvirt would not use the certificates in {directory}",
            why=f"for a running domain it takes those in {used}",
            hint=f'set backup_tls_x509_cert_dir = "{directory}" in {configuration} and restart '
            f"libvirt's daemon, or use --tls-dir {used}",
        )


def _configuration(connection: Connection) -> Path:
    if connection.is_embedded:
        root = parse_qs(urlsplit(connection.uri).query).get("root", ["/"])[0]
        return Path(root) / "etc" / "qemu.conf"
    if os.geteuid() != 0:
        home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(home) / "libvirt" / "qemu.conf"
    return Path("/etc/libvirt/qemu.conf")


def _configured(path: Path) -> str:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return _FALLBACK
    for setting in _SETTINGS:
        found = re.findall(rf'^\s*{setting}\s*=\s*"([^"]*)"', text, re.MULTILINE)
        if found:
            return str(found[-1])
    return _FALLBACK


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_wildcard(address: str) -> bool:
    parsed = _ip(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return parsed is not None and parsed.is_unspecified


def _check_address(address: str) -> None:
    """An IP address in full, or a host name: 0 and 0x7f.1 are addresses to some programs."""
    if _ip(address):
        return
    labels = address.split(".")
    good = all(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?", one) for one in labels)
    if not good or not re.match(r"[A-Za-z]", labels[-1]):
        raise InvalidInput(
            f"{address!r} is no address to listen on", hint="write an IP address or a host name"
        )
