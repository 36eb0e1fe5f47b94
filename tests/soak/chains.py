"""python -m soak.chains [CHAINS [FIRST_SEED]], in the lab: script/soak chains does it."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import libvirt

from lab.chains import Chain
from lab.daemon import Libvirtd

POINTS = 8


def main(chains: int = 200, first: int = 1000) -> int:
    libvirt.registerErrorHandler(lambda *_: None, None)  # errors come as exceptions as well
    start = time.monotonic()
    points = failed = 0
    with Libvirtd(), tempfile.TemporaryDirectory() as directory:
        connection = libvirt.open("qemu:///system")
        for seed in range(first, first + chains):
            try:
                with Chain(connection, f"soak{seed}", seed, Path(directory)) as chain:
                    chain.run(POINTS)
                    points += len(chain.references)
            except Exception as error:
                failed += 1
                notes = "\n".join(getattr(error, "__notes__", ()))
                sys.stderr.write(f"soak: seed {seed}: {error}\n{notes}\n")
            sys.stderr.write(f"soak: {seed - first + 1} of {chains} chains, {failed} failed\n")
        connection.close()
    seconds = time.monotonic() - start
    sys.stdout.write(
        f"{chains} chains with {points} backups, {failed} failed, {seconds / 60:.0f} min\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
