"""Starting, stopping and asking after a test cluster.

One node in one network namespace: etcd, API server, controller manager, scheduler, kubelet, kube-proxy, containerd,
CoreDNS, an S3 server, and training-operator in a pod. All are the real programs; only `nvidia.com/gpu` is made up.
Parts start side by side, each as soon as what it needs is Ready. `make cluster-up` and the tests' fixtures call this.
"""

import contextlib
import os
import platform
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from tests.cluster.testbed import (
    binaries,
    handle,
    leftovers,
    network,
    parts,
    pki,
    processes,
    readiness,
    small_images,
    training_operator,
)
from tests.cluster.testbed.api import Api
from tests.cluster.testbed.handle import NODE_NAME, Cluster, TestbedError

GPUS = 8
# How names end of which nothing stays.
_PASSING = "-passing"
# Before a cold machine with two cores, busy with other work, is given up on.
PATIENCE_S = 120.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """Something to make Ready, once the steps in `needs` are."""

    name: str
    needs: tuple[str, ...]
    work: Callable[[], None]


def missing() -> str | None:
    """Why no test cluster can run here, in one line; None if one can."""
    if platform.system() != "Linux":
        return f"the test cluster needs Linux, this is {platform.system()}"
    if os.geteuid() != 0:
        return "the test cluster needs root (network namespaces, mounts, cgroups): run as root to have these tests"
    unbuilt = [part.name for part in binaries.PARTS if not part.built]
    if unbuilt and shutil.which("go") is None:
        return f"the test cluster needs Go to build {', '.join(unbuilt)}: install Go and run `make cluster-build`"
    packages = binaries.missing_debian_packages()
    if packages and shutil.which("apt-get") is None:
        return f"the test cluster needs Debian's packages {', '.join(packages)}, and there is no apt-get here"
    return None


def up(
    name: str, *, node: bool = True, with_training_operator: bool = True, kept: bool = False, say: Say
) -> Cluster:
    """Start a cluster, or find that it runs; a line for each part. Raises TestbedError, BuildError.

    What a killed run left behind is cleaned first. Parts that were never built are built now (minutes). With `kept` a
    cluster that is started now is the calling program's: `remove_orphans` takes it down should the program die.
    """
    if reason := missing():
        raise TestbedError(reason)
    operator = node and with_training_operator
    with handle.exclusive(name):
        known = handle.load(name)
        if known and not dead_parts(known):
            if (known.node, known.training_operator) < (node, operator):
                raise TestbedError(
                    f"cluster {name} runs without what is asked for now: take it down first "
                    f"(python -m tests.cluster.testbed down --name {name})"
                )
            if not kept:
                processes.keep_no_longer(known)
            say(f"cluster {name} is already up")
            return known
        _build(node, operator, say)
        began = time.monotonic()
        cluster = Cluster(name, handle.claim(name), handle.state_folder(name), node, operator)
        if known or network.exists(cluster) or (cluster.run / "pids").exists():
            leftovers.clean(cluster)
            say(f"{'leftovers of an earlier run':<28} {time.monotonic() - began:5.1f} s  removed")
        try:
            if kept:
                processes.keep(cluster)
            _start(cluster, say)
        except BaseException:
            leftovers.clean(cluster)
            handle.release(cluster)
            raise
        say(f"{f'cluster {name}':<28} {time.monotonic() - began:5.1f} s  all parts Ready")
        return cluster


def down(name: str, *, purge: bool = False, say: Say) -> None:
    """Stop a cluster and remove all but its images and logs; with `purge` those, too."""
    with handle.exclusive(name):
        cluster = handle.load(name) or Cluster(name, handle.claim(name), handle.state_folder(name))
        _take_down(cluster, purge=purge, say=say)


def _take_down(cluster: Cluster, *, purge: bool, say: Say) -> None:
    began = time.monotonic()
    leftovers.clean(cluster)
    if purge:
        leftovers.purge(cluster)
        handle.forget(cluster.name)
    handle.release(cluster)
    say(f"{f'cluster {cluster.name}':<28} {time.monotonic() - began:5.1f} s  down")


