"""The package's public list: everything in it is there, and little is imported for nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vircpt


@pytest.mark.parametrize("name", vircpt.__all__)
def test_each_public_name_can_be_had(name: str) -> None:
    assert getattr(vircpt, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = vircpt.nosuch


def test_the_command_line_imports_no_heavy_module_for_help() -> None:
    code = (
        "import sys; from vircpt.cli.main import main; main(['--help']);"
        "heavy = {'libvirt', 'nbd', 'lxml', 'rich', 'vircpt.api'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
