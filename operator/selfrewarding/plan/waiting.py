"""What a pod or a child waits for, in plain words, from what scheduler, kubelet and controllers say of it.

    0/3 nodes are available: 3 Insufficient nvidia.com/gpu. …  →  8 GPUs: 8 requested by pod "m1-0", no node has them free
    secret "s3" not found                                      →  Secret "s3" in namespace "team-a"

Must not: decide anything; a text that nobody foresaw is passed on as it is.
Neighbours: `checks` puts these into conditions; the adapter reads the texts (`Pod.scheduling_message`,
`Pod.waiting_message`, `Child.message`). The sources of the texts: kube-scheduler's FitError, kubelet's container and
volume errors, the API server's quota and PodSecurity admission, all of Kubernetes 1.30 to 1.36.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from selfrewarding.plan.observed import Child, Phase, Pod

CANNOT_START = frozenset(
    {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable",
     "ImageInspectError", "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "FailedMount",
     "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox"}
)  # fmt: skip
"""Reasons why a pod that has a node does not come to run until somebody mends something."""
_IMAGE = frozenset(
    {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable",
     "ImageInspectError"}
)  # fmt: skip
_MAX_SAID = 240


@dataclass(frozen=True)
class Waiting:
    """What is waited for."""

    what: str
    """For the field `waitingFor`."""
    said: str
    """Whose words these are and what they are, for a message."""
    remedy: str
    """What to do about it, one sentence."""


def for_node(pod: Pod) -> Waiting:
    """What a pod without a node waits for."""
    said = _short(pod.scheduling_message or "")
    lacks = _scheduling_reasons(said)
    if "scheduling gates" in said:
        return Waiting(
            f'the queue to admit pod "{pod.name}"',
            said,
            "Kueue, or whoever put the gate there, lets it go; `kubectl get workloads` shows its place.",
        )
    if claim := _CLAIM.search(said):
        return Waiting(
            f'PersistentVolumeClaim "{claim[1]}" of pod "{pod.name}"', said, "Create the claim the pod names."
        )
    if "unbound immediate PersistentVolumeClaims" in said or "no available persistent volumes" in said:
        return Waiting(
            f'a volume for pod "{pod.name}"', said, "See the events of its PersistentVolumeClaims."
        )
    for resource, name in lacks:
        if name == "gpu":
            gpus = pod.gpus or 1
            return Waiting(
                _gpu_words(pod.name, gpus, said),
                said,
                f"It starts by itself once a node has {gpus} {resource} free; if none has so many in all, lower what "
                "serving or training ask for, or add nodes.",
            )
    if lacks:
        what = " and ".join(dict.fromkeys(name for _, name in lacks))
        return Waiting(
            f'{what} on a node for pod "{pod.name}"',
            said,
            "It starts by itself once a node has it free; else lower the pod's resources in the spec.",
        )
    if "untolerated taint" in said or "node affinity/selector" in said or "unschedulable" in said:
        return Waiting(
            f'a node that takes pod "{pod.name}"',
            said,
            "Compare scheduling.nodeSelector and scheduling.tolerations with the nodes' labels and taints.",
        )
    return Waiting(
        f'a node for pod "{pod.name}"',
        said or "no node has been found yet",
        "`kubectl describe pod` shows what the scheduler says.",
    )


def to_start(pod: Pod, namespace: str) -> Waiting:
    """What a pod that has a node waits for, whose `waiting_reason` is in CANNOT_START."""
    reason, said = pod.waiting_reason or "", _short(pod.waiting_message or "no details given")
    if reason in _IMAGE:
        # A kubelet says ErrImagePull and ImagePullBackOff in turns, the second with the first one's words in it.
        said = said.partition("ErrImagePull: ")[2] or said
        image = _IMAGE_NAME.search(pod.waiting_message or "")
        what = f"image {_plain(image[1])} (cannot be pulled)" if image else f'the image of pod "{pod.name}"'
        return Waiting(
            what,
            said,
            "Check the image's name and tag, and that the nodes may pull it (imagePullSecrets by podTemplate).",
        )
    if found := _NO_KEY.search(said):
        kind = "Secret" if found[2].lower() == "secret" else "ConfigMap"
        return Waiting(
            f'key {found[1]} in {kind} "{found[4]}" in namespace "{found[3]}"',
            f"{reason}: {said}",
            f"Add the key to the {kind}; the pod starts by itself then.",
        )
    if found := _NO_OBJECT.search(said):
        kind = {
            "secret": "Secret",
            "configmap": "ConfigMap",
            "persistentvolumeclaim": "PersistentVolumeClaim",
        }[found[1].lower()]
        return Waiting(
            f'{kind} "{found[2].rpartition("/")[2]}" in namespace "{namespace}"',
            f"{reason}: {said}",
            f"Create the {kind}; the pod starts by itself then.",
        )
    if "runAsNonRoot" in said:
        return Waiting(
            f'pod "{pod.name}", whose image wants to run as root',
            f"{reason}: {said}",
            "Use an image that runs as another user, or set a user in the pod template.",
        )
    return Waiting(
        f'pod "{pod.name}" to start ({reason})',
        f"{reason}: {said}",
        f"`kubectl describe pod {pod.name} -n {namespace}` shows more; it starts by itself once that is mended.",
    )


def for_pods(child: Child) -> Waiting:
    """What a child waits for that may not make its pods; `message` says why."""
    said = _short(child.message or "no reason given")
    if quota := for_quota(said):
        return Waiting(quota, said, "Raise the quota, or wait until others free their share.")
    if found := _UNSAID.search(said):
        return Waiting(
            f'{found[2]} in pods of {child.kind} {child.name}, which ResourceQuota "{found[1]}" wants to be told',
            said,
            "Set `resources` of serving, serving.judge, serving.promptWriter, training or sampler, or give the namespace "
            "a LimitRange with defaults.",
        )
    if "violates PodSecurity" in said:
        return Waiting(
            f"the namespace's Pod Security level to admit pods of {child.kind} {child.name}",
            said,
            "Our pods pass `restricted`; look at what the spec's podTemplate adds.",
        )
    if found := _NO_ACCOUNT.search(said):
        return Waiting(
            f'ServiceAccount "{found[1]}"',
            said,
            "Create it, or correct artifacts.credentials.serviceAccountName.",
        )
    return Waiting(
        f"pods of {child.kind} {child.name}",
        said,
        f"`kubectl describe {child.kind.lower()} {child.name}` shows more; it goes on by itself once that is mended.",
    )


def for_quota(said: str) -> str | None:
    """What a ResourceQuota lacks, for the field `waitingFor`; None if the text is of no quota."""
    quota = _QUOTA.search(said)
    return _quota_words(quota) if quota else None


def why_not_started(pod: Pod) -> str | None:
    """Why a pod does not run, in the words of scheduler or kubelet; None if they say nothing."""
    if pod.phase is not Phase.PENDING:
        return None
    if pod.waiting_reason is not None:
        return _short(f"{pod.waiting_reason}: {pod.waiting_message or 'no details given'}")
    return _short(pod.scheduling_message) if pod.scheduling_message else None


_CLAIM = re.compile(r'persistentvolumeclaim "([^"]+)" not found', re.IGNORECASE)
_LACKS = re.compile(r"(?:(\d+) )?Insufficient ([\w./-]+)")
_WANTED = re.compile(r"(\d+) GPUs wanted, (\d+) of \d+ free")
"""What `srr local` says of its one machine."""
_IMAGE_NAME = re.compile(r'[iI]mage (?:tag )?"([^"]+)"')
_NO_KEY = re.compile(
    r"(?:couldn't find key|references non-existent) (\S+) in (Secret|ConfigMap) ([\w.-]+)/([\w.-]+)",
    re.IGNORECASE,
)
_NO_OBJECT = re.compile(r'\b(secret|configmap|persistentvolumeclaim) "([^"]+)" not found', re.IGNORECASE)
_QUOTA = re.compile(
    r"exceeded quota: (?P<quota>[\w.-]+), requested: (?P<requested>\S+?), used: (?P<used>\S+?), "
    r"limited: (?P<limited>\S+?)\.?(?=\s|$)"
)
_UNSAID = re.compile(r"failed quota: ([\w.-]+): must specify ([\w./,-]+)")
"""A quota on a resource refuses containers that do not say how much of it they want."""
_NO_ACCOUNT = re.compile(r'serviceaccount "([^"]+)" not found', re.IGNORECASE)
_NAMES = {
    "cpu": "CPU",
    "memory": "memory",
    "ephemeral-storage": "disk (ephemeral storage)",
    "pods": "room for one more pod",
}


def _scheduling_reasons(said: str) -> list[tuple[str, str]]:
    """Resources that nodes lack: their name in Kubernetes, and in words ("gpu" for any device)."""
    found = [(name, "gpu" if "/" in name else _NAMES.get(name, name)) for _, name in _LACKS.findall(said)]
    if "Too many pods" in said:
        found.append(("pods", _NAMES["pods"]))
    if _WANTED.search(said):
        found.append(("GPUs", "gpu"))
    # What is rarest first.
    return sorted(found, key=lambda lack: lack[1] != "gpu")


def _gpu_words(pod: str, gpus: int, said: str) -> str:
    """As `_quota_words`. A scheduler does not tell how many are free, only that no node has enough."""
    if counted := _WANTED.search(said):
        free = int(counted[2])
        return f"{_gpus(gpus - free)}: {gpus} requested, {free} free"
    return f'{_gpus(gpus)}: {gpus} requested by pod "{pod}", no node has {"it" if gpus == 1 else "them"} free'


def _gpus(number: int) -> str:
    return f"{number} {'GPU' if number == 1 else 'GPUs'}"


def _counted(resource: str, number: int) -> str:
    """`pods`, `count/jobs.batch` and the like as people say them."""
    plural = resource.removeprefix("count/").partition(".")[0]
    return plural.removesuffix("s") if number == 1 and plural.endswith("s") else plural


def _quota_words(quota: re.Match[str]) -> str:
    """ "2 GPUs: 8 requested, 6 free" where the numbers are plain, else the resource's name."""
    requested, used, limited = (_amounts(quota[name]) for name in ("requested", "used", "limited"))
    name = quota["quota"]
    for resource, asked in requested.items():
        try:
            free = int(limited[resource]) - int(used[resource])
            short = int(asked) - free
        except (KeyError, ValueError):
            continue
        if short <= 0:
            continue
        what = _gpus(short) if "gpu" in resource else f"{short} {_counted(resource, short)}"
        return f'{what}: {asked} requested, {max(0, free)} free (ResourceQuota "{name}")'
    return (
        f'ResourceQuota "{name}": {quota["requested"]} requested, {quota["used"]} of {quota["limited"]} used'
    )


def _amounts(text: str) -> dict[str, str]:
    pairs: Iterable[tuple[str, str, str]] = (part.partition("=") for part in text.split(","))
    return {name: value for name, _, value in pairs}


def _plain(image: str) -> str:
    """The name as people wrote it: a container runtime fills the default registry in."""
    return image.removeprefix("docker.io/").removeprefix("library/")


def _short(text: str) -> str:
    """One line without what the scheduler says of preemption, and no longer than a status message bears."""
    line = " ".join(text.split()).partition(" preemption: ")[0].rstrip(" .,")
    line = line.removesuffix("no new claims to deallocate").rstrip(" .,")
    return line if len(line) <= _MAX_SAID else f"{line[: _MAX_SAID - 1]}…"
