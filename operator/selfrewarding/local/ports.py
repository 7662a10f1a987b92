"""Free TCP ports for servers and rendezvous."""

import random
import socket

_RANGE = range(20_000, 30_000)
"""Below the ports that the kernel gives to outgoing connections (32768 and up), which come and go by the second."""


def free_port(taken: set[int]) -> int:
    """A port that nobody listens on now and that is not in `taken`. Raises OSError if there is none."""
    for port in random.sample(_RANGE, len(_RANGE)):
        if port in taken:
            continue
        with socket.socket() as probe:
            # As servers do: a port whose last connection is still closing counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError(f"all ports from {_RANGE.start} to {_RANGE.stop - 1} are taken")
