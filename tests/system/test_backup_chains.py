"""Random chains of backups against copies made by qemu-img. script/soak runs hundreds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.chains import Chain

CHAINS = 12
POINTS = 5


@pytest.mark.parametrize("seed", range(CHAINS))
def test_each_backup_is_what_the_disks_were(seed: int, conn: Any, tmp_path: Path) -> None:
    with Chain(conn, f"chain{seed}", seed, tmp_path) as chain:
        chain.run(POINTS)
