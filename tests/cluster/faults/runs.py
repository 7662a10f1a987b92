"""Runs for the fault tests: the smallest that makes M2, waiting for its end, and its status without times.

Must not: start an operator or a player. Neighbours: the tests beside this file; `invariants` judges what happened.
"""

import asyncio
import copy
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.faults.api_client import CRDS, NAMESPACES, PYTORCH_JOBS, RUNS, Api, ApiError, Raw
from tests.cluster.faults.player import Player
from tests.support.builders import merged

NAME = "demo"
SPEC: Raw = {
    "iterations": 2,
    "model": {"uri": "s3://models/base"},
    "seedData": {
        "instructions": {"uri": "s3://data/instructions.jsonl", "format": "PromptResponse"},
        # Own EFT rows and nothing held out: no baseline, no BuildEvaluations, no Evaluate.
        "evaluations": {"uri": "s3://data/evaluations.jsonl", "format": "Evaluations"},
    },
    "promptGeneration": {"count": 6},
}
STAGES = ("Prepare", "Resolve", "SupervisedFineTune", "GeneratePrompts", "Rollout", "BuildPreferences",
          "PreferenceOptimize")  # fmt: skip
"""The stages of such a run that others build upon, in order."""
REPORTS = 2
"""One for each iteration, beside them."""
PYTORCH_JOB_CRD: Raw = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "pytorchjobs.kubeflow.org"},
    "spec": {
        "group": "kubeflow.org",
        "names": {
            "kind": "PyTorchJob",
            "listKind": "PyTorchJobList",
            "plural": "pytorchjobs",
            "singular": "pytorchjob",
        },
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            name: {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                            for name in ("spec", "status")
                        },
                    }
                },
            }
        ],
    },
}
"""As much of the training operator's CRD as the API server needs; the real one is in the end-to-end tests' cluster."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def fresh(name: str) -> str:
    """A namespace's name that nothing used before, as one API server serves many tests."""
    return f"{name}-{secrets.token_hex(3)}"


async def install_crds(api: Api, repository: Path) -> None:
    """Our CRD and PyTorchJob's, unless they are there; returns when both are served."""
    ours = yaml.safe_load((repository / "crds" / "selfrewardingruns.yaml").read_text())
    for crd in (ours, PYTORCH_JOB_CRD):
        await api.ensure(CRDS, None, crd)
    for kind in (RUNS, PYTORCH_JOBS):
        while True:
            try:
                await api.list(kind)
                break
            except ApiError as error:
                if error.code not in (404, 429):  # not served yet
                    raise
                await asyncio.sleep(0.1)


async def create_run(
    api: Api,
    namespace: str,
    changes: Mapping[str, Any] | None = None,
    *,
    store: str | None = None,
    name: str = NAME,
) -> Raw:
    """A namespace with a run in it; runs with the same `store` share results."""
    await api.ensure(
        NAMESPACES, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    )
    spec = merged(copy.deepcopy(SPEC), {"artifacts": {"uri": f"s3://runs/{store or namespace}"}})
    body = {
        "apiVersion": "selfrewarding.dev/v1alpha1",
        "kind": "SelfRewardingRun",
        "metadata": {"name": name},
        "spec": merged(spec, changes or {}),
    }
    return await api.create(RUNS, namespace, body)


def run_in(player: Player, namespace: str, name: str = NAME) -> Raw | None:
    """The run as the watch showed it last."""
    return player.census.run(namespace, name)


def condition(run: Raw | None, kind: str) -> tuple[str, str]:
    """Status and reason of a condition; Unknown if it is not there."""
    for one in (run or {}).get("status", {}).get("conditions", []):
        if one["type"] == kind:
            return one["status"], one.get("reason", "")
    return "Unknown", ""


def is_finished(run: Raw | None) -> bool:
    """Whether the run says that it has ended."""
    return any(condition(run, kind)[0] == "True" for kind in ("Succeeded", "Failed"))


@dataclass
class TookTooLong(Exception):
    """A run did not get where it should."""

    text: str


async def until(player: Player, what: str, true: Any, seconds: float = 120.0) -> None:
    """Wait until `true()` is. Raises TookTooLong with what all unfinished runs say of themselves."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TookTooLong(f"{what}: not within {seconds} s\n{describe(player)}")
        await asyncio.sleep(0.05)


async def until_finished(player: Player, namespace: str, seconds: float = 120.0) -> Raw:
    """Wait for a run's end; the run then."""
    await until(player, f"the end of {namespace}", lambda: is_finished(run_in(player, namespace)), seconds)
    run = run_in(player, namespace)
    assert run is not None
    return run


def describe(player: Player) -> str:
    """Where the unfinished runs stand, and what children and pods they have."""
    lines = []
    for run in player.census.present[RUNS.plural].values():
        if is_finished(run):
            continue
        status, namespace = run.get("status", {}), run["metadata"]["namespace"]
        ready = condition(run, "Ready")
        lines.append(
            f"{namespace}: {status.get('stage')} {status.get('iteration')}, {ready}, waiting for "
            f"{status.get('waitingFor')}, attempts {status.get('attempts')}"
        )
        for kind, objects in player.census.present.items():
            if kind in ("jobs", "pytorchjobs", "deployments", "pods"):
                lines += [
                    f"    {kind} {one['metadata']['name']} {one.get('status', {}).get('phase', '')} "
                    f"deleting={one['metadata'].get('deletionTimestamp')}"
                    for one in objects.values()
                    if one["metadata"]["namespace"] == namespace
                ]
    return "\n".join(lines[:80]) or "(no run is unfinished)"


def comparable(run: Raw) -> Raw:
    """A status without times and without what names the run: equal for two runs that went the same way."""
    status = copy.deepcopy(run["status"])
    status["results"] = {
        f"{summary['stage']}-{summary['iteration']}": summary
        for summary in status.get("results", {}).values()
    }
    # Whether a hand-over was seen is a question of time too: a pod of the player may run for no time at all.
    for place in (status, *status["results"].values(), *status.get("attempts", {}).values()):
        for name in ("gpuSeconds", "handoverSeconds"):
            place.pop(name, None)
    found = _masked(status, run["metadata"]["namespace"])
    assert isinstance(found, dict)
    return found


def _masked(value: Any, namespace: str) -> Any:
    if isinstance(value, dict):
        return {name: _masked(one, namespace) for name, one in value.items()}
    if isinstance(value, list):
        return [_masked(one, namespace) for one in value]
    if isinstance(value, str):
        return _TIME.sub("<time>", value).replace(namespace, "<namespace>")
    return value
