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
    from vircpt.blocks.extents import KINDS, Columns, Extent, Kind, Totals
    from vircpt.confined.messages import Found
    from vircpt.hypervisor.agent import Freeze, FreezeReport, FreezeState
    from vircpt.hypervisor.connection import Versions
    from vircpt.hypervisor.domain import DomainFacts
    from vircpt.operations.commands import UsefulCommand
    from vircpt.operations.create import CheckpointPlan, CreatedCheckpoint
    from vircpt.operations.delete import Deletion, Scope
    from vircpt.operations.details import DiskDetails
    from vircpt.operations.diff import FileChange, Findings, NotLookedInto
    from vircpt.operations.export import ExportPlan
    from vircpt.operations.exports import ExportState, ExportStatus
    from vircpt.operations.fetch import Copied, FileFacts, Left
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
    from vircpt.operations.reading import ExportedDisk
    from vircpt.operations.release import ReleasedExport
    from vircpt.operations.selection import Skipped
    from vircpt.operations.tcp import TcpListen, parse_listen
    from vircpt.records.history import Noted

__all__ = [
    "KINDS",
    "CheckpointPlan",
    "CheckpointStatus",
    "Columns",
    "Confinement",
    "Copied",
    "CreatedCheckpoint",
    "Deletion",
    "DiskDetails",
    "DiskLayout",
    "DiskStatus",
    "Domain",
    "DomainFacts",
    "Export",
    "ExportPlan",
    "ExportState",
    "ExportStatus",
    "ExportedDisk",
    "Extent",
    "FileChange",
    "FileFacts",
    "Findings",
    "Found",
    "Freeze",
    "FreezeReport",
    "FreezeState",
    "Health",
    "Host",
    "Kind",
    "Left",
    "NotLookedInto",
    "Noted",
    "ReleasedExport",
    "Scope",
    "Skipped",
    "TcpListen",
    "Totals",
    "UsefulCommand",
    "Versions",
    "connect",
    "descendants",
    "leaves",
    "library_versions",
    "parse_listen",
    "roots",
]

_HOMES = {
    "api.domain": ("Domain",),
    "api.export": ("Export",),
    "api.host": ("Host", "connect", "library_versions"),
    "blocks.extents": ("KINDS", "Columns", "Extent", "Kind", "Totals"),
    "hypervisor.agent": ("Freeze", "FreezeReport", "FreezeState"),
    "hypervisor.connection": ("Versions",),
    "hypervisor.domain": ("DomainFacts",),
    "operations.commands": ("UsefulCommand",),
    "operations.create": ("CheckpointPlan", "CreatedCheckpoint"),
    "operations.delete": ("Deletion", "Scope"),
    "confined.messages": ("Found",),
    "operations.details": ("DiskDetails",),
    "operations.diff": ("FileChange", "Findings", "NotLookedInto"),
    "operations.fetch": ("Copied", "FileFacts", "Left"),
    "operations.layout": ("DiskLayout",),
    "operations.looking": ("Confinement",),
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
    "operations.release": ("ReleasedExport",),
    "operations.selection": ("Skipped",),
    "operations.tcp": ("TcpListen", "parse_listen"),
    "records.history": ("Noted",),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(f"vircpt.{module}"), name)
    raise AttributeError(f"module 'vircpt.api' has no attribute {name!r}")
