"""What the documents say is so: their commands are run, and every JSON document fits its schema.

In README.md and docs/tutorial.md the blocks that start with ```console tour are run from top to
bottom, each document on a fresh VM `vm1`: lines with `$ ` on the host, with `guest# ` in the guest.
What a block shows as output must come out; numbers, sizes, times and ids may differ, and `…` stands
for anything. A block that starts with "file NAME" becomes that file. Blocks with "remote" are run
against a libvirtd that listens on TCP and wants a password; names in them are replaced.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lab import schemas
from lab.daemon import ETC, Libvirtd, Tcp
from lab.fixtures import MOUNT_POINT, BlankFactory, Cli
from lab.state import end_job
from lab.vms import MIB, Disk, Vm, define_guest

CHECKOUT = Path(__file__).parents[2]
TIME = r"\d{4}-\d\d-\d\d[T ]\d\d[:.]\d\d[:.]\d\d(\.\d+)?Z?"
VARIES = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
    (r"((?:exports?|vircpt)[ /-])[0-9a-f]{8}\b", r"\1ID"),
    (r"^[0-9a-f]{8}(?=  \S)", "ID"),
    (TIME, "TIME"),
    (r"\d+(\.\d+)? ([KMGTPE]i)?B\b", "SIZE"),
    (r"\b\d+(\.\d+)?\b", "N"),
    (r"[ \t]+", " "),
    (r" $", ""),
)


REMOTE = {
    "qemu+tls://host2": "qemu+tcp://127.0.0.1",
    "--tcp host2": "--tcp 127.0.0.1",
    "auth-libvirt-host2": "auth-libvirt-127.0.0.1",
    "=admin": f"={Tcp.user}",
    "=a-long-password": f"={Tcp.password}",
}


@dataclass
class Step:
    """A command of a document, and the output that is shown below it; or a file to write."""

    prompt: str
    command: str
    output: list[str] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        return any(line.startswith("error:") for line in self.output)


def steps(path: Path, kind: str = "tour") -> list[Step]:
    """The steps of the blocks whose first line says `kind`, and the files that go with them."""
    found: list[Step] = []
    prefix = "" if kind == "tour" else f"{kind}-"
    pattern = rf"^```(?:console {kind}|\w+ {prefix}file (\S+))\n(.*?)^```$"
    for file, block in re.findall(pattern, path.read_text(), re.M | re.S):
        if file:
            found.append(Step(file, block))
            continue
        for line in block.splitlines():
            if match := re.match(r"(\$|guest#) (.*)", line):
                found.append(Step(match[1], match[2]))
            elif found[-1].command.endswith("\\"):
                found[-1].command += f"\n{line}"
            else:
                found[-1].output.append(line)
    return found


def alike(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, word in VARIES:
        text = re.sub(pattern, word, text, flags=re.M)
    return text.strip("\n")


def fits(shown: list[str], real: str) -> bool:
    parts = map(re.escape, alike("\n".join(shown)).split("…"))
    return re.fullmatch(".*?".join(parts), alike(real), re.S) is not None


@pytest.fixture
def vm1(libvirtd: Libvirtd, tmp_path: Path) -> Iterator[Vm]:
    """The VM of the documents: an ext4 of 256 MiB, mounted at /srv, and an empty cdrom."""
    connection = libvirt.open("qemu:///system")
    disks = (Disk("vda", 256 * MIB), Disk("hda", kind="cdrom", bus="ide"))
    vm = define_guest(connection, "vm1", disks)
    boot(vm)
    whole = "-E lazy_itable_init=0,lazy_journal_init=0"  # nothing is written later by itself
    vm.guest(f"mkfs.ext4 -q -F {whole} /dev/vda && mkdir -p /srv && mount -t ext4 /dev/vda /srv")
    vm.guest("sync")
    yield vm
    connection = libvirt.open("qemu:///system")  # the daemon may have been restarted
    Vm(connection.lookupByName("vm1"), vm.images, vm.serial_log).remove()
    connection.close()


def boot(vm: Vm) -> None:
    vm.start()
    vm.wait_agent()


def on_host(command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{CHECKOUT / '.venv/bin'}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",  # so that results and messages come in order, as on a terminal
    }
    return subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


def play(steps: list[Step], vm: Vm, directory: Path, libvirtd: Libvirtd) -> None:
    for step in steps:
        if step.prompt == "guest#":
            vm.guest(step.command)
        elif step.prompt != "$":
            (directory / step.prompt).write_text(step.command)
        elif step.command == "systemctl restart libvirtd":
            restart(libvirtd, vm)
        else:
            done = on_host(step.command, directory)
            told = f"{step.command}\n{done.stdout}"
            assert (done.returncode != 0) == step.fails, f"status {done.returncode} of {told}"
            assert fits(step.output, done.stdout), f"other output of {told}"


def restart(libvirtd: Libvirtd, vm: Vm) -> None:
    """There is no systemd in the lab, and the daemon's start writes qemu.conf: hand the line on."""
    setting = re.search(r'backup_tls_x509_cert_dir = "(.*)"', (ETC / "qemu.conf").read_text())
    libvirtd.backup_tls_directory = Path(setting[1]) if setting else None
    libvirtd.restart()
    vm.domain = libvirt.open("qemu:///system").lookupByName(vm.name)


