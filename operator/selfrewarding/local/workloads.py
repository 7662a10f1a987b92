"""What Deployments, Jobs and PyTorchJobs want next: the controllers of a cluster as pure functions.

Purpose: from a manifest and its pods to the pods to start and to stop, and to the workload's own end.
Must not: start, stop or write anything, or read a clock.
Neighbours: `cluster` carries the verdict out and stores the end in the object's status.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from selfrewarding.api.run import RawObject
from selfrewarding.contract import environment
from selfrewarding.local.pod import PodRecord
from selfrewarding.plan.observed import Phase

WORKLOADS = ("Deployment", "Job", "PyTorchJob")
RENDEZVOUS_PORT = "rendezvousPort"
"""Field of a PyTorchJob's local status: the port of its rendezvous."""
PORTS = "ports"
"""Field of a Deployment's local status: the ports of its replicas, by slot."""


@dataclass(frozen=True, kw_only=True)
class WantedPod:
    """A pod to start."""

    name: str
    index: int
    template: RawObject
    restart_policy: str | None = None
    """A PyTorchJob's replica sets it beside the template."""
    workload_env: dict[str, str] = field(default_factory=dict)
    processes: int = 1
    """Processes of all pods of the workload, which share the machine's cores."""
    port: int | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a workload wants now."""

    start: tuple[WantedPod, ...] = ()
    stop: tuple[str, ...] = ()
    """UIDs of pods to terminate and remove."""
    end: Phase | None = None
    """Succeeded or Failed, once; the workload then wants nothing more."""
    message: str | None = None


def look(manifest: RawObject, pods: Sequence[PodRecord]) -> Verdict:
    """What a workload wants, given its pods (also those that have ended); nothing once it has an end."""
    if manifest.get("status", {}).get("phase") is not None:
        return Verdict()
    match manifest["kind"]:
        case "Deployment":
            return _deployment(manifest, pods)
        case "Job":
            return _job(manifest, pods)
        case "PyTorchJob":
            return _pytorch_job(manifest, pods)
        case _:
            return Verdict()


def _deployment(manifest: RawObject, pods: Sequence[PodRecord]) -> Verdict:
    spec, name = manifest["spec"], manifest["metadata"]["name"]
    replicas, ports = replicas_of(manifest), manifest["status"][PORTS]
    # Recreate: the next pod of a slot starts when the last one is gone, since both would want the same memory.
    taken = {pod.index for pod in pods}
    return Verdict(
        start=tuple(
            WantedPod(
                name=f"{name}-{slot}",
                index=slot,
                template=spec["template"],
                processes=replicas,
                port=ports[slot],
            )
            for slot in range(replicas)
            if slot not in taken
        ),
        stop=tuple(pod.uid for pod in pods if pod.deleting_since is None and pod.index >= replicas),
    )


def _job(manifest: RawObject, pods: Sequence[PodRecord]) -> Verdict:
    spec, name = manifest["spec"], manifest["metadata"]["name"]
    parallelism = int(spec.get("parallelism", 1))
    completions = int(spec.get("completions", 1))
    indexed = spec.get("completionMode") == "Indexed"
    mine = [pod for pod in pods if pod.deleting_since is None]
    failed = [pod for pod in mine if pod.phase is Phase.FAILED]
    live = [pod for pod in pods if not pod.ended]
    if len(failed) > int(spec.get("backoffLimit", 6)):
        last = failed[-1]
        message = (
            f"BackoffLimitExceeded: pod {last.name} failed with {last.reason} (exit code {last.exit_code})"
        )
        return Verdict(end=Phase.FAILED, message=message, stop=tuple(pod.uid for pod in live))
    done = {pod.index for pod in mine if pod.phase is Phase.SUCCEEDED}
    if len(done) >= completions:
        return Verdict(end=Phase.SUCCEEDED, stop=tuple(pod.uid for pod in live))
    busy = {pod.index for pod in live}
    missing = [index for index in range(completions) if index not in done | busy]
    return Verdict(
        start=tuple(
            WantedPod(
                name=f"{name}-{index}" + (f"-{len(failed)}" if failed else ""),
                index=index,
                template=spec["template"],
                workload_env={environment.SHARD: str(index)} if indexed else {},
                processes=min(parallelism, completions),
            )
            for index in missing[: max(0, parallelism - len(live))]
        )
    )


def _pytorch_job(manifest: RawObject, pods: Sequence[PodRecord]) -> Verdict:
    spec = manifest["spec"]
    clean = (spec.get("runPolicy") or {}).get("cleanPodPolicy", "None")
    live = [pod for pod in pods if not pod.ended]
    stop = {"None": [], "Running": live, "All": list(pods)}[clean]
    failed = next((pod for pod in pods if pod.phase is Phase.FAILED and pod.deleting_since is None), None)
    if failed is not None:
        message = f"pod {failed.name} failed with {failed.reason} (exit code {failed.exit_code})"
        return Verdict(end=Phase.FAILED, message=message, stop=tuple(pod.uid for pod in stop))
    ranks = _ranks(manifest)
    if {pod.index for pod in pods if pod.phase is Phase.SUCCEEDED} >= {rank.index for rank in ranks}:
        return Verdict(end=Phase.SUCCEEDED, stop=tuple(pod.uid for pod in stop))
    return Verdict() if pods else Verdict(start=tuple(ranks))


def _ranks(manifest: RawObject) -> list[WantedPod]:
    """One pod for each Worker, with the environment that the training operator (v1.9) injects, and an address of rank 0
    on this machine: its Services are not here."""
    spec, name = manifest["spec"], manifest["metadata"]["name"]
    workers = spec["pytorchReplicaSpecs"]["Worker"]
    nodes = int(workers.get("replicas", 1))
    per_node = str(spec.get("nprocPerNode", "auto"))
    processes = nodes * (int(per_node) if per_node.isdecimal() else 1)
    return [
        WantedPod(
            name=f"{name}-worker-{rank}",
            index=rank,
            template=workers["template"],
            restart_policy=workers.get("restartPolicy", "OnFailure"),
            processes=processes,
            workload_env={
                "PYTHONUNBUFFERED": "1",
                environment.RENDEZVOUS_ADDRESS: "127.0.0.1",
                environment.RENDEZVOUS_PORT: str(manifest["status"][RENDEZVOUS_PORT]),
                environment.NODE_RANK: str(rank),
                "PET_NNODES": str(nodes),
                "PET_NPROC_PER_NODE": per_node,
            },
        )
        for rank in range(nodes)
    ]


def replicas_of(manifest: RawObject) -> int:
    """Replicas that a Deployment asks for."""
    return int(manifest["spec"].get("replicas", 1))


def template_of(manifest: RawObject, index: int) -> tuple[RawObject, str | None]:
    """The pod template of a workload's pod, and the restart policy that a PyTorchJob's replica sets."""
    if manifest["kind"] != "PyTorchJob":
        return manifest["spec"]["template"], None
    wanted = _ranks(manifest)[index]
    return wanted.template, wanted.restart_policy


def addresses_behind(service: RawObject, manifests: Iterable[RawObject]) -> list[str]:
    """The addresses on this machine of all pods that a Service selects."""
    selector = service["spec"].get("selector") or {}
    return [
        f"http://127.0.0.1:{port}"
        for manifest in manifests
        if manifest["kind"] == "Deployment"
        and selector
        and selector.items() <= manifest["spec"]["template"]["metadata"]["labels"].items()
        for port in manifest["status"][PORTS][: replicas_of(manifest)]
    ]
