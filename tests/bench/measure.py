"""Run a command and tell on stdout what it took, as one line of JSON.

    python3 -I -S measure.py COMMAND [ARG…]

A small process of its own, because a child's peak memory counts from the memory of the process
that started it (the kernel keeps the high-water mark over exec).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time


def main(command: list[str]) -> None:
    program = shutil.which(command[0])
    if program is None:
        sys.exit(f"{command[0]} is not there: run script/setup")
    # A file takes what vircpt and its rivals write as fast as each can: nobody reads slowly.
    nothing = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    start = time.perf_counter()
    pid = os.posix_spawn(program, command, os.environ, file_actions=[nothing])
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - start
    result = {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss * 1024,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
