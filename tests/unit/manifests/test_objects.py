"""What holds for every object that is made: metadata, Pod Security, mounts, paths, and Kubernetes' own schema."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes.client import (
    V1ConfigMap,
    V1Deployment,
    V1Job,
    V1NetworkPolicy,
    V1PodTemplateSpec,
    V1Service,
)
from manifest_scenarios import CPU, JUDGE, LLAMA2_70B, PAPER, TEMPLATES, UID, WRITER, Plan, plan

from selfrewarding.api import labels
from selfrewarding.api.run import RawObject
from selfrewarding.contract import environment
from selfrewarding.contract.stages import TRAINING, StageKind

PLANS = {
    "plain": plan(),
    "cpu": plan(CPU),
    "paper": plan(PAPER, counts=LLAMA2_70B),
    "judge": plan(JUDGE),
    "writer": plan(WRITER),
    "templates": plan(TEMPLATES),
    "shards": plan({"sampler": {"parallelism": 16}}),
    "unmeasured": plan(counts={}),
    "many nodes": plan({"training": {"nodes": 16}, "sft": {"batchSize": 16}}),
}
MODELS = {
    "ConfigMap": V1ConfigMap,
    "Service": V1Service,
    "NetworkPolicy": V1NetworkPolicy,
    "Deployment": V1Deployment,
    "Job": V1Job,
}
GROUP_VERSIONS = {
    "ConfigMap": "v1",
    "Service": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "Deployment": "apps/v1",
    "Job": "batch/v1",
    "PyTorchJob": "kubeflow.org/v1",
}

every_plan = pytest.mark.parametrize("made", PLANS.values(), ids=PLANS)


def templates(one: RawObject) -> list[dict[str, Any]]:
    match one["kind"]:
        case "Deployment" | "Job":
            return [one["spec"]["template"]]
        case "PyTorchJob":
            return [replica["template"] for replica in one["spec"]["pytorchReplicaSpecs"].values()]
        case _:
            return []


def pods(made: Plan) -> Iterator[dict[str, Any]]:
    for one in made.everything():
        yield from templates(one)


def containers(template: dict[str, Any]) -> list[dict[str, Any]]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


@every_plan
def test_objects_are_what_kubernetes_knows(made: Plan) -> None:
    """The client's types are those of Kubernetes' OpenAPI document: an unknown field or another type is refused."""
    kinds = set()
    for one in made.everything():
        kinds.add(one["kind"])
        assert one["apiVersion"] == GROUP_VERSIONS[one["kind"]]
        if one["kind"] in MODELS:
            MODELS[one["kind"]].model_validate(one)
        for template in templates(one):
            V1PodTemplateSpec.model_validate(template)
    assert kinds == {*MODELS, "PyTorchJob"}


def test_the_schema_check_sees_a_misspelled_field_and_a_number_for_a_text() -> None:
    template = templates(plan().workload(StageKind.PREPARE))[0]
    for wrong in ({"hostNetworks": True}, {"priorityClassName": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            V1PodTemplateSpec.model_validate({**template, "spec": {**template["spec"], **wrong}})


@every_plan
def test_objects_belong_to_the_run_and_say_what_they_are(made: Plan) -> None:
    for one in made.everything():
        metadata = one["metadata"]
        assert metadata["namespace"] == "training"
        assert metadata["ownerReferences"] == [
            {
                "apiVersion": "selfrewarding.dev/v1alpha1",
                "kind": "SelfRewardingRun",
                "name": "demo",
                "uid": UID,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
        for found in (metadata["labels"], *(template["metadata"]["labels"] for template in templates(one))):
            assert {labels.RUN, labels.ITERATION, labels.ATTEMPT, labels.KEY, labels.MANAGED_BY} <= set(found)
            assert found[labels.MANAGED_BY] == "selfrewarding-operator", "watches select by it, on the server"
            assert re.fullmatch(r"[0-9a-f]{16}", found[labels.KEY])
            assert (labels.STAGE in found) != (labels.HOLDER in found)
            assert (labels.STAGE in found) == (labels.ARTIFACT in found)
            for value in found.values():
                assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value)


@every_plan
def test_names_are_unique_among_objects_of_one_kind(made: Plan) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in made.everything()]
    assert len(set(names)) == len(names)


@every_plan
def test_survival_rule_02_config_maps_are_immutable_and_suspend_is_never_rendered(made: Plan) -> None:
    for one in made.everything():
        assert '"suspend"' not in json.dumps(one)
        if one["kind"] == "ConfigMap":
            assert one["immutable"] is True


@every_plan
def test_pods_pass_the_restricted_level(made: Plan) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, column Restricted."""
    for template in pods(made):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in containers(template):
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= {"configMap", "emptyDir", "persistentVolumeClaim", "hostPath"}
            if "hostPath" in volume or "hostNetwork" in spec:
                assert made is PLANS["templates"], "only where a user's template asks for it"


@every_plan
def test_survival_rule_13_no_path_or_address_stands_in_a_command(made: Plan) -> None:
    for template in pods(made):
        for one in containers(template):
            for word in [*one["command"], *one.get("args", [])]:
                assert not word.startswith(("/", "file:", "http:", "https:", "s3:")), word
                assert not re.search(r"\d+\.\d+\.\d+\.\d+|localhost", word), word
                for name in re.findall(r"\$\(([^)]*)\)", word):
                    assert name in {entry["name"] for entry in one["env"]}


