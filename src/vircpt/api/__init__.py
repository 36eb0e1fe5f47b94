"""The Python API: hosts, their domains, and exports. The command line is its first user.

Objects here hold a connection and a name; all they tell is asked for anew at each call.
They are not safe to share between threads. All is imported on first use: `list` in a
script, and every TAB, should not pay for `export`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vircpt.api.clone import Clone
    from vircpt.api.domain import Domain
    from vircpt.api.export import Export
    from vircpt.api.host import Host, connect, library_versions
    from vircpt.api.repository import Repository, StoredBackup, open_repository
    from vircpt.blocks.extents import KINDS, Columns, Extent, Kind, Totals
    from vircpt.confined.messages import Found
    from vircpt.hypervisor.agent import Freeze, FreezeReport, FreezeState
    from vircpt.hypervisor.clone import Change, Network
    from vircpt.hypervisor.connection import Versions
    from vircpt.hypervisor.domain import DomainFacts
    from vircpt.operations.backup import Backup
    from vircpt.operations.backup_copy import DiskProgress
    from vircpt.operations.boot_stop import StoppedClone
    from vircpt.operations.boot_test import BOOT_LIMIT, BootReport, Until, Wanted, parse_until
    from vircpt.operations.commands import UsefulCommand
    from vircpt.operations.consumers import ConsumerStatus
    from vircpt.operations.create import CheckpointPlan, CreatedCheckpoint
    from vircpt.operations.delete import Deletion, Scope
    from vircpt.operations.details import DiskDetails
    from vircpt.operations.diff import FileChange, Findings, NotLookedInto
    from vircpt.operations.doctor.examine import DomainHealth, Examination
    from vircpt.operations.doctor.findings import Finding, Repair, Safety, Severity
    from vircpt.operations.doctor.verdicts import Verdict
    from vircpt.operations.export_plan import ExportPlan
    from vircpt.operations.exports import ExportState, ExportStatus
    from vircpt.operations.fetch import Copied, FileFacts, Left
    from vircpt.operations.hotadd import AttachedDisk, Hotadded
    from vircpt.operations.hotremove import Hotremoved
    from vircpt.operations.inspect import (
        CheckpointStatus,
        DiskStatus,
        Health,
        descendants,
        leaves,
        roots,
    )
    from vircpt.operations.layout import DiskLayout
    from vircpt.operations.looking import Confinement
    from vircpt.operations.metadata import RestoredMetadata, SavedMetadata
    from vircpt.operations.mounts import Mounted, Unmounted
    from vircpt.operations.reading import ExportedDisk
    from vircpt.operations.release import ReleasedExport
    from vircpt.operations.restore import RestoredDisk
    from vircpt.operations.selection import Skipped
    from vircpt.operations.tcp import TcpListen, parse_listen
    from vircpt.operations.verify import Verification
    from vircpt.records.history import Noted
    from vircpt.repository.manifest import Level

__all__ = [
    "BOOT_LIMIT",
    "KINDS",
    "AttachedDisk",
    "Backup",
    "BootReport",
    "Change",
    "CheckpointPlan",
    "CheckpointStatus",
    "Clone",
    "Columns",
    "Confinement",
    "ConsumerStatus",
    "Copied",
    "CreatedCheckpoint",
    "Deletion",
    "DiskDetails",
    "DiskLayout",
    "DiskProgress",
    "DiskStatus",
    "Domain",
    "DomainFacts",
    "DomainHealth",
    "Examination",
    "Export",
    "ExportPlan",
    "ExportState",
    "ExportStatus",
    "ExportedDisk",
    "Extent",
    "FileChange",
    "FileFacts",
    "Finding",
    "Findings",
    "Found",
    "Freeze",
    "FreezeReport",
    "FreezeState",
    "Health",
    "Host",
    "Hotadded",
    "Hotremoved",
    "Kind",
    "Left",
    "Level",
    "Mounted",
    "Network",
    "NotLookedInto",
    "Noted",
    "ReleasedExport",
    "Repair",
    "Repository",
    "RestoredDisk",
    "RestoredMetadata",
    "Safety",
    "SavedMetadata",
    "Scope",
    "Severity",
    "Skipped",
    "StoppedClone",
    "StoredBackup",
    "TcpListen",
    "Totals",
    "Unmounted",
    "Until",
    "UsefulCommand",
    "Verdict",
    "Verification",
    "Versions",
    "Wanted",
    "connect",
    "descendants",
    "leaves",
    "library_versions",
    "open_repository",
    "parse_listen",
    "parse_until",
    "roots",
]

_HOMES = {
    "api.clone": ("Clone",),
    "api.domain": ("Domain",),
    "api.export": ("Export",),
    "api.host": ("Host", "connect", "library_versions"),
    "api.repository": ("Repository", "StoredBackup", "open_repository"),
    "blocks.extents": ("KINDS", "Columns", "Extent", "Kind", "Totals"),
    "hypervisor.agent": ("Freeze", "FreezeReport", "FreezeState"),
    "hypervisor.clone": ("Change", "Network"),
    "hypervisor.connection": ("Versions",),
    "hypervisor.domain": ("DomainFacts",),
    "operations.boot_test": ("BOOT_LIMIT", "BootReport", "Until", "Wanted", "parse_until"),
    "operations.boot_stop": ("StoppedClone",),
    "operations.backup": ("Backup",),
    "operations.backup_copy": ("DiskProgress",),
    "operations.commands": ("UsefulCommand",),
    "operations.consumers": ("ConsumerStatus",),
    "operations.create": ("CheckpointPlan", "CreatedCheckpoint"),
    "operations.delete": ("Deletion", "Scope"),
    "confined.messages": ("Found",),
    "operations.details": ("DiskDetails",),
    "operations.doctor.examine": ("DomainHealth", "Examination"),
    "operations.doctor.findings": ("Finding", "Repair", "Safety", "Severity"),
    "operations.doctor.verdicts": ("Verdict",),
    "operations.diff": ("FileChange", "Findings", "NotLookedInto"),
    "operations.fetch": ("Copied", "FileFacts", "Left"),
    "operations.layout": ("DiskLayout",),
    "operations.looking": ("Confinement",),
    "operations.export_plan": ("ExportPlan",),
    "operations.exports": ("ExportState", "ExportStatus"),
    "operations.hotadd": ("AttachedDisk", "Hotadded"),
    "operations.hotremove": ("Hotremoved",),
    "operations.inspect": (
        "CheckpointStatus",
        "DiskStatus",
        "Health",
        "descendants",
        "leaves",
        "roots",
    ),
    "operations.mounts": ("Mounted", "Unmounted"),
    "operations.metadata": ("RestoredMetadata", "SavedMetadata"),
    "operations.reading": ("ExportedDisk",),
    "operations.restore": ("RestoredDisk",),
    "operations.release": ("ReleasedExport",),
    "operations.selection": ("Skipped",),
    "operations.tcp": ("TcpListen", "parse_listen"),
    "records.history": ("Noted",),
    "operations.verify": ("Verification",),
    "repository.manifest": ("Level",),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(f"vircpt.{module}"), name)
    raise AttributeError(f"module 'vircpt.api' has no attribute {name!r}")
