"""The chart as Helm renders it; `make generate` (pytest --snapshot-update tests/golden) writes the golden files.

The CRD is left out of them: it is compared with the generated one instead.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_scenarios import SCENARIOS
from syrupy.assertion import SnapshotAssertion
from tests.support.golden_files import GoldenText
from tests.support.helm import CHART, Helm, HelmFailed

from selfrewarding import __version__
from selfrewarding.api import labels
from selfrewarding.api.crd import custom_resource_definition
from selfrewarding.cluster.kinds import CHILDREN, EVENT, POD, RUN
from selfrewarding.controller.settings import OperatorSettings
from selfrewarding.manifests import Images

Raw = dict[str, Any]


def without_crd(text: str) -> str:
    """The release without its CRD, and with VERSION for the version, which a release raises."""
    parts = [part for part in text.split("---\n") if "kind: CustomResourceDefinition" not in part]
    return "---\n".join(parts).replace(__version__, "VERSION")


def of_kind(objects: Iterable[Raw], kind: str) -> list[Raw]:
    return [one for one in objects if one["kind"] == kind]


def container(objects: Iterable[Raw]) -> Raw:
    (deployment,) = of_kind(objects, "Deployment")
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


@pytest.mark.filterwarnings(
    "ignore:\\s*Can not relate snapshot"
)  # files are named for the scenario, not for this test
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_chart_equals_its_golden_file(name: str, helm: Helm, snapshot: SnapshotAssertion) -> None:
    assert without_crd(helm.template(SCENARIOS[name])) == snapshot(name=name, extension_class=GoldenText)


def test_every_golden_file_has_its_scenario() -> None:
    assert {path.stem for path in Path(__file__).parent.glob("*.yaml")} == set(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_lint_finds_nothing(name: str, helm: Helm) -> None:
    file = helm.home / "scenario.yaml"
    file.write_text(yaml.safe_dump(SCENARIOS[name]), encoding="utf-8")
    said = helm.run("lint", str(CHART), "--strict", "--values", str(file))
    # An icon would be the one recommendation left; we have none.
    assert re.findall(r"^\[(\w+)\] (.*)$", said, re.MULTILINE) == [
        ("INFO", "Chart.yaml: icon is recommended")
    ]


@pytest.mark.parametrize("keep", [True, False])
def test_the_crd_is_the_generated_one_and_kept_if_asked(keep: bool, helm: Helm) -> None:
    (crd,) = of_kind(helm.objects({"crds": {"keep": keep}}), "CustomResourceDefinition")
    metadata = crd.pop("metadata")
    wanted = custom_resource_definition()
    assert metadata.pop("name") == wanted.pop("metadata")["name"]
    assert crd == wanted
    assert metadata.pop("annotations", {}) == ({"helm.sh/resource-policy": "keep"} if keep else {})
    assert set(metadata) == {"labels"}


def test_the_crd_can_be_left_out(helm: Helm) -> None:
    assert of_kind(helm.objects({"crds": {"enabled": False}}), "CustomResourceDefinition") == []


def rights(rules: Iterable[Raw]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def needed() -> set[tuple[str, str, str]]:
    """What the adapter (`selfrewarding.cluster`) asks of the API server, and what kopf's watches and finalizer do.
    tests/cluster/test_rights.py counts the same from the API server's audit log."""

    def over(group: str, resource: str, verbs: str) -> set[tuple[str, str, str]]:
        return {(group, resource, verb) for verb in verbs.split()}

    found = over(RUN.group, RUN.plural, "get list patch watch")
    found |= over(RUN.group, f"{RUN.plural}/status", "patch")
    found |= over(RUN.group, f"{RUN.plural}/finalizers", "update")
    for kind in CHILDREN.values():
        found |= over(kind.group, kind.plural, "create delete get list watch")
    found |= over("apps", "deployments", "patch")
    found |= over(POD.group, POD.plural, "list watch") | over(POD.group, f"{POD.plural}/log", "get")
    return found | over(EVENT.group, EVENT.plural, "create get list patch")


def test_the_operators_rights_are_what_its_code_calls(helm: Helm) -> None:
    (own,) = [role for role in of_kind(helm.objects(), "ClusterRole") if "-view" not in role["metadata"]["name"] and "-edit" not in role["metadata"]["name"]]  # fmt: skip
    assert rights(own["rules"]) == needed()
    assert not any("resourceNames" in rule for rule in own["rules"])


def test_no_role_has_a_wildcard_or_secrets(helm: Helm) -> None:
    for values in SCENARIOS.values():
        for role in helm.objects(values):
            if role["kind"] in ("Role", "ClusterRole"):
                held = rights(role["rules"])
                assert not any("*" in part for right in held for part in right)
                assert not any(
                    resource in ("secrets", "pods/exec", "serviceaccounts/token") for _, resource, _ in held
                )


def test_rights_in_namespaces_are_given_there_only(helm: Helm) -> None:
    objects = helm.objects({"watchNamespaces": ["team-a", "team-b"], "rbac": {"aggregateToUserRoles": False}})
    assert of_kind(objects, "ClusterRole") == of_kind(objects, "ClusterRoleBinding") == []
    roles = {role["metadata"]["namespace"]: rights(role["rules"]) for role in of_kind(objects, "Role")}
    assert set(roles) == {"team-a", "team-b", "training"}
    assert roles["team-a"] == roles["team-b"] == needed()
    assert {right[1] for right in roles["training"]} == {"leases"}
    for binding in of_kind(objects, "RoleBinding"):
        (subject,) = binding["subjects"]
        assert (subject["name"], subject["namespace"]) == ("srr-selfrewarding-operator", "training")