@every_plan
def test_survival_rule_13_every_path_in_the_environment_lies_below_a_mount(made: Plan) -> None:
    for template in pods(made):
        for one in containers(template):
            mounts = [mount["mountPath"] for mount in one["volumeMounts"]] + [one["terminationMessagePath"]]
            for entry in one["env"]:
                value = entry.get("value", "")
                if value.startswith("/"):
                    assert any(value == mount or value.startswith(f"{mount}/") for mount in mounts), entry
            volumes = {volume["name"] for volume in template["spec"]["volumes"]}
            assert {mount["name"] for mount in one["volumeMounts"]} <= volumes


@every_plan
def test_programs_find_their_configuration_and_all_that_the_contract_names(made: Plan) -> None:
    for one in made.everything():
        for template in templates(one):
            programs = [item for item in containers(template) if item["name"] != "vllm"]
            assert programs
            for program in programs:
                env = {entry["name"]: entry for entry in program["env"]}
                assert env[environment.CONFIG]["value"] == "/etc/selfrewarding/config.json"
                assert env[environment.TERMINATION]["value"] == program["terminationMessagePath"]
                assert env[environment.ATTEMPT]["value"] == one["metadata"]["labels"][labels.ATTEMPT]
                assert env[environment.POD_UID]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.uid"}}
                assert environment.SCRATCH in env
                assert program["terminationMessagePolicy"] == "File"
            config = next(volume for volume in template["spec"]["volumes"] if volume["name"] == "config")
            assert config["configMap"]["name"] == one["metadata"]["name"]


def test_containers_carry_the_name_that_their_messages_are_read_by() -> None:
    made = plan()
    for kind in made.stages:
        expected = "pytorch" if kind in TRAINING else "sampler"
        for template in templates(made.workload(kind)):
            assert [one["name"] for one in template["spec"]["containers"]] == [expected]
    deployment = made.pool()["Deployment"]["spec"]["template"]["spec"]
    assert [one["name"] for one in deployment["containers"]] == ["vllm"]
    assert [one["name"] for one in deployment["initContainers"]] == ["fetch-model"]


@every_plan
def test_equal_facts_make_equal_objects_that_share_nothing(made: Plan) -> None:
    first, second = made.everything(), made.everything()
    assert first == second
    json.dumps(first)
    for one, other in zip(first, second, strict=True):
        one["metadata"]["labels"]["changed"] = "here"
        assert "changed" not in other["metadata"]["labels"]


def test_gpu_pods_alone_get_the_nodes_for_gpus() -> None:
    made = plan(PAPER)
    for kind in made.stages:
        spec = templates(made.workload(kind))[0]["spec"]
        assert ("nodeSelector" in spec) == ("tolerations" in spec) == (kind in TRAINING)
        assert spec["priorityClassName"] == "training"
    cpu = plan({**CPU, "scheduling": PAPER["scheduling"]})
    assert all("nodeSelector" not in template["spec"] for template in pods(cpu))


def test_the_queue_is_a_label_of_workloads_alone() -> None:
    for one in plan(PAPER).everything():
        queued = one["metadata"]["labels"].get("kueue.x-k8s.io/queue-name")
        assert queued == ("research" if one["kind"] in ("Job", "PyTorchJob", "Deployment") else None)
    assert all("kueue.x-k8s.io/queue-name" not in one["metadata"]["labels"] for one in plan().everything())


def test_credentials_are_references_and_only_for_containers_that_touch_the_store() -> None:
    keys = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    for template in pods(plan(CPU)):
        for one in containers(template):
            env = {entry["name"]: entry for entry in one["env"]}
            if one["name"] == "vllm":
                assert not keys & set(env)
                continue
            for name in keys:
                source = env[name]["valueFrom"]["secretKeyRef"]
                assert (source["name"], source["key"]) == ("s3", name)
                assert source.get("optional", False) == (name == "AWS_SESSION_TOKEN")
            assert env[environment.S3_ENDPOINT]["value"] == "https://s3.example"
            assert env[environment.S3_ADDRESSING]["value"] == "path"
    for template in pods(plan(PAPER)):
        assert template["spec"]["serviceAccountName"] == "runs-writer"
        assert not keys & {entry["name"] for one in containers(template) for entry in one["env"]}


def test_the_certificate_authority_is_mounted_where_the_variable_says() -> None:
    for template in pods(plan(PAPER)):
        for one in containers(template):
            env = {entry["name"]: entry.get("value") for entry in one["env"]}
            assert env["AWS_CA_BUNDLE"] == "/etc/selfrewarding-ca/ca.crt"
            assert {"name": "ca", "mountPath": "/etc/selfrewarding-ca", "readOnly": True} in one[
                "volumeMounts"
            ]
        assert {"name": "ca", "configMap": {"name": "site-ca"}} in template["spec"]["volumes"]


def test_images_are_the_users_where_given() -> None:
    block = {
        "training": {"image": "own/trainer"},
        "sampler": {"image": "own/sampler"},
        "serving": {"image": "own/vllm"},
    }
    found = {one["image"] for template in pods(plan(block)) for one in containers(template)}
    assert found == {"own/trainer", "own/sampler", "own/vllm"}
    assert {one["image"] for template in pods(plan(CPU)) for one in containers(template)} == {
        "images/trainer:test",
        "images/sampler:test",
        "images/vllm-cpu:test",
    }
