"""What is told about AppArmor and SELinux."""

from __future__ import annotations

from pathlib import Path

import pytest

from vircpt import denials

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("apparmor", "selinux", "expected"),
    [
        ("Y\n", None, "AppArmor is active"),
        ("N\n", "1", "SELinux is active"),
        (None, "1", "SELinux is active"),
        (None, "0", "not active"),
        (None, None, "not active"),
    ],
)
def test_what_is_active_is_named(
    tmp_path: Path, apparmor: str | None, selinux: str | None, expected: str
) -> None:
    files = {"apparmor": apparmor, "selinux": selinux}
    for name, text in files.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    assert expected in denials.hint(tmp_path / "apparmor", tmp_path / "selinux")


def test_the_rules_stand_in_the_document() -> None:
    text = (CHECKOUT / "docs/security.md").read_text()
    for rule in (*denials.APPARMOR_RULES, *denials.SELINUX_RULES):
        assert rule in text
