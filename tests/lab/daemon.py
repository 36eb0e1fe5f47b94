"""A libvirtd of the tests' own, run as a child process.

Only inside tests/lab/enter, where its directories are private. It knows no domains (vms.py).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ETC = Path("/etc/libvirt")
SOCKET = Path("/run/libvirt/libvirt-sock")
LOG = Path("/var/log/libvirt/libvirtd.log")
SASL_DIRECTORY = Path("/run/lab/sasl2")
TCP_PORT = 16509
TLS_PORT = 16514


class LabError(Exception):
    """The lab itself does not work; says nothing about the program under test."""


@dataclass(frozen=True)
class Tcp:
    """Listen on 127.0.0.1:16509; with SASL, `user` and `password` are let in and nobody else.

    With `certificates` (see certificates.py), with TLS on 127.0.0.1:16514 instead.
    """

    auth: Literal["none", "sasl"] = "none"
    user: str = "lab"
    password: str = "secret of the lab"
    certificates: Path | None = None

    @property
    def port(self) -> int:
        return TLS_PORT if self.certificates else TCP_PORT


def poll(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Wait until condition() holds.

    :raise LabError: it did not within timeout seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(0.01)


def qemu_conf(**settings: str) -> str:
    """A qemu.conf that works without systemd, security modules and cgroups, plus the settings."""
    lines = [
        'stdio_handler = "file"',  # virtlogd does not run here
        'security_driver = "none"',
        "cgroup_controllers = []",
    ]
    lines += [f'{key} = "{value}"' for key, value in settings.items()]
    return "\n".join(lines) + "\n"


class Libvirtd(AbstractContextManager["Libvirtd"]):
    """A libvirtd that runs from entering the context to leaving it.

    VMs outlive stop(), kill() and restart(), as they do everywhere; the lab's end is theirs, too.
    """

    def __init__(self, *, tcp: Tcp | None = None, backup_tls_directory: Path | None = None) -> None:
        """:param backup_tls_directory: backup_tls_x509_cert_dir, for NBD exports over TLS, and
        nbd_tls_x509_cert_dir, for disks that are read from them."""
        if os.environ.get("VIRCPT_LAB") != "1":
            raise LabError("not in the lab: run this through tests/lab/enter")
        self.tcp = tcp
        self.backup_tls_directory = backup_tls_directory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Libvirtd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise LabError("libvirtd does not run")
        return self._process.pid

    def start(self) -> None:
        """Returns when the socket takes connections; a connection may have to wait a little."""
        self._write_configuration()
        command = ["libvirtd", "--config", str(ETC / "libvirtd.conf")]
        if self.tcp:
            command.append("--listen")
        with LOG.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        poll(self._answers, 30, "libvirtd's sockets")

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a crash would: it writes nothing and says goodbye to nobody."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextmanager
    def listening(self, tcp: Tcp) -> Iterator[None]:
        """For a while, restarted at either end, also at qemu+tcp://127.0.0.1/system."""
        before, self.tcp = self.tcp, tcp
        self.restart()
        try:
            yield
        finally:
            self.tcp = before
            self.restart()

    def log(self) -> str:
        return LOG.read_text(errors="replace") if LOG.exists() else ""

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise LabError(f"libvirtd did not end after {number.name}") from None
        finally:
            self._process = None

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise LabError(f"libvirtd ended with status {self._process.returncode}:\n{self.log()}")
        if not _connects(socket.AF_UNIX, str(SOCKET)):
            return False
        return self.tcp is None or _connects(socket.AF_INET, ("127.0.0.1", self.tcp.port))

    def _write_configuration(self) -> None:
        lines = [f'log_outputs = "2:file:{LOG}"']
        lines += ['log_filters = "4:util.netdev"']  # has no end of complaints about our namespace
        lines += ['auth_unix_ro = "none"', 'auth_unix_rw = "none"']
        if self.tcp:
            tls = self.tcp.certificates
            lines += [f"listen_tls = {int(bool(tls))}", f"listen_tcp = {int(not tls)}"]
            lines += ['listen_addr = "127.0.0.1"']
            if tls:
                lines += [
                    f'key_file = "{tls}/serverkey.pem"',
                    f'cert_file = "{tls}/servercert.pem"',
                ]
                lines += [f'ca_file = "{tls}/cacert.pem"']
            lines += [f'auth_tcp = "{self.tcp.auth}"']
            if self.tcp.auth == "sasl":
                _write_sasl(self.tcp)
        (ETC / "libvirtd.conf").write_text("\n".join(lines) + "\n")
        qemu = {}
        if self.backup_tls_directory:
            qemu["backup_tls_x509_cert_dir"] = str(self.backup_tls_directory)
            qemu["nbd_tls_x509_cert_dir"] = str(self.backup_tls_directory)
        (ETC / "qemu.conf").write_text(qemu_conf(**qemu))

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "SASL_CONF_PATH": str(SASL_DIRECTORY)}


def _connects(family: int, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def _write_sasl(tcp: Tcp) -> None:
    """DIGEST-MD5: without TLS, libvirt insists on a mechanism that encrypts, and SCRAM does not."""
    SASL_DIRECTORY.mkdir(parents=True, exist_ok=True)
    database = SASL_DIRECTORY / "passwd.db"
    configuration = f"mech_list: digest-md5\nsasldb_path: {database}\n"
    (SASL_DIRECTORY / "libvirt.conf").write_text(configuration)
    command = ["saslpasswd2", "-p", "-c", "-f", str(database), "-a", "libvirt", tcp.user]
    subprocess.run(command, input=tcp.password, text=True, check=True, capture_output=True)
