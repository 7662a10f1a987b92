"""The Job that clears a deleted run's artifacts away."""

import json
import re

import pytest
from manifest_scenarios import CPU, PAPER, TEMPLATES, UID, merged, plan

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject
from selfrewarding.manifests import retirement_job

BLOCKS = {"plain": {}, "secret": CPU, "service account": PAPER, "templates": TEMPLATES}


def job(block: dict[str, object], *, attempt: int = 1, name: str = "demo", uid: str = UID) -> RawObject:
    return retirement_job(plan(block, name=name, uid=uid).context, attempt)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_it_passes_the_restricted_level_and_asks_for_no_gpu(block: dict[str, object]) -> None:
    made = job(block)
    spec = made["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"
    (one,) = spec["containers"]
    assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert one["securityContext"]["readOnlyRootFilesystem"] is True
    assert "gpu" not in json.dumps(one["resources"])
    for entry in one["env"]:
        if str(entry.get("value", "")).startswith("/"):
            mounts = [mount["mountPath"] for mount in one["volumeMounts"]] + [one["terminationMessagePath"]]
            assert any(entry["value"].startswith(mount) for mount in mounts), entry
    assert not [
        volume
        for volume in spec["volumes"]
        if volume.get("configMap", {}).get("name") not in (None, "site-ca")
    ]


def test_attempts_and_runs_of_one_name_have_jobs_of_their_own() -> None:
    names = [
        job({})["metadata"]["name"],
        job({}, attempt=2)["metadata"]["name"],
        job({}, uid="another")["metadata"]["name"],
        job({}, name="x" * 200)["metadata"]["name"],
    ]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 52 for name in names)


def test_no_kueue_queue_holds_it_up_and_no_other_pods_are_its() -> None:
    made = job(merged(PAPER, {}))
    assert "kueue.x-k8s.io/queue-name" not in made["metadata"]["labels"]
    assert labels.ARTIFACT not in made["metadata"]["labels"]
    assert labels.HOLDER not in made["metadata"]["labels"]
