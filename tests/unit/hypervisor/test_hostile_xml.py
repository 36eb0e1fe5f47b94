"""XML that libvirt would never give: parts missing, doubled, moved, with any values. Each parser
gives facts, or one of errors.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vircpt.errors import VircptError
from vircpt.hypervisor import backups, checkpoints, domain

DOMAIN = """<domain type='qemu' id='3'><name>vm</name>
<uuid>3f8a2f3e-1d4b-4c8e-9a6b-0a1b2c3d4e5f</uuid>
<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
<source file='/x.qcow2' index='1'/><backingStore type='file'><format type='raw'/>
<source file='/base'/></backingStore><target dev='vda' bus='virtio'/><alias name='virtio-disk0'/>
</disk><disk type='network' device='disk'><source protocol='nbd' name='vda'>
<host transport='unix' socket='/s'/></source><target dev='vdb'/><readonly/></disk>
<disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdc'/></disk>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
</channel></devices><seclabel model='dac'><label>+64055:+107</label></seclabel></domain>"""
CHECKPOINT = """<domaincheckpoint><name>one</name><description>text
[vircpt vda=1024 nonce=77]</description><parent><name>zero</name></parent>
<creationTime>1795463627</creationTime><disks><disk name='vda' checkpoint='bitmap' bitmap='one'
size='65536'/><disk name='vdb' checkpoint='no'/></disks><domain><uuid>u</uuid></domain>
</domaincheckpoint>"""
BACKUP = """<domainbackup mode='pull'><incremental>one</incremental>
<server transport='tcp' tls='yes' name='::1' port='10809'/><disks><disk name='vda' backup='yes'
type='file' backupmode='incremental' incremental='one' exportname='vda'>
<scratch file='/scratch'/></disk></disks></domainbackup>"""
PARSERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "domain": (DOMAIN, lambda text: domain.parse_domain(text, "running", True)),
    "checkpoint": (CHECKPOINT, checkpoints.parse_xml),
    "identity": (CHECKPOINT, checkpoints.parse_identity),
    "backup": (BACKUP, backups.parse_xml),
}
TEXT = st.one_of(
    st.none(),
    st.sampled_from(["", "-1", "0", "99999999999999999999999", "1e9", "0x10", "yes", "../..", " "]),
    st.text(max_size=20),
)


def change(root: ET.Element, data: st.DataObject) -> None:
    """One thing about the tree becomes another."""
    elements = list(root.iter())
    one = data.draw(st.sampled_from(elements))
    what = data.draw(st.sampled_from(["drop", "double", "text", "attribute", "tag", "move"]))
    if what == "drop" and len(one):
        one.remove(data.draw(st.sampled_from(list(one))))
    elif what == "double" and len(one):
        one.append(copy.deepcopy(data.draw(st.sampled_from(list(one)))))
    elif what == "text":
        one.text = data.draw(TEXT)
    elif what == "attribute" and one.attrib:
        key = data.draw(st.sampled_from(sorted(one.attrib)))
        value = data.draw(TEXT)
        one.attrib.pop(key)
        if value is not None:
            one.set(key, value)
    elif what == "tag":
        one.tag = data.draw(st.sampled_from(["x", "disk", "name", "domain", "source"]))
    else:
        one.append(copy.deepcopy(data.draw(st.sampled_from(elements))))


@pytest.mark.parametrize("kind", PARSERS)
@settings(max_examples=200)
@given(data=st.data())
def test_changed_trees(kind: str, data: st.DataObject) -> None:
    text, parse = PARSERS[kind]
    root = ET.fromstring(text)
    for _ in range(data.draw(st.integers(1, 6))):
        change(root, data)
    with suppress(VircptError):
        parse(ET.tostring(root, encoding="unicode"))


@pytest.mark.parametrize("kind", PARSERS)
@given(text=st.text())
def test_any_text(kind: str, text: str) -> None:
    with suppress(VircptError):
        PARSERS[kind][1](text)