def test_the_lease_is_the_operators_own(helm: Helm) -> None:
    (leader,) = of_kind(helm.objects(), "Role")
    named = [rule for rule in leader["rules"] if "resourceNames" in rule]
    (lease,) = named[0]["resourceNames"]
    assert rights(named) == {
        ("coordination.k8s.io", "leases", "get"),
        ("coordination.k8s.io", "leases", "update"),
    }
    assert {one["name"]: one.get("value") for one in container(helm.objects())["env"]}[
        "SRR_LEASE_NAME"
    ] == lease


def test_the_program_understands_the_environment(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chart's variables are the program's settings: none is unknown, and each means what it says."""
    env = container(helm.objects(SCENARIOS["everything-set"] | {"watchNamespaces": ["a", "b"]}))["env"]
    values = {one["name"]: one.get("value", "from-the-pod") for one in env}
    assert set(values) <= {f"SRR_{name.upper()}" for name in OperatorSettings.model_fields}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    read = OperatorSettings()
    assert read.namespaces == ("a", "b")
    assert read.images == Images(
        trainer="registry.example.com/trainer:1",
        sampler="registry.example.com/sampler:1",
        vllm="registry.example.com/vllm:1",
        vllm_cpu="registry.example.com/vllm-cpu:1",
    )
    assert (read.log_format, read.log_level, read.pass_concurrency) == ("text", "DEBUG", 16)
    assert (read.pod_name, read.lease_namespace) == ("from-the-pod", "from-the-pod")


def test_ports_are_those_that_the_program_listens_on(helm: Helm) -> None:
    own = container(helm.objects())
    ports = {one["name"]: one["containerPort"] for one in own["ports"]}
    env = {one["name"]: one.get("value") for one in own["env"]}
    assert (env["SRR_HEALTH_PORT"], env["SRR_METRICS_PORT"]) == (str(ports["health"]), str(ports["metrics"]))
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert own[probe]["httpGet"]["port"] == "health"


def test_the_pod_passes_the_restricted_level(helm: Helm) -> None:
    (deployment,) = of_kind(helm.objects(), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container([deployment])["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


def test_selectors_find_the_pods(helm: Helm) -> None:
    objects = helm.objects(SCENARIOS["everything-set"])
    (deployment,) = of_kind(objects, "Deployment")
    carried = deployment["spec"]["template"]["metadata"]["labels"].items()
    (service,), (budget,), (policy,) = (
        of_kind(objects, kind) for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy")
    )
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
        policy["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= carried


def test_labels_of_users_do_not_replace_ours(helm: Helm) -> None:
    (deployment,) = of_kind(helm.objects({"podLabels": {"app.kubernetes.io/name": "mine"}}), "Deployment")
    assert (
        deployment["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
        == "selfrewarding-operator"
    )


def test_operators_objects_are_not_taken_for_a_runs_children(helm: Helm) -> None:
    """`managed-by` of the release is Helm: the operator watches what has its own name there."""
    for one in helm.objects():
        assert one["metadata"]["labels"][labels.MANAGED_BY] == "Helm"


def test_one_replica_stands_in_no_drains_way(helm: Helm) -> None:
    assert of_kind(helm.objects({"replicas": 1}), "PodDisruptionBudget") == []


@pytest.mark.parametrize(
    ("release", "name"),
    [("srr", "srr-selfrewarding-operator"), ("selfrewarding-operator", "selfrewarding-operator")],
)
def test_objects_are_named_for_the_release(release: str, name: str, helm: Helm) -> None:
    objects = [one for one in yaml.safe_load_all(helm.template(name=release)) if one]
    assert {one["metadata"]["name"] for one in of_kind(objects, "Deployment")} == {name}


REFUSED: dict[str, tuple[Raw, str]] = {
    "a misspelt option": ({"replica": 2}, "'replica' not allowed"),
    "namespaces as one text": ({"watchNamespaces": "a,b"}, "watchNamespaces"),
    "an unknown log format": ({"log": {"format": "xml"}}, "log/format"),
}


@pytest.mark.parametrize(("values", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_helm_refuses(values: Raw, said: str, helm: Helm) -> None:
    with pytest.raises(HelmFailed) as caught:
        helm.template(values)
    assert said in str(caught.value).replace(".", "/")
    assert "Traceback" not in str(caught.value)


def test_an_old_cluster_is_refused(helm: Helm) -> None:
    with pytest.raises(HelmFailed, match=r"chart requires kubeVersion: >=1\.29\.0-0"):
        helm.template({}, "--kube-version", "1.28.15")


def test_a_vendors_version_of_the_oldest_cluster_is_taken(helm: Helm) -> None:
    helm.template({}, "--kube-version", "v1.29.0-gke.100")


def test_the_package_holds_the_crd(helm: Helm) -> None:
    helm.run("package", str(CHART), "--destination", str(helm.home))
    listed = helm.run("show", "chart", str(helm.home / f"selfrewarding-operator-{__version__}.tgz"))
    assert yaml.safe_load(listed)["appVersion"] == __version__
