"""`srr operator` as a process against a real API server: first children, restarts, leadership, deletion, an idle run."""

import asyncio
import copy
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.cluster.faults.operator_process import OperatorProcess, free_port, start_operator
from tests.cluster.faults.runs import SPEC
from tests.cluster.testbed.handle import Cluster
from tests.cluster.testbed.kubectl import Kubectl
from tests.support.builders import merged

from selfrewarding.cluster.lease import LeaseTimes
from selfrewarding.controller.leader import LOST

pytestmark = [pytest.mark.usefixtures("crd"), pytest.mark.timeout(180)]
TIMES = LeaseTimes()
AT_ONCE = TIMES.leader + 2.0
"""Seconds until a leader has looked at its Lease again, on a busy machine."""
Start = Callable[..., Any]


def a_run(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "selfrewarding.dev/v1alpha1",
        "kind": "SelfRewardingRun",
        "metadata": {"name": "demo"},
        "spec": merged(copy.deepcopy(SPEC), {"artifacts": {"uri": "s3://runs/demo"}} | (changes or {})),
    }


@pytest.fixture
async def start(api_server: Cluster, api_namespace: Kubectl, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts operators for the test's namespace; kills what is left of them."""
    started: list[OperatorProcess] = []

    async def begin(name: str = "operator", **settings: str) -> OperatorProcess:
        settings = {"NAMESPACES": api_namespace.namespace, "METRICS_PORT": str(free_port())} | settings
        operator = await start_operator(api_server.kubeconfig, tmp_path, name, **settings)
        operator.settings = settings
        started.append(operator)
        await operator.healthy()
        return operator

    yield begin
    for operator in started:
        await operator.kill()


def electing(kube: Kubectl) -> dict[str, str]:
    return {"LEADER_ELECTION": "true", "LEASE_NAMESPACE": kube.namespace}


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What the condition returns once that is true."""
    end = time.monotonic() + seconds
    while True:
        found = await asyncio.to_thread(condition)
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds:g} s"
        await asyncio.sleep(0.05)


def children(kube: Kubectl) -> dict[str, str]:
    """UIDs of Jobs and our ConfigMaps by kind and name."""
    selector = "app.kubernetes.io/managed-by=selfrewarding-operator"
    return {
        f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["uid"]
        for kind in ("jobs", "configmaps")
        for one in kube.list(kind, selector)
    }


def holder(kube: Kubectl) -> str:
    leases = kube.list("leases")
    return leases[0]["spec"].get("holderIdentity", "") if leases else ""


async def figures(operator: OperatorProcess) -> dict[str, float]:
    """Requests to the API server so far, by verb and kind."""
    async with aiohttp.ClientSession() as session:
        port = operator.settings["METRICS_PORT"]
        text = await (await session.get(f"http://127.0.0.1:{port}/metrics")).text()
    found: dict[str, float] = {}
    for kind, verb, value in re.findall(
        r'srr_cluster_requests_total\{code="\d+",kind="(\w+)",verb="(\w+)"\} (\S+)', text
    ):
        found[f"{verb} {kind}"] = found.get(f"{verb} {kind}", 0.0) + float(value)
    return found


async def test_an_applied_run_has_its_first_children_at_once_and_a_restart_makes_none_twice(
    start: Start, api_namespace: Kubectl
) -> None:
    operator = await start()
    api_namespace.apply(a_run())
    made = await until(lambda: (found := children(api_namespace)) and len(found) == 2 and found, 5.0)
    assert {name.partition("/")[0] for name in made} == {"Job", "ConfigMap"}
    run = api_namespace.get("srr", "demo")
    assert run["metadata"]["finalizers"] == ["selfrewarding.dev/finalizer"]
    assert not any("kopf" in name for name in run["metadata"].get("annotations", {}))

    await operator.kill()
    again = await start("again")
    await until(lambda: api_namespace.get("srr", "demo")["status"].get("stage"))
    before = api_namespace.get("srr", "demo")["metadata"]["resourceVersion"]
    await asyncio.sleep(2.0)
    assert children(api_namespace) == made
    assert api_namespace.get("srr", "demo")["metadata"]["resourceVersion"] == before
    asked = await figures(again)
    assert not [one for one in asked if one.startswith(("create", "patch", "delete"))], asked


async def test_a_suspended_run_costs_no_write_and_no_list(start: Start, api_namespace: Kubectl) -> None:
    operator = await start()
    api_namespace.apply(a_run({"suspend": True}))
    await until(lambda: api_namespace.get("srr", "demo").get("status", {}).get("observedGeneration"))
    await asyncio.sleep(1.0)
    before = await figures(operator)
    await asyncio.sleep(5.0)
    after = await figures(operator)
    assert after == before


async def test_a_deleted_run_goes_with_its_children(start: Start, api_namespace: Kubectl) -> None:
    await start()
    api_namespace.apply(a_run())
    await until(lambda: len(children(api_namespace)) == 2)
    began = time.monotonic()
    await asyncio.to_thread(api_namespace.delete, "srr", "demo")
    assert time.monotonic() - began < 5.0
    await until(lambda: not children(api_namespace), 60.0)


async def test_a_stop_is_quick_and_clean(start: Start, api_namespace: Kubectl) -> None:
    operator = await start(**electing(api_namespace))
    await until(lambda: holder(api_namespace) == "operator")
    began = time.monotonic()
    assert await operator.stop() == 0
    assert time.monotonic() - began < 5.0
    assert holder(api_namespace) == ""


async def test_survival_rule_10_a_standby_takes_over_within_two_seconds_of_a_leader_that_ends(
    start: Start, api_namespace: Kubectl
) -> None:
    first = await start("first", **electing(api_namespace))
    await until(lambda: holder(api_namespace) == "first")
    await start("second", **electing(api_namespace))  # healthy, though it waits
    first.process.send_signal(signal.SIGTERM)
    await until(lambda: holder(api_namespace) == "", 10.0)
    began = time.monotonic()
    await until(lambda: holder(api_namespace) == "second", 10.0)
    assert time.monotonic() - began < 2.0
    api_namespace.apply(a_run())
    await until(lambda: len(children(api_namespace)) == 2, 5.0)


async def test_survival_rule_10_a_standby_takes_over_from_a_leader_that_was_killed(
    start: Start, api_namespace: Kubectl
) -> None:
    first = await start("first", **electing(api_namespace))
    await until(lambda: holder(api_namespace) == "first")
    api_namespace.apply(a_run())
    made = await until(lambda: (found := children(api_namespace)) and len(found) == 2 and found, 5.0)
    second = await start("second", **electing(api_namespace))
    await first.kill()
    await until(lambda: holder(api_namespace) == "second", TIMES.duration + 5.0)
    await until(lambda: "leads" in second.tail())
    await asyncio.sleep(2.0)
    assert children(api_namespace) == made


async def test_survival_rule_10_a_leader_that_was_frozen_ends_at_once_and_writes_nothing(
    start: Start, api_namespace: Kubectl
) -> None:
    first = await start("first", **electing(api_namespace))
    await until(lambda: holder(api_namespace) == "first")
    second = await start("second", **electing(api_namespace))
    first.process.send_signal(signal.SIGSTOP)
    await until(lambda: holder(api_namespace) == "second", TIMES.duration + 5.0)
    await second.kill()  # so that only the frozen one could act on what comes now
    api_namespace.apply(a_run())
    first.process.send_signal(signal.SIGCONT)
    assert await asyncio.wait_for(first.process.wait(), AT_ONCE) == LOST
    assert children(api_namespace) == {}


async def test_survival_rule_10_a_leader_whose_lease_somebody_took_ends(
    start: Start, api_namespace: Kubectl
) -> None:
    operator = await start(**electing(api_namespace))
    await until(lambda: holder(api_namespace) == "operator")
    patch = '{"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 3600}}'
    api_namespace("patch", "lease", "selfrewarding-operator", "--type=merge", f"--patch={patch}")
    assert await asyncio.wait_for(operator.process.wait(), AT_ONCE) == LOST


async def test_bad_settings_end_in_one_sentence(start: Start, api_namespace: Kubectl, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="SRR_HEALTH_PORT") as raised:
        await start(HEALTH_PORT="none")
    assert "Traceback" not in str(raised.value)
