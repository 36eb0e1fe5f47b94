"""Certificates for TLS on 127.0.0.1: an authority, a server and a client."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make(directory: Path) -> Path:
    """Under QEMU's names (ca-cert.pem, …) and under libvirt's (cacert.pem, …), for all to read."""
    directory.mkdir(parents=True, exist_ok=True)
    _openssl(
        directory, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", "/CN=lab authority",
        "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    for name, usage in (("server", "serverAuth"), ("client", "clientAuth")):
        _openssl(
            directory, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-keyout", f"{name}-key.pem", "-out", f"{name}.csr",
        )  # fmt: skip
        (directory / f"{name}.ext").write_text(
            f"basicConstraints=critical,CA:FALSE\nextendedKeyUsage={usage}\n"
            "keyUsage=critical,digitalSignature,keyEncipherment\n"
            "subjectAltName=IP:127.0.0.1,DNS:localhost\n"
        )
        _openssl(
            directory, "x509", "-req", "-days", "2",
            "-in", f"{name}.csr", "-out", f"{name}-cert.pem",
            "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
            "-extfile", f"{name}.ext",
        )  # fmt: skip
    for ours in ("ca-cert", "server-cert", "server-key", "client-cert", "client-key"):
        (directory / f"{ours}.pem").chmod(0o644)
        (directory / f"{ours.replace('-', '')}.pem").symlink_to(f"{ours}.pem")
    directory.chmod(0o755)
    return directory


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)
