"""Exports over TCP, with TLS and without, and vircpt on other hosts' libvirt: over TCP with a
password, over TLS, over SSH. The other host is this one; vircpt can't know."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab import certificates
from lab.daemon import Libvirtd, Tcp, poll
from lab.fixtures import BlankFactory, Cli
from lab.state import checkpoints, has_job, leftovers
from lab.vms import MIB, Disk, Vm

TCP = "qemu+tcp://127.0.0.1/system"
CLUSTER = 65536
PROGRAM = Path(__file__).parents[2] / ".venv/bin/vircpt"


@pytest.fixture
def vm(blank: BlankFactory, cli: Cli) -> Vm:
    """A VM with checkpoint foo and 64 KiB written since."""
    made = blank("vm1", (Disk("vda"),))
    assert cli("-d", "vm1", "create", "--name", "foo").returncode == 0
    made.write("vda", MIB, CLUSTER)
    return made


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = Path("/var/lib/libvirt/images/certificates")
    return certificates.make(directory)


def again(vm: Vm) -> Vm:
    """The same VM over a new connection: the daemon has been restarted."""
    return Vm(libvirt.open("qemu:///system").lookupByName(vm.name), vm.images, vm.serial_log)


def export(cli: Cli, *args: str) -> dict[str, Any]:
    done = cli(*args, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class TestTcp:
    def test_without_tls_if_that_is_said(self, vm: Vm, cli: Cli) -> None:
        at = "127.0.0.1:10901"
        found = export(cli, "-d", "vm1", "export", "--name", "foo", "--tcp", at, "--insecure")
        assert found["disks"][0]["uri"] == "nbd://127.0.0.1:10901/vda"
        assert found["disks"][0]["changed"] == CLUSTER
        assert found["socket"] is None
        (one,) = json.loads(cli("exports", "--json").stdout)["exports"]
        assert (one["state"], one["address"], one["port"]) == ("running", "127.0.0.1", 10901)
        subprocess.run(["nbdinfo", "nbd://127.0.0.1:10901/vda"], check=True, capture_output=True)
        assert cli("-d", "vm1", "release").returncode == 0
        assert leftovers() == []

    def test_the_usual_port_when_none_is_named(self, vm: Vm, cli: Cli) -> None:
        found = export(cli, "-d", "vm1", "export", "--tcp", "127.0.0.1", "--insecure")
        assert found["port"] == 10809
        assert cli("-d", "vm1", "release").returncode == 0

    def test_a_port_that_is_taken(self, vm: Vm, blank: BlankFactory, cli: Cli) -> None:
        other = blank("other")
        export(cli, "-d", "vm1", "export", "--tcp", "127.0.0.1", "--insecure")
        done = cli("-d", "other", "export", "--create", "x", "--tcp", "127.0.0.1", "--insecure")
        assert done.returncode == 11, done.stderr
        assert "Address already in use" in done.stderr
        assert not has_job(other)
        assert checkpoints(other) == []
        assert cli("-d", "vm1", "release").returncode == 0
        assert leftovers() == []

    def test_of_a_domain_that_is_shut_off(self, vm: Vm, cli: Cli) -> None:
        vm.destroy()
        found = export(cli, "-d", "vm1", "export", "--tcp", "127.0.0.1", "--insecure")
        assert found["disks"][0]["size"] == 64 * MIB
        assert cli("-d", "vm1", "release").returncode == 0


class TestTls:
    @pytest.fixture
    def certified(self, vm: Vm, libvirtd: Libvirtd, tls: Path) -> Iterator[Vm]:
        libvirtd.backup_tls_directory = tls
        libvirtd.restart()
        yield again(vm)
        libvirtd.backup_tls_directory = None
        libvirtd.restart()

    def test_with_the_certificates_of_libvirt(
        self, certified: Vm, cli: Cli, tls: Path, tmp_path: Path
    ) -> None:
        listen = ("--tcp", "127.0.0.1", "--tls-dir", str(tls))
        found = export(cli, "-d", "vm1", "export", "--name", "foo", *listen)
        uri = found["disks"][0]["uri"]
        assert uri == f"nbds://127.0.0.1:10809/vda?tls-certificates={tls}"
        assert found["tls"] is True
        assert found["disks"][0]["changed"] == CLUSTER
        plain = subprocess.run(["nbdinfo", "nbd://127.0.0.1/vda"], capture_output=True)
        assert plain.returncode != 0, "nobody gets in without TLS"
        copied = tmp_path / "copy.raw"
        assert cli("-d", "vm1", "copy", str(copied)).returncode == 0
        assert copied.read_bytes()[MIB : MIB + CLUSTER] == b"\xaa" * CLUSTER
        assert cli("-d", "vm1", "overlay", str(tmp_path / "o.qcow2")).returncode == 12
        assert cli("-d", "vm1", "release").returncode == 0
        assert leftovers() == []

    def test_other_certificates_than_libvirts_are_refused(
        self, vm: Vm, cli: Cli, tls: Path
    ) -> None:
        done = cli("-d", "vm1", "export", "--tcp", "127.0.0.1", "--tls-dir", str(tls))
        assert done.returncode == 12
        assert "backup_tls_x509_cert_dir" in done.stderr
        assert not has_job(vm)

    def test_of_a_domain_that_is_shut_off(self, vm: Vm, cli: Cli, tls: Path) -> None:
        vm.destroy()
        found = export(cli, "-d", "vm1", "export", "--name", "foo", "--tcp", "127.0.0.1",
                       "--tls-dir", str(tls))  # fmt: skip
        assert found["disks"][0]["changed"] == CLUSTER
        assert cli("-d", "vm1", "release").returncode == 0


class TestRemote:
    def test_what_needs_no_local_socket_works(self, vm: Vm, libvirtd: Libvirtd, cli: Cli) -> None:
        with libvirtd.listening(Tcp()):
            remote = ("-c", TCP, "-d", "vm1")
            assert cli(*remote, "create", "--name", "bar").returncode == 0
            assert checkpoints(again(vm)) == ["foo", "bar"]
            listed = json.loads(cli(*remote, "list", "--json").stdout)["checkpoints"]
            assert [one["changed"] for one in listed] == [CLUSTER, 0]
            assert cli(*remote, "info", "bar").returncode == 0
            xml = cli(*remote, "dumpxml", "bar").stdout
            assert cli(*remote, "delete", "--name", "bar", "--metadata").returncode == 0
            assert cli(*remote, "redefine", "-", "--validate", input=xml).returncode == 0
            assert cli(*remote, "delete", "--name", "bar").returncode == 0
            assert cli("-c", TCP, "exports").returncode == 0

    def test_an_export_over_a_socket_is_refused_with_the_reason(
        self, vm: Vm, libvirtd: Libvirtd, cli: Cli
    ) -> None:
        with libvirtd.listening(Tcp()):
            done = cli("-c", TCP, "-d", "vm1", "export", "--create", "x")
            assert done.returncode == 12
            assert "its Unix socket would be on the host of qemu+tcp://127.0.0.1" in done.stderr
            assert "--tcp ADDRESS" in done.stderr
            assert checkpoints(again(vm)) == ["foo"]
        assert leftovers() == []

    def test_an_export_over_tcp_works(self, vm: Vm, libvirtd: Libvirtd, cli: Cli) -> None:
        with libvirtd.listening(Tcp()):
            remote = ("-c", TCP, "-d", "vm1")
            options = ("--name", "foo", "--tcp", "127.0.0.1", "--insecure")
            found = export(cli, *remote, "export", *options)
            assert found["disks"][0]["changed"] == CLUSTER
            assert found["release_command"] == f"vircpt -c {TCP} -d vm1 release"
            (one,) = json.loads(cli("-c", TCP, "exports", "--json").stdout)["exports"]
            assert one["state"] == "running"
            assert cli(*remote, "release").returncode == 0
            assert not has_job(again(vm))
        assert leftovers() == []
        assert [one.name for one in vm.images["vda"].parent.glob("*.vircpt-*")] == []

    def test_a_shut_off_domain_there_is_refused(self, vm: Vm, libvirtd: Libvirtd, cli: Cli) -> None:
        vm.destroy()
        with libvirtd.listening(Tcp()):
            done = cli("-c", TCP, "-d", "vm1", "export", "--tcp", "127.0.0.1", "--insecure")
            assert done.returncode == 12
            assert "only on its own host" in done.stderr

    def test_a_password_from_the_auth_file(
        self, vm: Vm, libvirtd: Libvirtd, cli: Cli, tmp_path: Path
    ) -> None:
        who = Tcp(auth="sasl")
        auth = tmp_path / "auth.conf"
        credentials = f"authname={who.user}\npassword={who.password}\n"
        sections = "[auth-libvirt-127.0.0.1]\ncredentials=lab\n"
        auth.write_text(f"[credentials-lab]\n{credentials}\n{sections}")
        with libvirtd.listening(who):
            env = {"LIBVIRT_AUTH_FILE": str(auth)}
            assert "foo" in cli("-c", TCP, "-d", "vm1", "list", env=env).stdout
            nobody = tmp_path / "empty.conf"  # the lab's own may know a password by now
            nobody.touch()
            refused = cli("-c", TCP, "-d", "vm1", "list", env={"LIBVIRT_AUTH_FILE": str(nobody)})
            assert refused.returncode == 14
            assert "--user" in refused.stderr
            auth.write_text(auth.read_text().replace(who.password, "wrong"))
            assert cli("-c", TCP, "-d", "vm1", "list", env=env).returncode == 14

    def test_a_password_that_is_asked_for(self, vm: Vm, libvirtd: Libvirtd) -> None:
        who = Tcp(auth="sasl")
        with libvirtd.listening(who):
            output = typed([str(PROGRAM), "-c", TCP, "--user", who.user, "-d", "vm1", "list"],
                           who.password)  # fmt: skip
        assert "foo" in output
        assert who.password not in output, "it is not shown while it is typed"

    def test_over_tls(self, vm: Vm, libvirtd: Libvirtd, cli: Cli, tls: Path) -> None:
        with libvirtd.listening(Tcp(certificates=tls)):
            uri = f"qemu+tls://127.0.0.1/system?pkipath={tls}"
            done = cli("-c", uri, "-d", "vm1", "list")
            assert "foo" in done.stdout, done.stderr
            assert cli("-c", uri, "-d", "vm1", "create", "--name", "bar").returncode == 0
            stranger = cli("-c", "qemu+tls://127.0.0.1/system", "-d", "vm1", "list")
            assert stranger.returncode == 14

    def test_over_ssh(self, vm: Vm, cli: Cli, tmp_path: Path) -> None:
        with ssh_server(tmp_path) as uri:
            done = cli("-c", uri, "-d", "vm1", "list")
            assert "foo" in done.stdout, done.stderr
            assert cli("-c", uri, "-d", "vm1", "create", "--name", "bar").returncode == 0
            assert cli("-c", uri, "-d", "vm1", "export").returncode == 12
        assert checkpoints(vm) == ["foo", "bar"]
        done = cli("-c", uri, "-d", "vm1", "list")
        assert done.returncode == 14
        assert "hint: " in done.stderr


def typed(command: list[str], answer: str) -> str:
    """What a command shows on a terminal at which `answer` is typed once it asks."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the terminal is closed at its end
            break
        if not piece:
            break
        shown += piece
        if b"assword" in piece:
            os.write(terminal, answer.encode() + b"\n")
    os.waitpid(pid, 0)
    os.close(terminal)
    return shown.decode()


