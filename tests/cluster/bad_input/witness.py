"""What a watch saw of all runs and pods of the cluster, and when: a test that polls would miss what lasts a moment.

Must not: judge. Neighbour: `playing` asks it.
"""

import threading
from collections import defaultdict
from collections.abc import Callable
from time import monotonic
from typing import Any

from tests.cluster.end_to_end.watching import Watch
from tests.cluster.testbed.kubectl import Kubectl

Object = dict[str, Any]
GPU = "nvidia.com/gpu"


class Witness:
    """Versions of runs by namespace, and the pods that ever asked for GPUs, for as long as it watches."""

    def __init__(self, kube: Kubectl) -> None:
        self._news = threading.Condition()
        self._runs: dict[str, list[tuple[float, Object]]] = defaultdict(list)
        self._gpu_pods: dict[str, dict[str, bool]] = defaultdict(dict)
        self._programs: dict[str, float] = {}
        self._watches = [
            Watch(kube, "--all-namespaces", tell=self._run),
            Watch(kube, "--all-namespaces", kind="pods", tell=self._pod),
        ]

    def close(self) -> None:
        """End the watches."""
        for watch in self._watches:
            watch.stop()

    def first(
        self, namespace: str, true: Callable[[Object], bool], seconds: float, *, after: float = 0.0
    ) -> float | None:
        """When a version of the namespace's run was seen first for which `true` holds, of those seen since `after`
        (time.monotonic); waits so many seconds for one. None: there was none."""
        end = monotonic() + seconds
        seen = 0
        with self._news:
            while True:
                versions = self._runs[namespace]
                for when, run in versions[seen:]:
                    if when >= after and true(run):
                        return when
                seen = len(versions)
                left = end - monotonic()
                if left <= 0:
                    return None
                self._news.wait(left)

    def last(self, namespace: str) -> Object:
        """The newest version of the namespace's run; empty if there is none."""
        with self._news:
            versions = self._runs[namespace]
            return versions[-1][1] if versions else {}

    def first_program(self, namespace: str, seconds: float) -> float | None:
        """When a container of the namespace was seen to run first, or to have ended; waits so many seconds for one."""
        with self._news:
            self._news.wait_for(lambda: namespace in self._programs, seconds)
            return self._programs.get(namespace)

    def gpu_pods(self, namespace: str) -> dict[str, bool]:
        """Pods of the namespace that ever asked for GPUs, and whether one was given to a node."""
        with self._news:
            return dict(self._gpu_pods[namespace])

    def _run(self, run: Object) -> None:
        with self._news:
            self._runs[run["metadata"]["namespace"]].append((monotonic(), run))
            self._news.notify_all()

    def _pod(self, pod: Object) -> None:
        name, namespace, spec = pod["metadata"]["name"], pod["metadata"]["namespace"], pod["spec"]
        containers = [*spec["containers"], *spec.get("initContainers", ())]
        states = [one.get("state", {}) for one in pod.get("status", {}).get("containerStatuses", ())]
        with self._news:
            if any(GPU in one.get("resources", {}).get("requests", {}) for one in containers):
                pods = self._gpu_pods[namespace]
                pods[name] = pods.get(name, False) or "nodeName" in spec
            if any("running" in state or "terminated" in state for state in states):
                self._programs.setdefault(namespace, monotonic())
            self._news.notify_all()