def test_the_tour_of_the_readme(vm1: Vm, tmp_path: Path, libvirtd: Libvirtd) -> None:
    play(steps(CHECKOUT / "README.md"), vm1, tmp_path, libvirtd)


def test_the_tutorial(vm1: Vm, tmp_path: Path, libvirtd: Libvirtd) -> None:
    try:
        play(steps(CHECKOUT / "docs/tutorial.md"), vm1, tmp_path, libvirtd)
    finally:
        libvirtd.backup_tls_directory = None
        libvirtd.restart()


def test_the_tutorial_on_another_host(vm1: Vm, tmp_path: Path, libvirtd: Libvirtd) -> None:
    tour = steps(CHECKOUT / "docs/tutorial.md", "remote")
    for step in tour:
        for name, ours in REMOTE.items():
            step.command = step.command.replace(name, ours)
            step.output = [line.replace(name, ours) for line in step.output]
    tour.sort(key=lambda step: step.prompt == "$")  # auth.conf is shown after its first use
    on_host("vircpt -d vm1 create --name friday", tmp_path)
    with libvirtd.listening(Tcp(auth="sasl")):
        play(tour, vm1, tmp_path, libvirtd)


def test_the_python_example_of_the_readme(vm1: Vm, tmp_path: Path) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (CHECKOUT / "README.md").read_text(), re.M | re.S
    )
    assert len(blocks) == 1
    (tmp_path / "example.py").write_text(blocks[0])
    vm1.guest("(sleep 0.2; echo hello >/srv/hello; sync) &")
    done = on_host("python example.py", tmp_path)
    assert done.returncode == 0, done.stdout
    assert all(re.fullmatch(r"\d+ \d+", line) for line in done.stdout.splitlines())
    assert "foo" in [one.getName() for one in vm1.domain.listAllCheckpoints()]
    assert vm1.domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE


