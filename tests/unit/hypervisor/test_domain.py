"""What is read from a domain's XML: its disks of all kinds, its agent, the user of its QEMU."""

from __future__ import annotations

import pytest

from vircpt.errors import NotFound
from vircpt.hypervisor.connection import Owner
from vircpt.hypervisor.domain import Disk, DomainFacts, parse_domain

# as libvirt 9.0 writes it for a running domain, shortened
RUNNING = """
<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>vm1 &lt;test&gt;</name>
  <uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='/images/vm1 vda.qcow2' index='9'/>
      <backingStore type='file' index='10'>
        <format type='raw'/>
        <source file='/images/base.img'/>
        <backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/images/vdb.img'/>
      <target dev='vdb' bus='virtio'/>
      <readonly/>
      <alias name='virtio-disk1'/>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source dev='/dev/vg/lv'/>
      <target dev='vdc' bus='virtio'/>
      <alias name='ua-mine'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='nbd' name='vda'>
        <host transport='unix' socket='/var/lib/vircpt/exports/0/io/nbd.sock'/>
      </source>
      <target dev='vdd' bus='virtio'/>
      <readonly/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='nbd' name='x'><host name='192.0.2.1' port='10809'/></source>
      <target dev='vde' bus='virtio'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source protocol='rbd' name='pool/image'><host name='ceph' port='6789'/></source>
      <target dev='vdf' bus='virtio'/>
    </disk>
    <disk type='volume' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source pool='default' volume='vm1.qcow2'/>
      <target dev='vdg' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/images/vdh.qcow2'/>
      <mirror type='file' job='copy'><source file='/images/mirror.qcow2'/></mirror>
      <target dev='vdh' bus='virtio'/>
      <readonly/>
    </disk>
    <disk type='block' device='lun'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/sdx'/>
      <target dev='sda' bus='scsi'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/>
      <source file='/images/debian.iso'/>
      <target dev='sdb' bus='sata'/>
      <readonly/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sdc' bus='sata' tray='open'/>
      <readonly/>
    </disk>
    <disk type='file' device='floppy'>
      <driver name='qemu' type='raw'/>
      <source file='/images/floppy.img'/>
      <target dev='fda' bus='fdc'/>
    </disk>
    <disk type='file'>
      <driver name='qemu'/>
      <source file='/images/vdi.img'/>
      <target dev='vdi'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <target dev='vdj' bus='virtio'/>
    </disk>
    <channel type='unix'>
      <source mode='bind' path='/var/lib/libvirt/qemu/channel/agent'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
    </channel>
    <channel type='spicevmc'>
      <target type='virtio' name='com.redhat.spice.0' state='disconnected'/>
    </channel>
  </devices>
  <seclabel type='dynamic' model='apparmor' relabel='yes'>
    <label>libvirt-6695eb01</label>
  </seclabel>
  <seclabel type='dynamic' model='dac' relabel='yes'>
    <label>+64055:+107</label>
    <imagelabel>+64055:+107</imagelabel>
  </seclabel>
</domain>
"""


@pytest.fixture(scope="module")
def facts() -> DomainFacts:
    return parse_domain(RUNNING, "running", active=True)


def test_the_domain_itself(facts: DomainFacts) -> None:
    assert facts.name == "vm1 <test>"
    assert facts.uuid == "6695eb01-f6a4-8304-79aa-97f2502e193f"
    assert (facts.state, facts.is_active) == ("running", True)
    assert facts.qemu_owner == Owner(64055, 107)
    assert facts.has_agent_channel
    assert facts.agent_connected


def test_all_disks_in_their_order(facts: DomainFacts) -> None:
    assert [disk.target for disk in facts.disks] == [
        "vda", "vdb", "vdc", "vdd", "vde", "vdf", "vdg", "vdh", "sda", "sdb", "sdc", "fda", "vdi",
        "vdj",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "disk",
    [
        Disk("vda", "disk", "qcow2", "file", "/images/vm1 vda.qcow2", alias="virtio-disk0",
             below=(("file", "raw", "/images/base.img"),), is_chain_complete=True),
        Disk("vdb", "disk", "raw", "file", "/images/vdb.img", read_only=True,
             alias="virtio-disk1"),
        Disk("vdc", "disk", "qcow2", "block", "/dev/vg/lv", alias="ua-mine"),
        Disk("vdd", "disk", "raw", "network", None, read_only=True,
             nbd_sockets=("/var/lib/vircpt/exports/0/io/nbd.sock",)),
        Disk("vde", "disk", "raw", "network", None),
        Disk("vdf", "disk", "qcow2", "network", None),
        Disk("vdg", "disk", "qcow2", "volume", "default/vm1.qcow2"),
        Disk("vdh", "disk", "qcow2", "file", "/images/vdh.qcow2", read_only=True),
        Disk("sda", "lun", "raw", "block", "/dev/sdx"),
        Disk("sdb", "cdrom", "raw", "file", "/images/debian.iso", read_only=True),
        Disk("sdc", "cdrom", "raw", "file", None, read_only=True),
        Disk("fda", "floppy", "raw", "file", "/images/floppy.img"),
        Disk("vdi", "disk", "raw", "file", "/images/vdi.img"),
        Disk("vdj", "disk", "qcow2", "file", None),
    ],
    ids=lambda disk: disk.target,
)  # fmt: skip
def test_each_disk(disk: Disk, facts: DomainFacts) -> None:
    assert facts.disk(disk.target)._replace(chain=()) == disk


