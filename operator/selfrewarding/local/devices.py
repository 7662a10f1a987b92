"""The GPUs of this machine, and which pod has which.

A pod gets all the GPUs that it asks for or waits, as with a cluster's scheduler. Neighbours: `cluster` asks here before
it starts a pod; the devices go into CUDA_VISIBLE_DEVICES.
"""

import re
from collections.abc import Mapping
from pathlib import Path


def visible_gpus(env: Mapping[str, str], dev: Path = Path("/dev")) -> tuple[str, ...]:
    """Names of the GPUs that may be used: those of CUDA_VISIBLE_DEVICES, or all NVIDIA devices."""
    chosen = env.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(part.strip() for part in chosen.split(",") if part.strip() not in ("", "-1"))
    numbers = [
        int(match[1]) for path in dev.glob("nvidia*") if (match := re.fullmatch(r"nvidia(\d+)", path.name))
    ]
    return tuple(str(number) for number in sorted(numbers))


class Devices:
    """GPUs in use, by pod."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._taken: dict[str, str] = {}

    @property
    def free(self) -> tuple[str, ...]:
        """GPUs that no pod has."""
        return tuple(name for name in self.names if name not in self._taken)

    def take(self, pod: str, count: int) -> tuple[str, ...] | None:
        """So many GPUs for a pod, or None if there are not enough free ones."""
        free = self.free
        if count > len(free):
            return None
        for name in free[:count]:
            self._taken[name] = pod
        return free[:count]

    def give_back(self, pod: str) -> None:
        """The pod has ended."""
        self._taken = {name: owner for name, owner in self._taken.items() if owner != pod}
