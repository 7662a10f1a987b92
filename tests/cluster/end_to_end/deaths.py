"""How pods, servers, the operator and the container runtime die in the tests: at once, from outside, as on a real node.

The cluster's processes are this machine's, so a container is killed by its process: SIGKILL, not a polite deletion.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.end_to_end import bucket
from tests.cluster.end_to_end.finished_run import LIMIT_SECONDS
from tests.cluster.end_to_end.installation import RELEASE, Installed
from tests.cluster.end_to_end.run_spec import RUNS
from tests.cluster.end_to_end.watching import RUN_KIND, condition, wait_for
from tests.cluster.testbed import cluster as testbed

from selfrewarding.contract.progress import last_progress


def processes_of(pod: dict[str, Any]) -> Iterator[int]:
    """Processes in a pod's cgroups, the pause process aside."""
    uid = pod["metadata"]["uid"]
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if f"pod{uid}" in path.read_text() and path.with_name("comm").read_text().strip() != "pause":
                yield int(path.parent.name)
        except OSError:
            continue  # ended meanwhile


def kill(pod: dict[str, Any]) -> int:
    """SIGKILL for every process of a pod's containers; returns how many there were."""
    killed = 0
    for pid in list(processes_of(pod)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        killed += 1
    return killed


@dataclass
class Deaths:
    """Deaths in one run, each at the moment that hurts most."""

    installed: Installed
    name: str
    chunks: dict[str, bytes] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def trainer_dies_in_the_middle_of_its_steps(self) -> None:
        """Rank 0's pod, once the stage says that a step is done."""
        self._when(lambda: self._progress("TrainBaseline") >= 1, "TrainBaseline has made a step")
        first = next(pod for pod in self._pods("TrainBaseline") if _rank(pod) == 0)
        self._tell(f"trainer pod: {kill(first)} processes at step {self._progress('TrainBaseline')}")

    def containerd_restarts_while_training(self) -> None:
        """While the second attempt trains."""
        self._when(
            lambda: [pod for pod in self._pods("TrainBaseline") if pod["status"]["phase"] == "Running"],
            "the second attempt of TrainBaseline runs",
        )
        self.containerd_restarts()

    def containerd_restarts(self) -> None:
        """Running containers live on, and kubelet finds them again."""
        testbed.restart_part(self.installed.cluster, "containerd", kill=True)
        self._tell("containerd restarted")

    def operator_dies(self) -> None:
        """While SFT runs."""
        self._when(lambda: self._progress("SupervisedFineTune") >= 1, "SupervisedFineTune has made a step")
        self.operators_die()

    def operators_die(self) -> None:
        """Both replicas at once."""
        pods = self.installed.system.list("pods", f"app.kubernetes.io/name={RELEASE}")
        self._tell(f"operator: {sum(kill(pod) for pod in pods)} processes in {len(pods)} pods")

    def any_pod_dies(self, choices: random.Random) -> None:
        """One of the run's pods that are running, if any is."""
        pods = self.installed.team.list("pods", f"selfrewarding.dev/run={self.name}")
        if running := [pod for pod in pods if pod["status"]["phase"] == "Running"]:
            pod = choices.choice(running)
            self._tell(f"{pod['metadata']['name']}: {kill(pod)} processes")

    def sampler_dies_in_the_middle_of_the_rollout(self) -> None:
        """Once finished rows are in the bucket."""
        self._when(self._rollout_chunks, "the rollout has finished rows")
        (pod,) = self._pods("Rollout")
        killed = kill(pod)
        for key in self._rollout_chunks():
            self.chunks[key] = self._read(key)
        self._tell(f"sampler pod: {killed} processes after {len(self.chunks)} chunks of rows")

    def server_dies(self) -> None:
        """vLLM, while the rollout's second attempt asks it."""
        self._when(
            lambda: [pod for pod in self._pods("Rollout") if pod["status"]["phase"] == "Running"],
            "the second attempt of the rollout runs",
        )
        (server,) = self.installed.team.list("pods", "selfrewarding.dev/holder")
        self._tell(f"vLLM pod: {kill(server)} processes")

    def _when(self, happened: Callable[[], Any], what: str) -> None:
        def checked() -> Any:
            run = self.installed.team.get(RUN_KIND, self.name)
            assert condition(run, "Failed").get("status") != "True", self.installed.explain(self.name)
            return happened()

        try:
            wait_for(f"not yet: {what}", checked, seconds=LIMIT_SECONDS, every=0.3)
        except AssertionError:
            print(self.installed.explain(self.name))
            raise

    def _pods(self, stage: str) -> list[dict[str, Any]]:
        return self.installed.team.list(
            "pods", f"selfrewarding.dev/run={self.name},selfrewarding.dev/stage={stage}"
        )

    def _progress(self, stage: str) -> int:
        """Steps or rows of a stage, by the last progress line of its pods' logs."""
        done = 0
        for pod in self._pods(stage):
            if pod["status"]["phase"] != "Running" or _rank(pod) > 0:
                continue
            log = self.installed.team("logs", pod["metadata"]["name"], "--tail=30", "--ignore-errors")
            done = max([done, *(_done(line) for line in log.splitlines())])
        return done

    def _rollout_chunks(self) -> list[str]:
        found = bucket.keys(self.installed.s3, f"{self.name}/stages/Rollout/")
        return [key for key in found if "/attempts/" in key and "/rows-" in key and key.endswith(".jsonl")]

    def _read(self, key: str) -> bytes:
        return self.installed.s3.get_object(Bucket=RUNS, Key=key)["Body"].read()

    def _tell(self, what: str) -> None:
        print(f"  {what}", flush=True)
        self.told.append(what)


def _rank(pod: dict[str, Any]) -> int:
    return int(pod["metadata"]["labels"].get("training.kubeflow.org/replica-index", "0"))


def _done(line: str) -> int:
    found = last_progress(line)
    return found.done if found else 0
