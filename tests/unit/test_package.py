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


def test_list_imports_nothing_that_takes_long() -> None:
    code = (
        "import sys; import vircpt.cli.quick, vircpt.cli.listing, vircpt.cli.outcome;"
        "import vircpt.api.host, vircpt.api.domain, vircpt.operations.inspect;"
        "heavy = {'click', 'dataclasses', 'inspect', 'json', 'nbd', 'subprocess'};"
        "found = heavy & set(sys.modules);"
        "sys.exit(f'imported: {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
