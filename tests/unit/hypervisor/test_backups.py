"""The XML of pull-mode backups: what is built, and what is read of a running job."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vircpt.hypervisor import xml
from vircpt.hypervisor.backups import (
    BackupJob,
    ExportDisk,
    Listen,
    bitmap_name,
    build_xml,
    parse_xml,
)

XML_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")
    | st.sampled_from("<>&'\"[]"),
    min_size=1,
)
listens = st.builds(Listen, socket=XML_TEXT) | st.builds(
    Listen, address=XML_TEXT, port=st.integers(1, 65535), tls=st.booleans()
)
disks = st.lists(st.builds(ExportDisk, XML_TEXT, st.none() | XML_TEXT, XML_TEXT), max_size=4)

FROM_LIBVIRT = """
<domainbackup mode='pull' id='1'>
  <incremental>friday</incremental>
  <server transport='tcp' tls='yes' name='192.0.2.1' port='10809'/>
  <disks>
    <disk name='vda' backup='yes' type='file' backupmode='incremental' incremental='friday'
          exportname='vda' exportbitmap='backup-vda' index='1'>
      <driver type='qcow2'/>
      <scratch file='/var/tmp/vda.scratch'>
        <encryption format='luks'/>
      </scratch>
    </disk>
    <disk name='vdb' backup='yes' type='file' backupmode='incremental' incremental='thursday'
          exportname='vdb' index='2'/>
    <disk name='vdc' backup='no'/>
  </disks>
</domainbackup>
"""


def test_what_libvirt_tells_of_a_running_job_is_understood() -> None:
    assert parse_xml(FROM_LIBVIRT) == BackupJob(
        pull=True,
        listen=Listen(address="192.0.2.1", port=10809, tls=True),
        bases=frozenset({"friday", "thursday"}),
        disks=("vda", "vdb"),
        scratch_files=("/var/tmp/vda.scratch",),
    )


def test_a_push_job_has_no_server() -> None:
    job = parse_xml(
        "<domainbackup mode='push'><disks><disk name='vda' backup='yes' type='file'>"
        "<target file='/x'/></disk></disks></domainbackup>"
    )
    assert job == BackupJob(
        pull=False, listen=Listen(), bases=frozenset(), disks=("vda",), scratch_files=()
    )


def test_a_definition_reads_well() -> None:
    definition = build_xml(
        Listen(socket="/run/x/nbd.sock"),
        [
            ExportDisk("vda", "friday", "/run/x/vda.scratch"),
            ExportDisk("vdb", None, "/run/x/vdb.scratch"),
        ],
        ["sda"],
    )
    assert definition == (
        '<domainbackup mode="pull">\n'
        '  <server transport="unix" socket="/run/x/nbd.sock" />\n'
        "  <disks>\n"
        '    <disk name="vda" backup="yes" type="file" backupmode="incremental" '
        'incremental="friday" exportname="vda" exportbitmap="backup-vda">\n'
        '      <scratch file="/run/x/vda.scratch" />\n'
        "    </disk>\n"
        '    <disk name="vdb" backup="yes" type="file" backupmode="full" exportname="vdb">\n'
        '      <scratch file="/run/x/vdb.scratch" />\n'
        "    </disk>\n"
        '    <disk name="sda" backup="no" />\n'
        "  </disks>\n"
        "</domainbackup>\n"
    )


def test_tls_stands_in_the_definition_only_if_wanted() -> None:
    def server(tls: bool) -> dict[str, str]:
        text = build_xml(Listen(address="::1", port=10809, tls=tls), [], [])
        found = xml.parse(text).find("server")
        assert found is not None
        return {str(key): str(value) for key, value in found.attrib.items()}

    plain = {"transport": "tcp", "name": "::1", "port": "10809"}
    assert server(tls=False) == plain
    assert server(tls=True) == {**plain, "tls": "yes"}


@given(listens, disks, st.lists(XML_TEXT, max_size=3))
def test_what_is_built_is_read_again(
    listen: Listen, included: list[ExportDisk], exclude: list[str]
) -> None:
    assert parse_xml(build_xml(listen, included, exclude)) == BackupJob(
        pull=True,
        listen=listen,
        bases=frozenset(one.since for one in included if one.since),
        disks=tuple(one.target for one in included),
        scratch_files=tuple(one.scratch for one in included if one.scratch),
    )


@given(listens, disks, st.lists(XML_TEXT, max_size=3))
def test_nothing_is_injected(
    listen: Listen, included: list[ExportDisk], exclude: list[str]
) -> None:
    root = xml.parse(build_xml(listen, included, exclude))
    count = {tag: len(list(root.iter(tag))) for tag in ("server", "disks", "disk", "scratch")}
    assert count == {
        "server": 1,
        "disks": 1,
        "disk": len(included) + len(exclude),
        "scratch": len(included),
    }
    assert len(list(root.iter())) == 1 + sum(count.values())


@given(XML_TEXT)
def test_bitmaps_are_named_after_the_disk(target: str) -> None:
    assert bitmap_name(target) == f"backup-{target}"
