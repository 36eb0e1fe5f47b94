"""Long runs: `script/soak crash`, `script/soak random [MINUTES [SEED]]`. Inside the lab.

The result goes to stdout, and into docs/reliability.md with --write.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import libvirt

from lab.daemon import Libvirtd
from soak import crash, random_work

DOCUMENT = Path(__file__).parents[2] / "docs/reliability.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/soak", description=__doc__)
    parser.add_argument("what", choices=["crash", "random"])
    parser.add_argument("minutes", type=float, nargs="?", default=60.0)
    parser.add_argument("seed", type=int, nargs="?", default=int(time.time()))
    parser.add_argument("--only", action="append", default=[], help="this scenario (crash)")
    parser.add_argument("--write", action="store_true", help="into docs/reliability.md")
    chosen = parser.parse_args()
    libvirt.registerErrorHandler(lambda *_: None, None)
    with Libvirtd() as daemon:
        connection = libvirt.open("qemu:///system")
        if chosen.what == "crash":
            rows = crash.run(connection, chosen.only, say)
            text, bad = crash_table(rows), sum(row[3] for row in rows)
        else:
            report = random_work.run(daemon, chosen.minutes * 60, chosen.seed, say)
            text, bad = report.table(), len(report.faults)
    print(text)
    if chosen.write:
        write(chosen.what, text)
    return 1 if bad else 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def crash_table(rows: Any) -> str:
    lines = ["| Scenario | Points | Cut off | Did not hold |", "|---|---|---|---|"]
    lines += [f"| {name} | {points} | {cut} | {bad} |" for name, points, cut, bad in rows]
    sums = (sum(row[column] for row in rows) for column in (1, 2, 3))
    return "\n".join([*lines, "| **all** | " + " | ".join(map(str, sums)) + " |"])


def write(what: str, text: str) -> None:
    """Replace what stands between the marks of that run."""
    head = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False,
        cwd=DOCUMENT.parent,
    ).stdout.strip()  # fmt: skip
    when = time.strftime("%Y-%m-%d", time.gmtime())
    line = f"{when}, commit {head or '?'}, Python {platform.python_version()}."
    block = f"<!-- {what} -->\n{line}\n\n{text}\n<!-- end of {what} -->"
    pattern = rf"<!-- {what} -->.*?<!-- end of {what} -->"
    document = DOCUMENT.read_text()
    DOCUMENT.write_text(re.sub(pattern, lambda _: block, document, flags=re.S))


if __name__ == "__main__":
    sys.exit(main())
