"""What the messages of libvirt and QEMU mean, and what to do: one table for every hint.

Each `Riddle` recognises a message by a regular expression; the first that matches wins, so
the specific ones stand first. Messages are matched as English texts: libvirt's daemon
answers in its own locale, which distributions leave at C.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vircpt import errors


@dataclass(frozen=True)
class Riddle:
    """A message that users meet: how it is recognised, what it means, what helps."""

    id: str
    pattern: str
    error: type[errors.VircptError]
    meaning: str
    hint: str | None = None
    denial: bool = False
    """A file permission: AppArmor or SELinux may be behind it (denials.py)."""

    def matches(self, message: str) -> bool:
        return re.search(self.pattern, message, re.IGNORECASE) is not None

    def advice(self) -> str | None:
        """What to do: the hint, and the rules that are needed where a permission is missing."""
        if not self.denial:
            return self.hint
        from vircpt import denials

        return f"{self.hint}; {denials.hint()}" if self.hint else denials.hint()


RIDDLES: tuple[Riddle, ...] = (
    Riddle(
        "bitmap-exists",
        r"Bitmap already exists|Bitmap with the name .* already exists",
        errors.BrokenChain,
        "the disk image already holds a bitmap of that name, left by a checkpoint that libvirt "
        "no longer knows (as after undefining a domain with --checkpoints-metadata)",
        "choose another name, or remove the leftover while the domain is shut off: "
        "qemu-img bitmap --remove IMAGE NAME",
    ),
    Riddle(
        "broken-bitmap",
        r"missing or broken bitmap|bitmap .* (is )?inconsistent|Bitmap .* is .*inconsistent"
        r"|checkpoint inconsistent|Dirty bitmap .* not found",
        errors.BrokenChain,
        "the bitmap that holds the changed blocks since this checkpoint is damaged or gone, as "
        "after a crash of QEMU; which blocks changed is not known any more",
        "delete the checkpoint, make a new one and start with a full export or backup",
    ),
    Riddle(
        "not-in-backing-chain",
        r"not found in backing chain|bitmap .* not found.*backing",
        errors.BrokenChain,
        "the image that QEMU writes to holds no bitmap of this checkpoint; an external snapshot, "
        "a restored image or a new disk in its place do that",
        "make a new checkpoint and start with a full export or backup",
    ),
    Riddle(
        "state-change-lock",
        r"cannot acquire state change lock",
        errors.Busy,
        "another libvirt operation on this domain has not ended",
        "see what runs with: virsh domjobinfo DOMAIN; try again when it is over",
    ),
    Riddle(
        "job-active",
        r"backup job data missing"
        r"|there is already another job running|another (async )?job|active (backup|block) job"
        r"|domain has active block job|backup .*already (running|in progress)",
        errors.Busy,
        "the domain is busy with another job",
        "see it with: virsh domjobinfo DOMAIN; try again when it is over",
    ),
    Riddle(
        "qcow2-v2",
        r"Cannot store dirty bitmaps in qcow2 v2",
        errors.NotSupported,
        "the image has the old qcow2 version 2 format (compat 0.10), which can't hold bitmaps",
        "while the domain is shut off: qemu-img amend -o compat=1.1 IMAGE; or leave the disk out "
        "with --exclude",
    ),
    Riddle(
        "raw-bitmap",
        r"checkpoint for disk .* unsupported|(raw|format).*does not support (persistent )?bitmaps"
        r"|bitmap.*not supported.*(format|driver)|incremental backup is not supported",
        errors.NotSupported,
        "only qcow2 images can hold the bitmap of a checkpoint",
        "leave the disk out with --exclude, or convert it while the domain is shut off: "
        "qemu-img convert -O qcow2 OLD NEW",
    ),
    Riddle(
        "domain-not-running",
        r"domain is not running|for inactive domain|domain is not active|domain .*not running",
        errors.NotSupported,
        "the domain is not running",
        "start it: virsh start DOMAIN",
    ),
    Riddle(
        "image-locked",
        r"Failed to get \"?(write|shared \"?write|consistent read)\"? lock",
        errors.Busy,
        "another process has the disk image open: a running domain, or an export of the "
        "shut-off domain",
        "see vircpt exports; release the export, or shut the other domain down",
    ),
    Riddle(
        "not-allowed",
        r"Failed to connect socket to .*Permission denied",
        errors.HostUnreachable,
        "this user may not connect to libvirt there",
        "run as root (sudo), or as a member of the group libvirt",
    ),
    Riddle(
        "no-home",
        r"Cannot create user (runtime|config|cache) directory",
        errors.HostUnreachable,
        "libvirt has no place for a session of this user, who is not root",
        "for the system's domains run as root (sudo), or give -c qemu:///system",
    ),
    Riddle(
        "socket-permission",
        r"Failed to bind socket.*Permission denied",
        errors.NotSupported,
        "the user that QEMU runs as may not make a socket in that directory, or AppArmor or "
        "SELinux forbids it",
        denial=True,
    ),
    Riddle(
        "no-pci-slot",
        r"No more available PCI (slots|addresses)",
        errors.NotSupported,
        "there is no free PCI slot to plug it into",
        "a q35 machine has as many as it has spare controllers: add <controller type='pci' "
        "model='pcie-root-port'/> to its definition and start it anew; or, if it has a virtio-scsi "
        "controller, use --bus scsi",
    ),
    Riddle(
        "no-hotplug",
        r"does not support hotplugging",
        errors.NotSupported,
        "that bus takes nothing while the domain runs; without ACPI the PCI bus does not",
        "add <features><acpi/></features> to its definition and start it anew; or, if it has a "
        "virtio-scsi controller, use --bus scsi",
    ),
    Riddle(
        "export-permission",
        r"Failed to connect to '.*nbd\.sock': Permission denied",
        errors.NotSupported,
        "the user that QEMU runs as may not connect to the export's socket, or AppArmor or SELinux "
        "forbids it",
        denial=True,
    ),
    Riddle(
        "scratch-permission",
        r"(Could not|unable to|failed to|cannot) (open|create|access).*Permission denied",
        errors.NotSupported,
        "the user that QEMU runs as may not use that file, or AppArmor or SELinux forbids it",
        "choose a directory that QEMU's user can reach with --scratch-dir",
        denial=True,
    ),
    Riddle(
        "no-space",
        r"No space left on device",
        errors.VircptError,
        "the file system is full",
        "free some space, or choose another directory with --scratch-dir",
    ),
    Riddle(
        "address-in-use",
        r"Address already in use",
        errors.Busy,
        "another program listens on that address and port",
        "choose another port with --tcp ADDRESS:PORT",
    ),
    Riddle(
        "tls-unset",
        r"tls-creds|Unable to access credentials|x509|TLS .*(not configured|certificate)",
        errors.NotSupported,
        "QEMU could not load the TLS certificates that libvirt names",
        "in libvirt's qemu.conf, after which its daemon must be restarted, set "
        "backup_tls_x509_cert_dir to a directory with ca-cert.pem, "
        "server-cert.pem and server-key.pem that QEMU's user can read; where an export is attached "
        "nbd_tls_x509_cert_dir, with client-cert.pem and client-key.pem",
    ),
    Riddle(
        "agent-frozen",
        r"guest-fsfreeze-freeze has been disabled|agent is in frozen state",
        errors.Busy,
        "the guest's file systems are frozen already, by somebody else",
        "see virsh domfsthaw DOMAIN, if nothing else is at work there",
    ),
    Riddle(
        "agent-unreachable",
        r"Guest agent is not responding|QEMU guest agent is not (connected|available)"
        r"|guest agent (is )?not (configured|connected|responding)|agent is not available",
        errors.NotSupported,
        "the guest agent does not answer",
        "install and start qemu-guest-agent in the guest",
    ),
    Riddle(
        "checkpoint-exists",
        r"domain checkpoint .* already exists|checkpoint .* already exists",
        errors.VircptError,
        "a checkpoint of that name exists",
        "choose another name, or delete it first",
    ),
    Riddle(
        "snapshots-present",
        r"cannot create checkpoint while snapshot exists|snapshot.*(and|with) checkpoint",
        errors.NotSupported,
        "this libvirt does not allow checkpoints on a domain that has snapshots",
        "delete the snapshots first: virsh snapshot-list DOMAIN",
    ),
    Riddle(
        "name-unknown",
        r"address resolution failed",
        errors.InvalidInput,
        "that name has no address",
        "name an address of the host that QEMU runs on with --tcp",
    ),
    Riddle(
        "address-foreign",
        r"Cannot assign requested address",
        errors.InvalidInput,
        "that is no address of the host that QEMU runs on",
        "name one of its own with --tcp",
    ),
    Riddle(
        "parent-missing",
        r"parent \S+ for moment \S+ not found",
        errors.NotFound,
        "its parent is not there",
        "redefine the parent first",
    ),
    Riddle(
        "other-domain",
        r"must use uuid",
        errors.InvalidInput,
        "it is the checkpoint of another domain",
        "redefine it on the domain that it was made of",
    ),
    Riddle(
        "daemon-down",
        r"Failed to connect socket to .*(No such file|Connection refused)"
        r"|unable to connect to server|Connection (refused|reset)|No route to host"
        r"|unable to resolve address|Name or service not known|Temporary failure in name"
        r"|End of file while reading data|client socket is closed|Cannot (recv|write) data"
        r"|Network is unreachable|connection .*closed",
        errors.HostUnreachable,
        "libvirt can't be reached there",
        "is libvirtd running (systemctl status libvirtd)? Is the URI right?",
    ),
    Riddle(
        "access-denied",
        r"authentication (failed|required|cancelled|unavailable)|access denied|polkit"
        r"|Failed to (begin|start|step) SASL|no secret|Permission denied \(publickey",
        errors.HostUnreachable,
        "libvirt does not let this user in",
        "run as root or as a member of the group libvirt; for remote hosts see --user and "
        "libvirt's auth.conf",
    ),
    Riddle(
        "driver-absent",
        r"no connection driver available|URI .* not supported|invalid connection pointer"
        r"|transport in UR[IL] not recognised|unknown (URI|transport)|invalid URI|unsupported URI",
        errors.InvalidInput,
        "that is no URI of a QEMU host that this libvirt understands",
        "use qemu:///system, qemu:///session or qemu+ssh://user@host/system",
    ),
)


def recognise(message: str) -> Riddle | None:
    """The riddle that `message` is, or None."""
    return next((riddle for riddle in RIDDLES if riddle.matches(message)), None)