class ssh_server:  # noqa: N801 - a context manager
    """An SSH server on 127.0.0.1 that lets one key in; gives the libvirt URI to use."""

    port = 10922

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> str:
        home, host_key, key = (self._directory / one for one in ("home", "host-key", "key"))
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        subprocess.run(["dropbearkey", "-t", "ed25519", "-f", host_key], check=True,
                       capture_output=True)  # fmt: skip
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        # dropbear takes root's keys from root's home: the lab has one of its own
        self._bound = Path("/root/.ssh")
        self._made = not self._bound.exists()
        self._bound.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["mount", "--bind", home / ".ssh", self._bound], check=True)
        (self._bound / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
        self._server = subprocess.Popen(
            ["dropbear", "-F", "-s", "-r", str(host_key), "-p", f"127.0.0.1:{self.port}",
             "-P", str(self._directory / "pid")],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        poll(self._answers, 10, "the SSH server")
        options = f"keyfile={key}&no_verify=1&no_tty=1&sshauth=privkey"
        return f"qemu+ssh://root@127.0.0.1:{self.port}/system?{options}"

    def __exit__(self, *_: object) -> None:
        self._server.terminate()
        self._server.wait()
        subprocess.run(["umount", self._bound], check=True)
        if self._made:
            self._bound.rmdir()

    def _answers(self) -> bool:
        import socket

        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