class Documents:
    """Runs commands with --json and checks what they print; remembers which schemas were met."""

    def __init__(self, cli: Cli, domain: str) -> None:
        self._cli = cli
        self._domain = domain
        self.met: set[str] = set()

    def __call__(self, *arguments: str | Path, status: int = 0, schema: str) -> Any:
        done = self._cli("-d", self._domain, "--json", *arguments)
        assert done.returncode == status, done.stderr
        failed = status and schema == "error/1"
        text, other = (done.stderr, done.stdout) if failed else (done.stdout, done.stderr)
        assert other == "", "with --json there is nothing but the document"
        return self.check(text, schema)

    def lines(self, *arguments: str | Path) -> list[str]:
        """Of a command that prints several documents, a line each."""
        done = self._cli("-d", self._domain, "--json", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def check(self, text: str, schema: str) -> Any:
        document = schemas.check(text, schema)
        self.met.add(schemas.path(schema).name)
        return document


def test_every_json_document_fits_its_schema(
    guest: Vm, blank: BlankFactory, cli: Cli, tmp_path: Path
) -> None:
    json_of = Documents(cli, guest.name)
    json_of("create", "--dry-run", schema="create-plan/1")
    made = json_of("create", "--name", "one", "--description", "the first", schema="create/1")
    assert made["checkpoint"]["freeze"]["state"] == "frozen"
    json_of("create", "--name", "two", "--no-freeze", schema="create/1")
    guest.guest(f"echo hello >{MOUNT_POINT}/hello && sync")
    assert len(json_of("list", schema="list/1")["checkpoints"]) == 2
    json_of("info", "two", schema="info/1")
    definition = tmp_path / "two.xml"
    definition.write_text(json_of("dumpxml", "two", schema="dumpxml/1")["xml"])
    json_of("delete", "--name", "two", "--metadata", schema="delete/1")
    json_of("redefine", definition, "--validate", schema="redefine/1")
    saved = tmp_path / "saved"
    json_of("save-metadata", saved, schema="save-metadata/1")
    json_of("delete", "--name", "two", "--metadata", schema="delete/1")
    json_of("doctor", "--deep", schema="doctor/1")
    json_of("restore-metadata", saved, schema="restore-metadata/1")
    json_of("doctor", schema="doctor/1")
    json_of("doctor", "--explain", "Bitmap already exists: foo", schema="explain/1")
    json_of("export", "--name", "one", "--dry-run", "--create", "three", schema="export-plan/1")
    _documents_of_an_export(json_of, tmp_path)
    blank("tools", (Disk("sda", bus="scsi"),))
    json_of("hotadd", "--to", "tools", "--bus", "scsi", "--timeout", "0", schema="hotadd/1")
    json_of("exports", schema="exports/1")
    json_of("hotremove", "--from", "tools", schema="hotremove/1")
    _documents_of_backups(json_of, tmp_path)
    json_of("delete", "--name", "one", "--children", "--dry-run", schema="delete/1")
    json_of("boot", schema="boot/1")
    json_of("boot", "--stop", schema="boot-stop/1")
    json_of("boot", "--for", "1", status=0, schema="boot-test/1")
    json_of("completion", "bash", schema="completion/1")
    json_of("--version", schema="version/1")
    json_of("list", "--descendants-of", "nine", status=10, schema="error/1")
    json_of("create", "--name", "../x", status=2, schema="error/1")
    json_of("frobnicate", status=2, schema="error/1")
    elsewhere = {"mount-1.json", "umount-1.json"}  # in test_mount.py: they take their time
    assert json_of.met == {path.name for path in schemas.DIRECTORY.glob("*.json")} - elsewhere


def _documents_of_an_export(json_of: Documents, directory: Path) -> None:
    started = json_of(
        "export", "--name", "one", "--create", "three", "--ttl", "1h", "--exclude", "vdb",
        schema="export/1",
    )  # fmt: skip
    assert started["created_checkpoint"] == "three"
    assert [disk["target"] for disk in started["disks"]] == ["vda"]
    (running,) = json_of("exports", schema="exports/1")["exports"]
    assert (running["id"], running["state"]) == (started["id"], "running")
    json_of("export", status=11, schema="error/1")
    json_of("nbdinfo", schema="nbdinfo/1")
    extents = json_of("map", schema="map/1")["extents"]
    totals = json_of("map", "--totals", schema="map-totals/1")
    assert sum(one["length"] for one in extents) == totals["size"]
    json_of("map", "--base", schema="map/1")
    assert json_of("layout", "--export", schema="layout/1")["areas"][0]["type"] == "ext4"
    changes = json_of("diff", "--export", schema="diff/1")["changes"]
    assert "/hello" in [one["path"] for one in changes]
    json_of("map", "--picture", directory / "map.svg", schema="map-picture/1")
    assert json_of("history", schema="history/1")["lines"]
    json_of("ls", schema="ls/1")
    json_of("cp", "vm:/hello", directory, schema="cp/1")
    json_of("cat", "/hello", status=2, schema="error/1")
    json_of("map", "--base", "--totals", schema="map-totals/1")
    json_of("copy", directory / "copy.qcow2", schema="copy/1")
    json_of("overlay", directory / "overlay.qcow2", schema="overlay/1")
    json_of("release", schema="release/1")


def _documents_of_backups(json_of: Documents, directory: Path) -> None:
    repository = directory / "repository"
    made = json_of("backup", "--to", repository, schema="backup/1")
    assert made["freeze"]["state"] == "frozen"
    json_of("verify", "--from", repository, schema="verify/1")
    json_of("backups", "--from", repository, schema="backups/1")
    restored = ("restore", made["id"], "--from", repository, "--to-dir", directory)
    json_of(*restored, "--disk", "vda", schema="restore/1")
    json_of.check((repository / "vircpt-repository.json").read_text(), "backup-repository/1")
    for name in ("manifest", "verified"):
        text = (Path(made["path"]) / f"{name}.json").read_text()
        json_of.check(text, f"backup-{name}/1")
    slowly = json_of.lines("backup", "--to", repository, "--level", "full", "--rate", "256k")
    for line in slowly[:-1]:
        json_of.check(line, "backup-progress/1")
    json_of.check(slowly[-1], "backup/1")
    (Path(made["path"]) / "manifest.json").write_text("{}")
    json_of("verify", "--from", repository, status=4, schema="verify/1")
    json_of("backups", "--from", repository, schema="backups/1")


def test_json_documents_of_other_states_fit(vm1: Vm, cli: Cli) -> None:
    """What is null or empty above is not here: TCP, a shut-off domain, a broken bitmap."""
    json_of = Documents(cli, "vm1")
    json_of("create", "--name", "one", "--no-freeze", schema="create/1")
    started = json_of("export", "--tcp", "127.0.0.1:10888", "--insecure", schema="export/1")
    assert started["socket"] is None
    json_of("exports", schema="exports/1")
    json_of("release", schema="release/1")
    vm1.destroy()
    assert json_of("info", "one", schema="info/1")["checkpoint"]["changed"] is None
    assert json_of("export", "--name", "one", schema="export/1")["offline"]
    json_of("exports", schema="exports/1")
    json_of("release", schema="release/1")
    vm1.start()
    vm1.kill()
    assert json_of("info", "one", schema="info/1")["checkpoint"]["health"] == "inconsistent"
    json_of("export", "--name", "one", status=13, schema="error/1")


def test_json_of_foreign_jobs_fits(vm1: Vm, cli: Cli) -> None:
    json_of = Documents(cli, "vm1")
    server = "<server transport='tcp' name='127.0.0.1' port='10899'/>"
    vm1.domain.backupBegin(f"<domainbackup mode='pull'>{server}</domainbackup>", None)
    (one,) = json_of("exports", schema="exports/1")["exports"]
    assert one["state"] == "foreign"
    end_job(vm1)
