"""Ports for what a test will start."""

from __future__ import annotations

import random
import socket
from pathlib import Path

# Above those of well-known services; below those that the kernel gives to connections, which may come first.
LOWEST = 15_000
ABOVE = min(30_000, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]))
_given: set[int] = set()


def free_port() -> int:
    """Return a free port of this machine, another one each time."""
    while True:
        # By chance, as others choose at the same time; the tests' own numbers may come from a seed.
        port = random.SystemRandom().randrange(LOWEST, ABOVE)
        with socket.socket() as probe:
            # A listener that was killed leaves connections that are to time out.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
