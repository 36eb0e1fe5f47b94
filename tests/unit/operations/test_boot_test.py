"""What --until means."""

from __future__ import annotations

import pytest

from vircpt.errors import InvalidInput
from vircpt.operations.boot_test import Until, Wanted, parse_until


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("agent", Until(Wanted.AGENT)),
        ("login:", Until(Wanted.CONSOLE, "login:")),
        ("vm1 login: ", Until(Wanted.CONSOLE, "vm1 login: ")),
        ("console:agent", Until(Wanted.CONSOLE, "agent")),
        ("console:command:x", Until(Wanted.CONSOLE, "command:x")),
        ("command:test -e /x", Until(Wanted.COMMAND, "test -e /x")),
        ("systemctl is-system-running", Until(Wanted.CONSOLE, "systemctl is-system-running")),
    ],
)
def test_until(text: str, until: Until) -> None:
    assert parse_until(text) == until
    assert until.needs_agent == (until.wanted in (Wanted.AGENT, Wanted.COMMAND))


@pytest.mark.parametrize("text", ["", " ", "console:", "command: "])
def test_until_nothing(text: str) -> None:
    with pytest.raises(InvalidInput, match="waits for nothing"):
        parse_until(text)
