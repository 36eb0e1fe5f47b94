"""Child processes that go on when we end."""

from __future__ import annotations

import subprocess


def let_go(process: subprocess.Popen[bytes]) -> None:
    """Leave a child to itself: subprocess would warn of one that nobody waits for."""
    process.returncode = 0