@contextlib.contextmanager
def lasting(
    name: str, *, node: bool = True, with_training_operator: bool = True, say: Say
) -> Iterator[Cluster]:
    """A cluster until the block ends, or longer if it ran already; images stay. Raises TestbedError, BuildError."""
    remove_orphans(say)
    known = handle.load(name)
    ran = known is not None and not dead_parts(known)
    found = up(name, node=node, with_training_operator=with_training_operator, kept=True, say=say)
    try:
        yield found
    finally:
        if not ran:
            down(name, say=say)


@contextlib.contextmanager
def passing(
    what: str, *, node: bool = True, with_training_operator: bool = True, say: Say
) -> Iterator[Cluster]:
    """A cluster of the block's own, of which nothing stays; its name starts with `what`. Raises as `lasting`."""
    remove_orphans(say)
    name = f"{what}-{secrets.token_hex(3)}{_PASSING}"
    try:
        yield up(name, node=node, with_training_operator=with_training_operator, kept=True, say=say)
    finally:
        down(name, purge=True, say=say)


def remove_orphans(say: Say) -> None:
    """Take down the clusters of programs that were killed."""
    for cluster in handle.claimed():
        if not processes.orphaned(cluster):
            continue
        with handle.exclusive(cluster.name):
            if processes.orphaned(cluster):  # still: others look for them, too
                _take_down(cluster, purge=cluster.name.endswith(_PASSING), say=say)


def dead_parts(cluster: Cluster) -> list[str]:
    """The parts of a cluster that should run and do not."""
    return [part for part in parts.of(cluster) if processes.running(cluster, part) is None]


def restart_part(cluster: Cluster, part: str, *, kill: bool = False) -> float:
    """End one part (with `kill` by SIGKILL) and start it again; the seconds until it was Ready. Raises TestbedError.

    Pods go on meanwhile, whichever part it is.
    """
    if part not in parts.of(cluster):
        raise TestbedError(f"cluster {cluster.name} has no part {part!r}: {', '.join(parts.of(cluster))}")
    began = time.monotonic()
    processes.stop(cluster, (part,), kill=kill)
    _launch(cluster, part)
    if part == "kubelet":
        _offer_gpus(cluster)  # kubelet forgets what no device plugin told it
    return time.monotonic() - began


def states(cluster: Cluster) -> dict[str, str | None]:
    """Each part, and why it is not Ready (None: it is)."""
    found: dict[str, str | None] = {part: readiness.reason(cluster, part) for part in parts.of(cluster)}
    if cluster.training_operator:
        found["training-operator"] = training_operator.answer(Api(cluster))
    return found


def _build(node: bool, operator: bool, say: Say) -> None:
    wanted = [
        *(binaries.NODE if node else binaries.CONTROL_PLANE),
        *(["training-operator"] if operator else []),
    ]
    absent = [name for name in wanted if not binaries.part(name).built]
    if binaries.missing_debian_packages():
        absent.insert(0, "debian")
    if absent and not binaries.build_all(absent, say):
        raise TestbedError("not everything that the cluster is made of could be built; see above")


def _start(cluster: Cluster, say: Say) -> None:
    cluster.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(cluster.logs, ignore_errors=True)
    cluster.run.chmod(0o700)
    cluster.write()
    if cluster.node:
        parts.write_s3_keys(cluster)
        parts.write_cni(cluster)
        processes.make_cgroups(cluster)
    failed = threading.Event()
    _run_steps(_steps(cluster, failed.is_set), say, failed)


