"""The user's `podTemplate` over ours, and the guard that it takes nothing away that the programs need.

Neighbours: `pod` makes our template, `merge` merges.
"""

from collections.abc import Mapping
from typing import Any

from selfrewarding.api.labels import GROUP
from selfrewarding.manifests.errors import InvalidPodTemplate
from selfrewarding.manifests.merge import strategic_merge

OWN_ENVIRONMENT = "SRR_"


def with_users_template(
    ours: dict[str, Any], theirs: Mapping[str, Any] | None, field: str, program: str
) -> dict[str, Any]:
    """Our template with the user's merged over it; `program` is the name of our main container.

    Raises InvalidPodTemplate if it cannot be merged, or if the result lacks what the programs need: a container of
    ours, one of its mounts, its SRR_ variables, the configuration, our labels, the restart policy.
    """
    if not theirs:
        return ours
    unknown = sorted(set(theirs) - {"metadata", "spec", "apiVersion", "kind"})
    if unknown:
        raise InvalidPodTemplate(f"{field}.{unknown[0]}: a pod template has `metadata` and `spec`")
    wanted = {name: theirs[name] for name in ("metadata", "spec") if name in theirs}
    merged = strategic_merge(ours, wanted, field)
    for place in ("metadata", "spec"):
        if not isinstance(merged.get(place), Mapping):
            raise InvalidPodTemplate(f"{field}.{place} takes our `{place}` away: name single fields instead")
    _guard_labels(ours, merged, field)
    _guard_spec(ours["spec"], merged["spec"], f"{field}.spec", program)
    return merged


def _guard_labels(ours: Mapping[str, Any], merged: Mapping[str, Any], field: str) -> None:
    found = merged["metadata"].get("labels") or {}
    for name, value in ours["metadata"]["labels"].items():
        if found.get(name) != value:
            raise InvalidPodTemplate(
                f"{field}.metadata.labels.{name}: this label is set by the operator, leave it out"
            )
    for name in sorted(set(found) - set(ours["metadata"]["labels"])):
        if name.startswith(f"{GROUP}/"):
            raise InvalidPodTemplate(
                f"{field}.metadata.labels.{name}: labels of {GROUP} are the operator's, use another"
            )


def _guard_spec(ours: Mapping[str, Any], merged: Mapping[str, Any], field: str, program: str) -> None:
    if merged.get("restartPolicy") != ours.get("restartPolicy"):
        raise InvalidPodTemplate(
            f"{field}.restartPolicy: retries are the operator's (limits.retries), leave it out"
        )
    volumes = _by(merged, "volumes", "name")
    for volume in ours["volumes"]:
        if volume["name"] not in volumes:
            raise InvalidPodTemplate(
                f"{field}.volumes[{volume['name']}]: our containers mount it; only replace its source"
            )
        if "configMap" in volume and volumes[volume["name"]] != volume:
            raise InvalidPodTemplate(
                f"{field}.volumes[{volume['name']}] comes from the operator, choose another name"
            )
    for kind in ("initContainers", "containers"):
        found = _by(merged, kind, "name")
        for mine in ours.get(kind, []):
            place = f"{field}.{kind}[{mine['name']}]"
            if mine["name"] not in found:
                raise InvalidPodTemplate(f"{place}: this container runs the stage, it cannot be removed")
            _guard_container(mine, found[mine["name"]], place)
        for name, other in found.items():
            if not other.get("image"):
                raise InvalidPodTemplate(
                    f"{field}.{kind}[{name}] has no image: give one, or name the container {program!r} if you mean ours"
                )


def _guard_container(ours: Mapping[str, Any], merged: Mapping[str, Any], field: str) -> None:
    mounts = _by(merged, "volumeMounts", "mountPath")
    for mount in ours["volumeMounts"]:
        if mounts.get(mount["mountPath"], {}).get("name") != mount["name"]:
            raise InvalidPodTemplate(
                f"{field}.volumeMounts[{mount['mountPath']}]: the program needs this mount, leave it"
            )
    found = _by(merged, "env", "name")
    for entry in ours["env"]:
        if entry["name"].startswith(OWN_ENVIRONMENT) and found.get(entry["name"]) != entry:
            raise InvalidPodTemplate(f"{field}.env[{entry['name']}] is set by the operator, leave it out")


def _by(block: Mapping[str, Any], name: str, key: str) -> dict[str, Any]:
    return {item[key]: item for item in block.get(name) or []}
