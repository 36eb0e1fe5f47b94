"""The XML of checkpoints: built so that nothing can be injected, parsed as libvirt writes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vircpt.hypervisor import xml
from vircpt.hypervisor.checkpoints import Checkpoint, CheckpointDisk, build_xml, parse_xml

XML_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")
    | st.sampled_from("<>&'\"[]")
)
TARGETS = st.lists(XML_TEXT, max_size=4)
SIZES = st.dictionaries(st.from_regex(r"[a-z0-9]+", fullmatch=True), st.integers(0), max_size=4)

FROM_LIBVIRT = """
<domaincheckpoint>
  <name>friday</name>
  <description>before the upgrade
[vircpt vda=1048576]</description>
  <parent>
    <name>thursday</name>
  </parent>
  <creationTime>1764000000</creationTime>
  <disks>
    <disk name='vda' checkpoint='bitmap' bitmap='friday' size='196608'/>
    <disk name='vdb' checkpoint='bitmap' bitmap='other'/>
    <disk name='vdc' checkpoint='no'/>
  </disks>
  <domain type='kvm'>
    <name>vm1</name>
    <description>[vircpt] a domain</description>
    <devices>
      <disk type='file' device='disk'><target dev='vda'/></disk>
    </devices>
  </domain>
</domaincheckpoint>
"""


def test_what_libvirt_writes_is_understood() -> None:
    assert parse_xml(FROM_LIBVIRT) == Checkpoint(
        name="friday",
        description="before the upgrade",
        ours=True,
        parent="thursday",
        created=1764000000,
        disks=(
            CheckpointDisk("vda", "friday", 196608, 1048576),
            CheckpointDisk("vdb", "other", None),
        ),
    )


def test_a_disk_is_found_by_its_target() -> None:
    checkpoint = parse_xml(FROM_LIBVIRT)
    assert checkpoint.disk("vdb") == CheckpointDisk("vdb", "other", None)
    assert checkpoint.disk("vdc") is None


def test_a_size_of_nothing_is_known() -> None:
    (disk,) = parse_xml(
        "<domaincheckpoint><disks><disk name='vda' checkpoint='bitmap' bitmap='x' size='0'/>"
        "</disks></domaincheckpoint>"
    ).disks
    assert disk.size == 0


def test_little_is_enough() -> None:
    assert parse_xml("<domaincheckpoint><name>x</name></domaincheckpoint>") == Checkpoint(
        name="x", description="", ours=False, parent=None, created=0, disks=()
    )


@pytest.mark.parametrize(
    "description",
    [
        "",
        "weekly",
        "by [vircpt] and others",
        "[vircpt]\nx",
        "not by [vircpt]",
        "[vircpt x]",
        "[vircpt vda=1x]",
        "[virtual]",
        "[]",
    ],
)
def test_other_programs_checkpoints_are_not_ours(description: str) -> None:
    text = f"<domaincheckpoint><description>{description}</description></domaincheckpoint>"
    checkpoint = parse_xml(text)
    assert not checkpoint.ours
    assert checkpoint.description == description


def test_a_definition_reads_well() -> None:
    assert build_xml("friday", "before the upgrade", {"vda": 4096}, ["vdb"]) == (
        "<domaincheckpoint>\n"
        "  <name>friday</name>\n"
        "  <description>before the upgrade\n[vircpt vda=4096]</description>\n"
        "  <disks>\n"
        '    <disk name="vda" checkpoint="bitmap" bitmap="friday" />\n'
        '    <disk name="vdb" checkpoint="no" />\n'
        "  </disks>\n"
        "</domaincheckpoint>\n"
    )


def test_without_a_description_the_mark_stands_alone() -> None:
    assert xml.parse(build_xml("x", "", {}, [])).findtext("description") == "[vircpt]"


@given(XML_TEXT, XML_TEXT, SIZES, TARGETS)
def test_what_is_built_is_read_again(
    name: str, description: str, include: dict[str, int], exclude: list[str]
) -> None:
    checkpoint = parse_xml(build_xml(name, description, include, exclude))
    assert checkpoint.name == name
    assert checkpoint.ours
    assert checkpoint.description == description
    assert checkpoint.parent is None
    assert checkpoint.disks == tuple(
        CheckpointDisk(target, name, None, size) for target, size in include.items()
    )


@given(XML_TEXT, XML_TEXT, SIZES, TARGETS)
def test_nothing_is_injected(
    name: str, description: str, include: dict[str, int], exclude: list[str]
) -> None:
    root = xml.parse(build_xml(name, description, include, exclude))
    disks = ["disk"] * (len(include) + len(exclude))
    assert [one.tag for one in root.iter()] == [
        "domaincheckpoint", "name", "description", "disks", *disks
    ]  # fmt: skip
    assert [one.get("checkpoint") for one in root.iter("disk")] == (
        ["bitmap"] * len(include) + ["no"] * len(exclude)
    )


@pytest.mark.parametrize(
    "text",
    [
        "</name><disks/><name>",
        "x' checkpoint='no",
        'x" bitmap="y',
        "]]>",
        "<!--",
        "&lt;x&gt;",
        "<!DOCTYPE x>",
        "&#0;",
    ],
)
def test_xml_in_names_stays_text(text: str) -> None:
    checkpoint = parse_xml(build_xml(text, text, {}, [text]))
    assert (checkpoint.name, checkpoint.description) == (text, text)
    assert checkpoint.disks == ()


def test_a_description_may_have_lines_and_tabs() -> None:
    description = "one\n\ttwo\n\nthree"
    assert parse_xml(build_xml("x", description, {}, [])).description == description
