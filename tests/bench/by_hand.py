"""What an administrator's own script would do: freeze, make a checkpoint, thaw.

    by_hand.py DOMAIN <checkpoint.xml

Tells for how many seconds the guest stood frozen. It promises nothing to a guest whose script is
interrupted: that is what vircpt is compared with.
"""

from __future__ import annotations

import sys
import time

import libvirt

definition = sys.stdin.read()
domain = libvirt.open().lookupByName(sys.argv[1])
start = time.monotonic()
domain.fsFreeze()
domain.checkpointCreateXML(definition)
domain.fsThaw()
sys.stdout.write(f"{time.monotonic() - start}\n")
