"""What no node is needed for: rights that are missing, a kind that is missing, a status of an older release.

The real operator, with the chart's own rights and no others where rights are what a test is about, against a real API
server; the player of the fault tests completes pods.
"""

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import yaml
from tests.cluster.bad_input.playing import LIMIT
from tests.cluster.faults.api_client import CRDS
from tests.cluster.faults.operator_process import OperatorProcess, operating
from tests.cluster.faults.player import Player, playing
from tests.cluster.faults.runs import (
    NAME,
    PYTORCH_JOB_CRD,
    condition,
    create_run,
    fresh,
    install_crds,
    run_in,
    until,
    until_finished,
)
from tests.cluster.testbed import binaries
from tests.cluster.testbed.handle import Cluster
from tests.cluster.testbed.kubectl import Kubectl
from tests.support.helm import Helm

from selfrewarding.api import labels

ACCOUNT, CHART_NAMESPACE = "srr-selfrewarding-operator", "training"
"""What `Helm.template` calls the operator's ServiceAccount and its namespace."""


async def test_a_namespace_that_gives_the_operator_too_few_rights_is_told_which_and_hinders_no_other(
    api_server: Cluster, api_kube: Kubectl, repository: Path, tmp_path: Path
) -> None:
    """One namespace has all of the chart's rights, one lacks the right to make Jobs, one has no RoleBinding at all."""
    good, limited, closed = spaces = [fresh(f"rights-{name}") for name in ("good", "limited", "closed")]
    for namespace in (*spaces, CHART_NAMESPACE):
        api_kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    objects = _rights(tmp_path, spaces)
    _apply(api_kube, [_without_jobs(one) if _is(one, "Role", limited) else one for one in objects])
    api_kube.of(closed).delete("rolebinding", ACCOUNT)
    own = _kubeconfig_of(api_kube, tmp_path)
    async with playing(api_server.kubeconfig) as player:
        await install_crds(player.api, repository)
        async with operating(own, tmp_path, NAMESPACES=",".join(spaces)) as operator:
            for namespace in spaces:
                await create_run(player.api, namespace)
            began = monotonic()
            await _until(
                operator, player, "Forbidden", lambda: _stalled(player, limited) == ("True", "Forbidden")
            )
            assert monotonic() - began <= LIMIT
            message = _message(player, limited)
            for said in (
                f'may not create jobs in namespace "{limited}"',
                'the verb "create" on "jobs"',
                "the run goes on",
            ):
                assert said in message
            assert not [
                pod
                for pod in player.census.present["pods"].values()
                if pod["metadata"]["namespace"] == limited
            ]
            await until_finished(player, good, 120)
            assert "status" not in (run_in(player, closed) or {}), "nobody may write there"

            _apply(api_kube, objects)  # all rights, everywhere
            for namespace in (limited, closed):
                run = await until_finished(player, namespace, 150)
                assert condition(run, "Succeeded")[0] == "True"


async def test_without_the_kind_pytorchjob_the_run_says_what_to_install(
    api_server: Cluster, repository: Path, tmp_path: Path
) -> None:
    namespace = fresh("no-kind")
    async with playing(api_server.kubeconfig) as player:
        await install_crds(player.api, repository)
        await player.api.delete(CRDS, None, PYTORCH_JOB_CRD["metadata"]["name"])
        try:
            async with operating(api_server.kubeconfig, tmp_path) as operator:
                await create_run(player.api, namespace)
                began = monotonic()
                told = lambda: _stalled(player, namespace) == ("True", "KindMissing")  # noqa: E731
                await _until(operator, player, "KindMissing", told)
                assert monotonic() - began <= LIMIT
                message = _message(player, namespace)
                assert "PyTorchJob (kubeflow.org/v1): install the Kubeflow training operator" in message
                status = (run_in(player, namespace) or {})["status"]
                assert status["waitingFor"] == "the kind PyTorchJob (Kubeflow training operator)"
                assert not _holding_gpus(player, namespace)
        finally:
            await install_crds(player.api, repository)