def _steps(cluster: Cluster, abandoned: Callable[[], bool]) -> list[Step]:
    def launch(part: str) -> Callable[[], None]:
        return lambda: _launch(cluster, part, abandoned)

    steps = [
        Step("network", (), lambda: network.create(cluster)),
        Step("certificates", (), lambda: pki.create(cluster)),
        Step("etcd", ("network",), launch("etcd")),
        Step("kube-apiserver", ("network", "certificates", "etcd"), launch("kube-apiserver")),
        Step("kube-controller-manager", ("kube-apiserver",), launch("kube-controller-manager")),
    ]
    if not cluster.node:
        return steps
    manifests = training_operator.render(cluster) if cluster.training_operator else ""

    def load_images() -> None:
        own = [training_operator.image(manifests)] if manifests else []
        small_images.load(cluster, small_images.node_images() + own)

    def start_kubelet() -> None:
        _launch(cluster, "kubelet", abandoned)
        _offer_gpus(cluster)

    def start_coredns() -> None:
        _allow_coredns(cluster)
        _launch(cluster, "coredns", abandoned)

    steps += [
        Step("versitygw", ("network",), launch("versitygw")),
        Step("containerd", ("network",), lambda: _start_containerd(cluster, abandoned)),
        Step("small images", ("containerd",), load_images),
        Step("kube-scheduler", ("kube-apiserver",), launch("kube-scheduler")),
        Step("kubelet", ("kube-apiserver", "containerd", "small images"), start_kubelet),
        Step("kube-proxy", ("kubelet",), launch("kube-proxy")),  # it waits for the node's object
        Step("coredns", ("kube-apiserver",), start_coredns),
    ]
    if manifests:
        steps += [
            Step(
                "training-operator objects",
                ("kube-apiserver",),
                lambda: training_operator.apply(cluster, manifests),
            ),
            Step(
                "training-operator",
                (
                    "training-operator objects",
                    "kubelet",
                    "kube-proxy",
                    "kube-scheduler",
                    "kube-controller-manager",
                ),
                lambda: training_operator.wait(Api(cluster), PATIENCE_S, abandoned),
            ),
        ]
    return steps


def _run_steps(steps: list[Step], say: Say, failed: threading.Event) -> None:
    """Run every step once those that it needs have ended; the first failure is raised, and ends the others' waiting."""
    failures: list[Exception] = []
    futures: dict[str, Future[bool]] = {}

    def run(step: Step) -> bool:
        if not all(futures[need].result() for need in step.needs):
            return False
        began = time.monotonic()
        try:
            step.work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets it
            failures.append(error)
            failed.set()
            return False
        say(f"{step.name:<28} {time.monotonic() - began:5.1f} s")
        return True

    with ThreadPoolExecutor(max_workers=len(steps)) as pool:
        for step in steps:  # in the order of the list: a step's needs stand before it
            futures[step.name] = pool.submit(run, step)
    if failures:
        raise failures[0]


def _launch(cluster: Cluster, part: str, abandoned: Callable[[], bool] = lambda: False) -> None:
    """Start a part and wait until it is Ready. Raises TestbedError with the last lines of its log."""
    process = processes.start(cluster, part, parts.COMMANDS[part](cluster), parts.environment(cluster, part))
    end = time.monotonic() + PATIENCE_S
    while reason := readiness.reason(cluster, part):
        if abandoned():
            raise TestbedError(f"{part} was not waited for: another part failed")
        ended = not process.alive
        if ended or time.monotonic() > end:
            log = cluster.logs / f"{part}.log"
            lines = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
            what = "ended while it started" if ended else f"is not Ready after {PATIENCE_S:.0f} s ({reason})"
            raise TestbedError(f"{part} {what}; the end of {log}:\n{lines}")
        time.sleep(0.05)


def _start_containerd(cluster: Cluster, abandoned: Callable[[], bool]) -> None:
    """Start containerd, without the containers that an earlier run left in its store."""
    _launch(cluster, "containerd", abandoned)
    gone = False
    for kind in ("containers", "sandboxes"):
        for line in small_images.ctr(cluster, kind, "list").splitlines()[1:]:
            small_images.ctr(cluster, kind, "rm", line.split()[0])
            gone = True
    if gone:  # its Kubernetes half read them when it started
        restart_part(cluster, "containerd")


def _offer_gpus(cluster: Cluster) -> None:
    """Say that the node has GPUs: the scheduler counts them, nobody else knows them."""
    amount = {"nvidia.com/gpu": str(GPUS)}
    status = {"status": {"capacity": amount, "allocatable": amount}}
    Api(cluster).patch(f"/api/v1/nodes/{NODE_NAME}/status", status)


def _allow_coredns(cluster: Cluster) -> None:
    """Let CoreDNS read what it answers from."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "coredns"}}
    api = Api(cluster)
    api.apply(f"{rbac}/clusterroles/coredns", {**head, "kind": "ClusterRole", "rules": rules})
    binding = {
        **head,
        "kind": "ClusterRoleBinding",
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "coredns"}],
    }
    api.apply(f"{rbac}/clusterrolebindings/coredns", binding)
