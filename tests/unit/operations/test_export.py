"""Undoing an export while another vircpt holds its domain."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vircpt.hypervisor.agent import FreezeResult
from vircpt.operations import export
from vircpt.operations.export import StartedExport
from vircpt.operations.export_plan import ExportPlan
from vircpt.records import exports as records
from vircpt.records.state import ExportRecord

UUID = "11111111-2222-3333-4444-555555555555"


def test_who_can_not_undo_it_tells_the_first_error_and_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRCPT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(records, "END_PATIENCE", 0.05)
    record = ExportRecord(id="", kind="live", uri="", domain="vm1", uuid=UUID, user="", created=0)
    directory = records.create(record, None)
    plan = ExportPlan("vm1", False, (), (), None, "new", None)
    started = StartedExport(directory, plan, FreezeResult().report)
    first = ValueError("the first error")
    domain: Any = SimpleNamespace(uuid=UUID, name="vm1")
    with records.locked(UUID, "vm1"):
        export.withdraw(domain, started, first)  # libvirt is not asked while the lock is held
    assert directory.path.is_dir()
    (note,) = first.__notes__
    assert "another vircpt is at work" in note
    assert f"export {directory.record.id} and checkpoint new" in note
    assert "vircpt -d vm1 release" in note
