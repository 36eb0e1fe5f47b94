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
    harmless: bool = False
    """In a log it is nothing to worry about."""

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
        r"Bitmap already exists|Bitmap with the (same )?name .*already (exists|stored)",
        errors.BrokenChain,
        "the disk image already holds a bitmap of that name, left by a checkpoint that libvirt "
        "no longer knows (as after undefining a domain with --checkpoints-metadata)",
        "choose another name, or have the leftover removed: vircpt -d DOMAIN doctor --fix",
    ),
    Riddle(
        "broken-bitmap",
        r"missing or broken bitmap|bitmap .* (is )?inconsistent|Bitmap .* is .*inconsistent"
        r"|checkpoint inconsistent|Dirty bitmap .* not found",
        errors.BrokenChain,
        "the bitmap that holds the changed blocks since this checkpoint is damaged or gone, as "
        "after a crash of QEMU; which blocks changed is not known any more",
        "see vircpt -d DOMAIN doctor, whose --fix deletes the checkpoint; then make a new one and "
        "start with a full export or backup",
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
        "bitmap-readonly",
        r"Bitmap .* is readonly and cannot be modified",
        errors.NotSupported,
        "the bitmap lies in an image below the one that QEMU writes to, as after an external "
        "snapshot, and this QEMU can't reopen that image for writing",
        "forget the checkpoint: vircpt -d DOMAIN delete --metadata NAME; a newer QEMU can do more",
    ),
    Riddle(
        "bitmap-busy",
        r"Bitmap .* is currently in use by another operation",
        errors.Busy,
        "a job, such as an export, uses that bitmap now",
        "end the export first: vircpt -d DOMAIN release; or see virsh domjobinfo DOMAIN",
    ),
    Riddle(
        "bitmaps-lost",
        r"Lost persistent bitmaps|Failed to write bitmap .* to file",
        errors.BrokenChain,
        "QEMU could not store the bitmaps in the image when it ended or handed it over; which "
        "blocks changed is not known any more. A full disk of the host is the usual cause",
        "see to space on the host, then: vircpt -d DOMAIN doctor --fix",
    ),
    Riddle(
        "revert-with-bitmaps",
        r"Device has active dirty bitmaps",
        errors.NotSupported,
        "QEMU does not go back to an internal snapshot while its bitmaps note what is written; "
        "libvirt's own revert kills the domain in this case",
        "delete the checkpoints first (virsh checkpoint-list DOMAIN), then revert; the next export "
        "or backup is a full one",
    ),
    Riddle(
        "checkpoint-unknown",
        r"Checkpoint '.*' for incremental backup of disk .* not found",
        errors.NotFound,
        "libvirt does not know the checkpoint that the backup starts from, or it leaves that disk "
        "out",
        "see vircpt -d DOMAIN list. If libvirt lost it (undefined, renamed, migrated): "
        "vircpt -d DOMAIN restore-metadata DIR, or a full backup",
    ),
    Riddle(
        "libvirt-too-old",
        r"(creating checkpoint for )?incremental backup is not supported yet",
        errors.NotSupported,
        "this libvirt or this QEMU is too old for checkpoints: libvirt 7.2 and QEMU 4.2 are the "
        "first that have them switched on",
        "update libvirt and QEMU on the host, then start the domain anew",
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
        "nbd-server-runs",
        r"NBD server already running",
        errors.Busy,
        "this QEMU serves NBD already, for another program or a job that ended badly",
        "whoever started it should end it; by hand: virsh qemu-monitor-command --hmp DOMAIN "
        "nbd_server_stop",
    ),
    Riddle(
        "disk-in-use",
        r"block_resize.*Device '.*' is in use",
        errors.Busy,
        "the disk can't be resized while a job, such as an export, uses it",
        "end the export first: vircpt -d DOMAIN release",
    ),
    Riddle(
        "scratch-exists",
        r"store '.*' for backup of '.*' exists",
        errors.VircptError,
        "a file stands where the scratch file or the backup should be made",
        "choose another place, or remove the file if nobody needs it",
    ),
    Riddle(
        "scratch-unnamed",
        r"argument key 'filename' must not have null value",
        errors.InvalidInput,
        "the definition of the backup has a disk with type='file' and no <scratch file=...>",
        "name a scratch file for each disk, or leave the type out; vircpt export does it",
    ),
    Riddle(
        "scratch-unseen",
        r"Could not open '[^']*\.scratch': No such file",
        errors.NotSupported,
        "QEMU does not see the directory of the scratch file, because it has mounts of its own, "
        "and that file system was mounted after the domain was started",
        "choose another directory with --scratch-dir, or start the domain anew",
    ),
    Riddle(
        "scratch-no-directory",
        r"failed to create image file '.*': No such file or directory",
        errors.InvalidInput,
        "the directory of the scratch file does not exist on the host of the domain",
        "make it, and let QEMU's user write to it",
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
        "image-corrupt",
        r"Image is corrupt; cannot be opened read/write|Marking image as corrupt",
        errors.BrokenChain,
        "QEMU found nonsense in the image's own tables, and does not write to it any more",
        "keep a copy; then, while the domain is shut off: qemu-img check -r all IMAGE. Do not "
        "trust its bitmaps: delete the checkpoints and start with a full backup",
    ),
    Riddle(
        "image-wrong-format",
        r"Image is not in qcow2 format",
        errors.InvalidInput,
        "the domain's definition calls the image qcow2, and it is none",
        "see qemu-img info IMAGE, and mend the type in <driver> with: virsh edit DOMAIN",
    ),
    Riddle(
        "image-missing",
        r"Cannot access (storage|backing) file .*No such file|Could not open backing (file|image)"
        r"|Could not open '[^']*': No such file",
        errors.NotFound,
        "an image of the domain, or one below it, is not where it should be",
        "see qemu-img info --backing-chain IMAGE; bring the file back or mend the path",
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
        "apparmor-denied",
        r"apparmor=\"?DENIED",
        errors.NotSupported,
        "AppArmor's profile of the domain forbids QEMU that file",
        "for vircpt's exports add the line  /var/lib/vircpt/exports/*/io/** rwk,  to "
        "/etc/apparmor.d/local/abstractions/libvirt-qemu; for others, the path in name=",
    ),
    Riddle(
        "selinux-denied",
        r"avc: +denied",
        errors.NotSupported,
        "SELinux forbids QEMU that file",
        "give the directory the label of images: semanage fcontext -a -t virt_image_t "
        "'DIR(/.*)?' && restorecon -R DIR",
    ),
    Riddle(
        "socket-permission",
        r"Failed to (bind|unlink) socket.*Permission denied",
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
        "freeze-refused",
        r"guest-fsfreeze-freeze.*(failed to (open|freeze)|Device or resource busy)",
        errors.NotSupported,
        "the agent is there, and the guest does not let it freeze a file system; SELinux in the "
        "guest is a usual cause",
        "in a guest with SELinux: setsebool -P virt_qemu_ga_read_nonsecurity_files on; or use "
        "--no-freeze",
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
        r"|guest agent (is )?not (configured|connected|responding)|agent is not available"
        r"|guest agent didn't respond",
        errors.NotSupported,
        "the guest agent does not answer",
        "install and start qemu-guest-agent in the guest",
    ),
    Riddle(
        "domain-has-checkpoints",
        r"cannot delete inactive domain with \d+ checkpoints",
        errors.Busy,
        "libvirt does not undefine a domain and forget its checkpoints unasked",
        "keep them first: vircpt -d DOMAIN save-metadata DIR; then: virsh undefine DOMAIN "
        "--checkpoints-metadata. The bitmaps stay in the images",
    ),
    Riddle(
        "node-readonly",
        r"Block node is read-only",
        errors.NotSupported,
        "a disk that is read-only was attached as a writable one: an export never is",
        "attach it read-only (--mode readonly), or put an overlay on it: vircpt overlay",
    ),
    Riddle(
        "export-unknown",
        r"No export with name|Requested export not available|export .* not present",
        errors.NotFound,
        "the NBD server has no export of that name",
        "vircpt names each export after the disk's target: see vircpt -d DOMAIN nbdinfo",
    ),
    Riddle(
        "export-gone",
        r"Failed to connect to '.*': (No such file|Connection refused)"
        r"|nbd_connect_\w+: connect: (No such|Connection)"
        r"|Server dropped connection|Failed to read data: Unexpected end-of-file",
        errors.NotFound,
        "nobody serves NBD there any more: the export was released, or its domain has ended",
        "see vircpt exports; start one with: vircpt -d DOMAIN export",
    ),
    Riddle(
        "nbd-module",
        r"Module nbd not found|/dev/nbd\d+.*(No such (file|device)|does not exist)"
        r"|Failed to open /dev/nbd",
        errors.NotSupported,
        "the kernel's nbd module is not loaded, or this kernel has none",
        "modprobe nbd max_part=16; without it nbdcopy, qemu-img and nbdfuse do as well",
    ),
    Riddle(
        "checkpoint-exists",
        r"checkpoint .* already exists|domain moment .* already exists",
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


HARMLESS: tuple[Riddle, ...] = (
    Riddle(
        "client-left",
        r"End of file while reading data: Input/output error|client socket is closed",
        errors.VircptError,
        "a client of libvirt went without saying goodbye, as a program that was killed does",
        "in libvirtd's log: nothing. As an answer to a command: the daemon went away",
        harmless=True,
    ),
    Riddle(
        "tainted",
        r"is tainted: (custom-monitor|custom-ga-command|high-privileges|host-cpu)"
        r"|tainted: custom monitor control",
        errors.VircptError,
        "somebody spoke to QEMU past libvirt, as virsh qemu-monitor-command or a look at bitmaps "
        "over QMP does; libvirt notes that for those who read bug reports",
        "nothing",
        harmless=True,
    ),
    Riddle(
        "label-not-restored",
        r"Unable to restore security label on",
        errors.VircptError,
        "libvirt wanted to give a file back to its former owner, and the file had gone already",
        "nothing",
        harmless=True,
    ),
    Riddle(
        "moment-not-found",
        r"no domain (checkpoint|snapshot) with matching name"
        r"|Domain backup job id not found: no domain backup job present",
        errors.NotFound,
        "a program asked for something that is not there; vircpt asks so before it starts a job",
        "in libvirtd's log: nothing",
        harmless=True,
    ),
)
"""Messages in logs that mean no harm."""


def recognise(message: str) -> Riddle | None:
    """The riddle that `message` is, or None."""
    return next((riddle for riddle in RIDDLES if riddle.matches(message)), None)


def explain(text: str) -> list[Riddle]:
    """What a pasted text is about, which may be many lines of a log; in their order."""
    found: list[Riddle] = []
    for line in [*text.splitlines(), " ".join(text.split())]:
        known = [one for one in (recognise(line), _harmless(line)) if one is not None]
        found += [one for one in known if one not in found]
    return found


def _harmless(line: str) -> Riddle | None:
    return next((one for one in HARMLESS if one.matches(line)), None)
