"""The rights that the chart gives, against the API server's audit log of an operator that has no others.

The operator runs as the chart's ServiceAccount through whole runs: nothing that it asks for is refused, and no right is
there that it never asks for, but for those whose reason stands below.
"""

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import yaml
from tests.cluster.chart.release import ACCOUNT, NAME, NAMESPACE, install
from tests.cluster.faults.api_client import RUNS
from tests.cluster.faults.operator_process import operating
from tests.cluster.faults.player import Player, playing
from tests.cluster.faults.runs import create_run, install_crds, run_in, until, until_finished
from tests.cluster.testbed.handle import Cluster
from tests.cluster.testbed.kubectl import Kubectl
from tests.support.helm import Helm

Right = tuple[str, str, str]
"""API group, resource with its subresource, verb."""

CHILDREN = (
    ("", "configmaps"), ("", "services"), ("networking.k8s.io", "networkpolicies"), ("apps", "deployments"),
    ("batch", "jobs"), ("kubeflow.org", "pytorchjobs"),
)  # fmt: skip
SELDOM: set[Right] = {
    # No request: the admission plugin OwnerReferencesPermissionEnforcement asks whether the owner may be held back.
    ("selfrewarding.dev", "selfrewardingruns/finalizers", "update"),
    # After a crash between a creation and its answer, and for an object of which nothing was heard for a minute.
    *((group, resource, "get") for group, resource in CHILDREN),
    # An event that an earlier start of the operator posted is counted up.
    ("", "events", "get"),
    ("", "events", "patch"),
    # What the cluster says of a pod or child that does not come on.
    ("", "events", "list"),
    # A gate that holds scales its servers to zero.
    ("apps", "deployments", "patch"),
}


async def test_an_operator_with_the_charts_rights_alone_finishes_runs(
    chart_server: Cluster, helm: Helm, team: Kubectl, repository: Path, tmp_path: Path
) -> None:
    install(helm)
    namespace = team.namespace
    own = _kubeconfig_of(team, chart_server.kubeconfig, tmp_path)
    lease = {"LEADER_ELECTION": "true", "LEASE_NAMESPACE": NAMESPACE, "LEASE_NAME": NAME}
    async with playing(chart_server.kubeconfig) as player:
        await install_crds(player.api, repository)
        async with operating(own, tmp_path, **lease) as operator:
            await create_run(player.api, namespace)
            run = await until_finished(player, namespace, 120)
            assert run["status"]["models"], operator.tail()
            await create_run(player.api, namespace, store="another", name="suspended")
            await until(player, "the first job of the second run", lambda: _is_busy(player, namespace), 60)
            await player.api.patch(RUNS, namespace, "suspended", {"spec": {"suspend": True}})
            await until(player, "the suspension", lambda: _is_suspended(player, namespace), 60)
            for name in (run["metadata"]["name"], "suspended"):
                await player.api.delete(RUNS, namespace, name)
                await until(player, f"the end of {name}", partial(_is_gone, player, namespace, name), 60)
    await asyncio.sleep(1.5)  # the audit log is written in batches of at most a second

    asked = list(_asked(chart_server.audit_log))
    assert [entry for entry, code in asked if code == 403] == []
    used = {entry for entry, _ in asked}
    given = _given(helm)
    assert used <= given
    assert given - used <= SELDOM


def _is_busy(player: Player, namespace: str) -> bool:
    return any(
        job["metadata"]["labels"].get("selfrewarding.dev/run") == "suspended"
        for job in player.census.present["jobs"].values()
        if job["metadata"]["namespace"] == namespace
    )


def _is_gone(player: Player, namespace: str, name: str) -> bool:
    return run_in(player, namespace, name) is None


def _is_suspended(player: Player, namespace: str) -> bool:
    conditions = (run_in(player, namespace, "suspended") or {}).get("status", {}).get("conditions", [])
    return any(one["type"] == "Suspended" and one["status"] == "True" for one in conditions)


def _kubeconfig_of(kube: Kubectl, admin: Path, folder: Path) -> Path:
    """A kubeconfig that holds a token of the chart's ServiceAccount and nothing else."""
    token = kube.of(NAMESPACE)("create", "token", NAME, "--duration=1h").strip()
    document = yaml.safe_load(admin.read_text(encoding="utf-8"))
    for user in document["users"]:
        user["user"] = {"token": token}
    found = folder / "kubeconfig"
    found.write_text(yaml.safe_dump(document), encoding="utf-8")
    return found


def _asked(audit_log: Path) -> Iterator[tuple[Right, int]]:
    """Every request of the operator's for an object, and the answer's code."""
    with audit_log.open(encoding="utf-8") as lines:
        for line in lines:
            event = json.loads(line)
            if (
                event["user"]["username"] != ACCOUNT
                or "impersonatedUser" in event
                or "objectRef" not in event
            ):
                continue
            place = event["objectRef"]
            resource = "/".join(filter(None, (place["resource"], place.get("subresource"))))
            yield (place.get("apiGroup", ""), resource, event["verb"]), event["responseStatus"]["code"]


def _given(helm: Helm) -> set[Right]:
    """All that the chart's roles for the operator hold."""
    roles = [
        role
        for role in helm.objects()
        if role["kind"] in ("Role", "ClusterRole") and role["metadata"]["name"] in (NAME, f"{NAME}-leader")
    ]
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