@pytest.mark.parametrize(
    ("store", "below", "complete"),
    [
        ("", (), False),
        ("<backingStore/>", (), True),
        ("<backingStore type='block'><format type='qcow2'/><source dev='/dev/b'/></backingStore>",
         (("block", "qcow2", "/dev/b"),), False),
        ("<backingStore type='file'><format type='qcow2'/><source file='/b'/><backingStore "
         "type='network'><format type='raw'/><source protocol='nbd'/><backingStore/>"
         "</backingStore></backingStore>",
         (("file", "qcow2", "/b"), ("network", "raw", None)), True),
    ],
)  # fmt: skip
def test_what_the_definition_says_of_the_images_below(
    store: str, below: tuple[tuple[str, str, str | None], ...], complete: bool
) -> None:
    (disk,) = parse_domain(
        "<domain><devices><emulator>/usr/bin/qemu</emulator><disk type='file'>"
        f"<source file='/top'/><target dev='vda'/>{store}</disk></devices></domain>",
        "shut off",
        active=False,
    ).disks
    assert (disk.below, disk.is_chain_complete) == (below, complete)


def test_the_images_below_and_the_sockets_they_are_read_from() -> None:
    (disk,) = parse_domain(
        "<domain><devices><disk type='file'><source file='/top'/><target dev='vda'/>"
        "<backingStore type='file'><source file='/middle'/>"
        "<backingStore type='network'><source protocol='nbd' name='vda'>"
        "<host transport='unix' socket='/sock'/></source></backingStore></backingStore>"
        "</disk></devices></domain>",
        "running",
        active=True,
    ).disks
    assert disk.chain == ("/top", "/middle")
    assert disk.nbd_sockets == ("/sock",)


EXPORT_OBSTACLES = {
    "sda": "a SCSI device passed through",
    "sdb": "a cdrom",
    "sdc": "a cdrom",
    "fda": "a floppy",
    "vdj": "without a medium",
}
CHECKPOINT_OBSTACLES = {
    **EXPORT_OBSTACLES,
    "vdb": "format raw: only qcow2 holds bitmaps",
    "vdd": "format raw: only qcow2 holds bitmaps",
    "vde": "format raw: only qcow2 holds bitmaps",
    "vdi": "format raw: only qcow2 holds bitmaps",
    "vdh": "read-only",
}


def test_which_disks_cannot_be_exported_and_why(facts: DomainFacts) -> None:
    found = {disk.target: disk.not_exportable for disk in facts.disks if disk.not_exportable}
    assert found == EXPORT_OBSTACLES


def test_which_disks_cannot_have_a_checkpoint_and_why(facts: DomainFacts) -> None:
    found = {disk.target: disk.no_checkpoint for disk in facts.disks if disk.no_checkpoint}
    assert found == CHECKPOINT_OBSTACLES


def test_an_unknown_disk_is_not_found_and_the_others_are_named(facts: DomainFacts) -> None:
    with pytest.raises(NotFound, match="no disk 'vdz' in domain vm1") as caught:
        facts.disk("vdz")
    assert caught.value.disk == "vdz"
    assert str(caught.value.hint).startswith("its disks are: vda, vdb")


def test_a_bare_domain() -> None:
    facts = parse_domain("<domain><name>x</name><uuid>y</uuid></domain>", "shut off", active=False)
    assert facts == DomainFacts(
        name="x",
        uuid="y",
        state="shut off",
        is_active=False,
        disks=(),
        has_agent_channel=False,
        agent_connected=False,
        qemu_owner=None,
    )
    with pytest.raises(NotFound) as caught:
        facts.disk("vda")
    assert caught.value.hint == "its disks are: none"


@pytest.mark.parametrize("state", ["", " state='disconnected'"])
def test_an_agent_that_is_set_up_and_not_there(state: str) -> None:
    facts = parse_domain(
        "<domain><devices><channel type='unix'>"
        f"<target type='virtio' name='org.qemu.guest_agent.0'{state}/>"
        "</channel></devices></domain>",
        "running",
        active=True,
    )
    assert facts.has_agent_channel
    assert not facts.agent_connected


@pytest.mark.parametrize(
    "seclabel",
    [
        "",
        "<seclabel type='none' model='dac'/>",
        "<seclabel type='dynamic' model='apparmor'><label>1:2</label></seclabel>",
        "<seclabel type='static' model='dac'><label>qemu:kvm</label></seclabel>",
    ],
)
def test_qemus_user_may_be_unknown(seclabel: str) -> None:
    facts = parse_domain(f"<domain>{seclabel}</domain>", "running", active=True)
    assert facts.qemu_owner is None
