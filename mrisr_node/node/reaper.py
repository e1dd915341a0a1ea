"""A process that outlives the supervisor by a moment, to end what a killed supervisor left behind.

``python -m mrisr_node.node.reaper`` reads lines from its standard input: ``+PGID`` names a process
group to look after, ``-PGID`` one that has ended. The end of input means that the supervisor is
gone, however it went; groups that are still named are then asked to end, and after a while killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time

__all__ = ["end_groups", "group_lives", "main"]

_GRACE_SECONDS = 8.0


def main() -> int:
    """Look after process groups until standard input ends."""
    # Ctrl-C and a closing terminal reach everyone; this process must be the last to go.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    end_groups(groups, _GRACE_SECONDS)
    return 0


def end_groups(groups: set[int], grace: float) -> None:
    """Ask process groups to end, and kill those that have not after `grace` seconds."""
    for group in groups:
        _signal(group, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and any(group_lives(group) for group in groups):
        time.sleep(0.05)
    for group in groups:
        _signal(group, signal.SIGKILL)


def group_lives(group: int) -> bool:
    """Tell whether a process group has a member."""
    return _signal(group, 0)


def _signal(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
