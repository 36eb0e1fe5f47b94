"""The table of riddles: messages of libvirt and QEMU as they are, and what each is taken for."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt import errors
from vircpt.knowledge import HARMLESS, RIDDLES, Riddle, explain, recognise

MESSAGES = [
    (
        "bitmap-exists",
        "internal error: unable to execute QEMU command 'transaction': Bitmap already exists: foo",
    ),
    ("broken-bitmap", "invalid argument: missing or broken bitmap 'foo' for disk 'vda'"),
    ("broken-bitmap", "Bitmap 'foo' is inconsistent and cannot be used"),
    ("broken-bitmap", "Dirty bitmap 'nope' not found"),
    ("not-in-backing-chain", "bitmap 'foo' not found in backing chain of 'vda'"),
    (
        "state-change-lock",
        "Timed out during operation: cannot acquire state change lock (held by "
        "monitor=remoteDispatchDomainBackupBegin)",
    ),
    ("job-active", "Requested operation is not valid: domain has active block job"),
    ("job-active", "operation failed: there is already another job running"),
    ("job-active", "internal error: backup job data missing"),
    (
        "not-allowed",
        "Failed to connect socket to '/var/run/libvirt/libvirt-sock': Permission denied",
    ),
    (
        "no-home",
        "Cannot create user runtime directory '/nonexistent/.cache/libvirt': Permission denied",
    ),
    (
        "name-unknown",
        "unable to execute QEMU command 'nbd-server-start': address resolution failed for x:10809",
    ),
    ("address-foreign", "Failed to bind socket: Cannot assign requested address"),
    ("parent-missing", "invalid argument: parent a for moment b not found"),
    ("other-domain", "definition for checkpoint b must use uuid ce1a"),
    (
        "qcow2-v2",
        "internal error: unable to execute QEMU command 'transaction': Cannot store dirty "
        "bitmaps in qcow2 v2 files",
    ),
    (
        "raw-bitmap",
        "unsupported configuration: checkpoint for disk vdb unsupported for storage type raw",
    ),
    ("domain-not-running", "Requested operation is not valid: domain is not running"),
    (
        "image-locked",
        'Failed to get shared "write" lock\nIs another process using the image [x.qcow2]?',
    ),
    ("image-locked", 'Failed to get "write" lock'),
    (
        "socket-permission",
        "internal error: unable to execute QEMU command 'nbd-server-start': Failed to bind socket "
        "to /var/lib/vircpt/exports/0/io/nbd.sock: Permission denied",
    ),
    ("no-pci-slot", "internal error: No more available PCI slots"),
    (
        "no-hotplug",
        "internal error: unable to execute QEMU command 'device_add': Bus 'pci.0' does not support "
        "hotplugging",
    ),
    (
        "export-permission",
        "internal error: unable to execute QEMU command 'blockdev-add': Failed to connect to "
        "'/var/lib/vircpt/exports/0/io/nbd.sock': Permission denied",
    ),
    ("scratch-permission", "Could not open '/x/vda.scratch': Permission denied"),
    ("no-space", "cannot allocate 4096 bytes in file '/x/vda.scratch': No space left on device"),
    ("address-in-use", "Failed to find an available port: Address already in use"),
    ("tls-unset", "Unable to access credentials /etc/pki/qemu/ca-cert.pem: No such file"),
    (
        "agent-frozen",
        "internal error: unable to execute QEMU agent command 'guest-fsfreeze-freeze': The command "
        "guest-fsfreeze-freeze has been disabled for this instance",
    ),
    ("agent-unreachable", "Guest agent is not responding: QEMU guest agent is not connected"),
    ("checkpoint-exists", "operation failed: domain checkpoint foo already exists"),
    (
        "snapshots-present",
        "Operation not supported: cannot create checkpoint while snapshot exists",
    ),
    (
        "daemon-down",
        "Failed to connect socket to '/var/run/libvirt/libvirt-sock': No such file or directory",
    ),
    ("daemon-down", "unable to connect to server at 'host:16509': Connection refused"),
    ("access-denied", "authentication unavailable: no polkit agent available to authenticate"),
    ("driver-absent", "no connection driver available for nosuch:///"),
    ("bitmap-exists", "Bitmap with the same name is already stored in file"),
    (
        "bitmap-readonly",
        "internal error: unable to execute QEMU command 'transaction': Bitmap 'a' is readonly and "
        "cannot be modified",
    ),
    ("bitmap-busy", "Bitmap 'foo' is currently in use by another operation and cannot be used"),
    (
        "bitmaps-lost",
        "Lost persistent bitmaps during inactivation of node 'libvirt-1-format': Failed to write "
        "bitmap 'foo' to file: No space left on device",
    ),
    (
        "revert-with-bitmaps",
        "Error: Could not load snapshot 's2' on 'libvirt-1-format': Device has active dirty "
        "bitmaps",
    ),
    (
        "checkpoint-unknown",
        "Domain checkpoint not found: Checkpoint 'nosuch' for incremental backup of disk 'vda' not "
        "found",
    ),
    (
        "libvirt-too-old",
        "Operation not supported: creating checkpoint for incremental backup is not supported yet",
    ),
    (
        "nbd-server-runs",
        "internal error: unable to execute QEMU command 'nbd-server-start': NBD server already "
        "running",
    ),
    (
        "disk-in-use",
        "internal error: unable to execute QEMU command 'block_resize': Device '(null)' is in use",
    ),
    (
        "scratch-exists",
        "invalid argument: store '/var/lib/libvirt/images/exists' for backup of 'vda' exists",
    ),
    ("scratch-unnamed", "internal error: argument key 'filename' must not have null value"),
    (
        "scratch-unseen",
        "internal error: unable to execute QEMU command 'blockdev-add': Could not open "
        "'/mnt/x/vircpt-a29227c8/vda.scratch': No such file or directory",
    ),
    (
        "scratch-no-directory",
        "failed to create image file '/nonexist/x': No such file or directory",
    ),
    ("image-corrupt", "qcow2: Image is corrupt; cannot be opened read/write"),
    ("image-wrong-format", "Could not open '/x.qcow2': Image is not in qcow2 format"),
    ("image-missing", "Cannot access storage file '/x.qcow2': No such file or directory"),
    (
        "apparmor-denied",
        'apparmor="DENIED" operation="open" profile="libvirt-1" name="/x" comm="qemu"',
    ),
    ("selinux-denied", 'avc:  denied  { read } for  pid=1 comm="qemu-kvm" path="/x"'),
    (
        "freeze-refused",
        "internal error: unable to execute QEMU agent command 'guest-fsfreeze-freeze': failed to "
        "open /srv: Permission denied",
    ),
    (
        "agent-unreachable",
        "Guest agent is not responding: guest agent didn't respond to command within '5' seconds",
    ),
    (
        "domain-has-checkpoints",
        "Requested operation is not valid: cannot delete inactive domain with 1 checkpoints",
    ),
    (
        "node-readonly",
        "internal error: unable to execute QEMU command 'device_add': Block node is read-only",
    ),
    (
        "no-hotplug",
        "internal error: unable to execute QEMU command 'device_add': Bus 'pci.0' does not support "
        "hotplugging",
    ),
    (
        "export-unknown",
        "Could not open 'nbd+unix:///nope?socket=/x': Requested export not available",
    ),
    (
        "export-gone",
        "Could not open 'nbd+unix:///vda?socket=/x': Failed to connect to '/x': No such file or "
        "directory",
    ),
    ("export-gone", "nbdinfo: nbd_connect_uri: connect: No such file or directory"),
    ("nbd-module", "modprobe: FATAL: Module nbd not found in directory /lib/modules/6.1"),
    ("checkpoint-exists", "operation failed: domain moment two already exists"),
]
HARMLESS_MESSAGES = [
    ("client-left", "virNetSocketReadWire:1791 : End of file while reading data: Input/output "
     "error"),
    ("tainted", "Domain id=1 is tainted: custom-ga-command"),
    ("label-not-restored",
     "qemuDomainStorageSourceAccessModify:7932 : Unable to restore security label on /x.qcow2"),
    ("moment-not-found",
     "Domain backup job id not found: no domain backup job present"),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "message"), MESSAGES)
def test_messages_are_recognised(expected: str, message: str) -> None:
    riddle = recognise(message)
    assert riddle is not None
    assert riddle.id == expected


def test_every_riddle_has_a_message_here() -> None:
    assert {riddle.id for riddle in RIDDLES} == {expected for expected, _ in MESSAGES}


@pytest.mark.parametrize(
    "message", ["", "internal error", "an error occurred, but the cause is unknown"]
)
def test_what_says_nothing_is_no_riddle(message: str) -> None:
    assert recognise(message) is None


@pytest.mark.parametrize(("expected", "message"), HARMLESS_MESSAGES)
def test_harmless_messages_are_named_as_such(expected: str, message: str) -> None:
    assert [one.id for one in explain(message) if one.harmless] == [expected]


def test_every_harmless_riddle_has_a_message_here() -> None:
    assert {riddle.id for riddle in HARMLESS} == {expected for expected, _ in HARMLESS_MESSAGES}
    assert all(riddle.harmless for riddle in HARMLESS)


def test_a_whole_log_is_explained_line_by_line_and_across_lines() -> None:
    text = "x\nerror: Bitmap already\nexists: foo\nnothing\nNo space left on device\n"
    assert [one.id for one in explain(text)] == ["no-space", "bitmap-exists"]
    assert explain("nothing\nat all") == []


@pytest.mark.parametrize("riddle", [*RIDDLES, *HARMLESS], ids=lambda one: one.id)
def test_each_riddle_has_an_error_a_meaning_and_a_hint(riddle: Riddle) -> None:
    assert re.compile(riddle.pattern)
    assert issubclass(riddle.error, errors.VircptError)
    assert riddle.meaning
    assert riddle.advice()


def test_ids_are_unique() -> None:
    ids = [riddle.id for riddle in (*RIDDLES, *HARMLESS)]
    assert len(ids) == len(set(ids))


def test_case_does_not_matter() -> None:
    riddle = recognise("DOMAIN IS NOT RUNNING")
    assert riddle is not None
    assert riddle.id == "domain-not-running"


@given(st.text(max_size=2000))
def test_any_text_is_looked_at_without_complaint(message: str) -> None:
    recognise(message)
    explain(message)
