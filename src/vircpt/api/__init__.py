"""The Python API: hosts, their domains, and exports. The command line is its first user.

Objects here hold a connection and a name; all they tell is asked for anew at each call.
They are not safe to share between threads. All is imported on first use: `list` in a
script, and every TAB, should not pay for `export`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vircpt.api.domain import Domain
    from vircpt.api.export import Export
    from vircpt.api.host import Host, connect, library_versions
    from vircpt.api.repository import Repository, StoredBackup, open_repository
    from vircpt.blocks.extents import KINDS, Columns, Extent, Kind, Totals
    from vircpt.hypervisor.agent import Freeze, FreezeReport, FreezeState
    from vircpt.hypervisor.connection import Versions
    from vircpt.hypervisor.domain import DomainFacts
    from vircpt.operations.backup import Backup
    from vircpt.operations.backup_copy import DiskProgress
    from vircpt.operations.commands import UsefulCommand
    from vircpt.operations.create import CheckpointPlan, CreatedCheckpoint
    from vircpt.operations.delete import Deletion, Scope
    from vircpt.operations.details import DiskDetails
    from vircpt.operations.export import ExportPlan
    from vircpt.operations.exports import ExportState, ExportStatus
    from vircpt.operations.inspect import (
        CheckpointStatus,
        DiskStatus,
        Health,
        descendants,
        leaves,
        roots,
    )
    from vircpt.operations.reading import ExportedDisk
    from vircpt.operations.release import ReleasedExport
    from vircpt.operations.restore import RestoredDisk
    from vircpt.operations.selection import Skipped
    from vircpt.operations.tcp import TcpListen, parse_listen
    from vircpt.operations.verify import Verification
    from vircpt.repository.manifest import Level

__all__ = [
    "KINDS",
    "Backup",
    "CheckpointPlan",
    "CheckpointStatus",
    "Columns",
    "CreatedCheckpoint",
    "Deletion",
    "DiskDetails",
    "DiskProgress",
    "DiskStatus",
    "Domain",
    "DomainFacts",
    "Export",
    "ExportPlan",
    "ExportState",
    "ExportStatus",
    "ExportedDisk",
    "Extent",
    "Freeze",
    "FreezeReport",
    "FreezeState",
    "Health",
    "Host",
    "Kind",
    "Level",
    "ReleasedExport",
    "Repository",
    "RestoredDisk",
    "Scope",
    "Skipped",
    "StoredBackup",
    "TcpListen",
    "Totals",
    "UsefulCommand",
    "Verification",
    "Versions",
    "connect",
    "descendants",
    "leaves",
    "library_versions",
    "open_repository",
    "parse_listen",
    "roots",
]

_HOMES = {
    "api.domain": ("Domain",),
    "api.export": ("Export",),
    "api.host": ("Host", "connect", "library_versions"),
    "api.repository": ("Repository", "StoredBackup", "open_repository"),
    "blocks.extents": ("KINDS", "Columns", "Extent", "Kind", "Totals"),
    "hypervisor.agent": ("Freeze", "FreezeReport", "FreezeState"),
    "hypervisor.connection": ("Versions",),
    "hypervisor.domain": ("DomainFacts",),
    "operations.backup": ("Backup",),
    "operations.backup_copy": ("DiskProgress",),
    "operations.commands": ("UsefulCommand",),
    "operations.create": ("CheckpointPlan", "CreatedCheckpoint"),
    "operations.delete": ("Deletion", "Scope"),
    "operations.details": ("DiskDetails",),
    "operations.export": ("ExportPlan",),
    "operations.exports": ("ExportState", "ExportStatus"),
    "operations.inspect": (
        "CheckpointStatus",
        "DiskStatus",
        "Health",
        "descendants",
        "leaves",
        "roots",
    ),
    "operations.reading": ("ExportedDisk",),
    "operations.restore": ("RestoredDisk",),
    "operations.release": ("ReleasedExport",),
    "operations.selection": ("Skipped",),
    "operations.tcp": ("TcpListen", "parse_listen"),
    "operations.verify": ("Verification",),
    "repository.manifest": ("Level",),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(f"vircpt.{module}"), name)
    raise AttributeError(f"module 'vircpt.api' has no attribute {name!r}")