@pytest.mark.parametrize(
    "stale",
    [
        pytest.param(
            {
                "observedGeneration": 1,
                "stage": "Prepare",
                "attempts": {"0123456789abcdef": {"attempt": 3, "failures": 3, "lastFailure": "an older key"}},
                "results": {"0123456789abcdef": {"stage": "Prepare", "iteration": 0, "digest": "d"}},
                "conditions": [
                    {"type": "Ready", "status": "False", "reason": "RetriesExhausted", "message": "old words",
                     "lastTransitionTime": "2025-01-01T00:00:00Z", "observedGeneration": 1},
                    {"type": "Failed", "status": "True", "reason": "RetriesExhausted", "message": "old words",
                     "lastTransitionTime": "2025-01-01T00:00:00Z", "observedGeneration": 1},
                ],
            },
            id="failed, by keys that are no more",
        ),
        pytest.param({"waitingFor": "what an older release waited for", "gpus": 8}, id="before conditions"),
    ],
)  # fmt: skip
async def test_a_status_of_an_older_release_is_picked_up(
    stale: dict[str, Any], api_server: Cluster, repository: Path, tmp_path: Path
) -> None:
    """The operator was away while such a status was written; it finds out anew what is so, and the run succeeds."""
    namespace = fresh("stale")
    async with playing(api_server.kubeconfig) as player:
        await install_crds(player.api, repository)
        await create_run(player.api, namespace)
        kube = Kubectl(api_server.kubeconfig, namespace)
        kube("patch", "selfrewardingruns", NAME, "--subresource=status", "--type=merge", "--patch",
             json.dumps({"status": stale}))  # fmt: skip
        async with operating(api_server.kubeconfig, tmp_path) as operator:
            try:
                await until(player, "the run's success", lambda: _succeeded(player, namespace), 150)
            except BaseException:
                print(operator.tail(60))
                raise
        status = (run_in(player, namespace) or {})["status"]
        assert condition({"status": status}, "Failed")[0] == "False"
        for word in ("old words", "an older", "0123456789abcdef"):
            assert word not in json.dumps(status)


# ---------------------------------------------------------------------- looking


def _stalled(player: Player, namespace: str) -> tuple[str, str]:
    return condition(run_in(player, namespace), "Stalled")


def _succeeded(player: Player, namespace: str) -> bool:
    return condition(run_in(player, namespace), "Succeeded") == ("True", "AllIterationsDone")


def _message(player: Player, namespace: str) -> str:
    found = (run_in(player, namespace) or {})["status"]["conditions"]
    return str(next(one["message"] for one in found if one["type"] == "Stalled"))


def _holding_gpus(player: Player, namespace: str) -> list[str]:
    pods = [
        pod for pod in player.census.present["pods"].values() if pod["metadata"]["namespace"] == namespace
    ]
    return [pod["metadata"]["name"] for pod in pods if labels.HOLDER in pod["metadata"]["labels"]]


async def _until(operator: OperatorProcess, player: Player, what: str, true: Callable[[], bool]) -> None:
    try:
        await until(player, what, true, 2 * LIMIT)
    except BaseException:
        print(operator.tail(60))
        raise


# ---------------------------------------------------------------------- rights


def _rights(folder: Path, namespaces: list[str]) -> list[dict[str, Any]]:
    """The chart's ServiceAccount, Roles and RoleBindings for an operator of these namespaces alone."""
    values = {"watchNamespaces": namespaces}
    found = yaml.safe_load_all(Helm(binaries.path("helm"), folder).template(values))
    return [one for one in found if one and one["kind"] in ("ServiceAccount", "Role", "RoleBinding")]


def _apply(kube: Kubectl, objects: list[dict[str, Any]]) -> None:
    for one in objects:
        kube.of(one["metadata"]["namespace"]).apply(one)


def _is(one: dict[str, Any], kind: str, namespace: str) -> bool:
    return bool(one["kind"] == kind and one["metadata"].get("namespace") == namespace)


def _without_jobs(role: dict[str, Any]) -> dict[str, Any]:
    """A Role that lets Jobs be watched and deleted, and not made."""
    rules = [
        rule | {"verbs": [verb for verb in rule["verbs"] if verb != "create"]}
        if "jobs" in rule["resources"]
        else rule
        for rule in role["rules"]
    ]
    return role | {"rules": rules}


def _kubeconfig_of(kube: Kubectl, folder: Path) -> Path:
    """A kubeconfig that holds a token of the chart's ServiceAccount and nothing else."""
    token = kube.of(CHART_NAMESPACE)("create", "token", ACCOUNT, "--duration=1h").strip()
    document = yaml.safe_load(kube.kubeconfig.read_text(encoding="utf-8"))
    for user in document["users"]:
        user["user"] = {"token": token}
    found = folder / "kubeconfig"
    found.write_text(yaml.safe_dump(document), encoding="utf-8")
    return found
