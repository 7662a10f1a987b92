"""The chart on a control plane of its own: installed from nothing, upgraded with its CRD, taken away without the runs.

Helm and the API server are real; no node is needed. What the templates hold is in tests/golden/chart.
"""

import shutil
from pathlib import Path

import pytest
import yaml
from tests.cluster.chart.release import (
    ACCOUNT,
    CRD,
    NAME,
    NAMESPACE,
    RELEASE,
    RUNS,
    eventually,
    install,
    may,
    rights,
    uninstall,
    upgrade,
)
from tests.cluster.crd_cases.table import SMALLEST, Raw, merged
from tests.cluster.testbed.handle import TestbedError
from tests.cluster.testbed.kubectl import Kubectl
from tests.support.helm import CHART, Helm, HelmFailed

CRD_FILE = "files/selfrewardingruns.yaml"
OF_THE_RELEASE = f"app.kubernetes.io/instance={RELEASE}"


def apply(team: Kubectl, change: Raw | None = None) -> None:
    """`kubectl apply` of the smallest run, as soon as the kind is served. Raises TestbedError."""
    await_kind(team)
    team("apply", "--filename=-", text=yaml.safe_dump(merged(SMALLEST, change or {})))


def await_kind(kube: Kubectl) -> None:
    kube.wait(f"crd/{CRD}", "create", 20)
    kube.wait(f"crd/{CRD}", "condition=Established", 20)


def runs(team: Kubectl) -> list[str]:
    return [run["metadata"]["name"] for run in team.list("srr")]


def without_field(folder: Path, name: str) -> Path:
    """A copy of the chart whose CRD is from before a field of the spec was added."""
    chart = folder / "older" / CHART.name
    shutil.copytree(CHART, chart)
    crd = yaml.safe_load((chart / CRD_FILE).read_text(encoding="utf-8"))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["spec"]["properties"][name]
    (chart / CRD_FILE).write_text(yaml.safe_dump(crd, allow_unicode=True), encoding="utf-8")
    return chart


def test_install_on_an_empty_cluster_takes_the_first_run(helm: Helm, team: Kubectl) -> None:
    install(helm)
    apply(team)
    assert runs(team) == ["smallest"]


def test_the_notes_teach_the_first_run(helm: Helm, team: Kubectl) -> None:
    notes = install(helm).partition("NOTES:\n")[2]
    assert "looks after SelfRewardingRuns in all namespaces." in notes
    assert "kubectl get srr -w" in notes
    assert "training-operator (v1) is installed" in notes, "this control plane has no PyTorchJob kind"
    assert "crds.enabled=false" not in notes
    assert "The kind and its runs stay" in notes
    assert "\n\n\n" not in notes.strip()
    await_kind(team)
    team("apply", "--filename=-", text=notes.partition("<<RUN\n")[2].partition("  RUN\n")[0])
    assert runs(team) == ["first"]


def test_its_pods_pass_the_restricted_level(helm: Helm, kube: Kubectl) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    install(helm)
    own = kube.of(NAMESPACE)
    eventually(lambda: len(_pods(own)) == 2, "two pods")
    assert {pod["spec"]["serviceAccountName"] for pod in _pods(own)} == {NAME}
    assert own.get("pdb", NAME)["spec"]["maxUnavailable"] == 1


def _pods(own: Kubectl) -> list[Raw]:
    return [pod for pod in own.list("pods", OF_THE_RELEASE) if "deletionTimestamp" not in pod["metadata"]]


def test_upgrade_brings_the_crds_new_field(helm: Helm, team: Kubectl, tmp_path: Path) -> None:
    install(helm, chart=without_field(tmp_path, "seed"))
    with pytest.raises(TestbedError, match=r'unknown field "spec\.seed"'):
        apply(team, {"spec": {"seed": 7}})
    apply(team)
    before = team.get("srr", "smallest")

    upgrade(helm)

    def takes_it() -> bool:
        try:
            apply(team, {"spec": {"seed": 7}})
        except TestbedError:
            return False
        return True

    eventually(takes_it, "the new field")
    after = team.get("srr", "smallest")
    assert after["spec"]["seed"] == 7
    assert after["metadata"]["uid"] == before["metadata"]["uid"], "the run that was there is the same"


def test_an_upgrade_that_changes_nothing_restarts_nothing(helm: Helm, kube: Kubectl) -> None:
    install(helm)
    own = kube.of(NAMESPACE)
    before = own.get("deployment", NAME)["metadata"]["generation"]
    upgrade(helm)
    assert own.get("deployment", NAME)["metadata"]["generation"] == before


def test_uninstall_keeps_the_kind_and_the_runs(helm: Helm, team: Kubectl) -> None:
    install(helm)
    apply(team)
    assert CRD in uninstall(helm), "Helm says what it kept"
    assert runs(team) == ["smallest"]
    assert team.list("clusterrole,clusterrolebinding", OF_THE_RELEASE) == []
    install(helm)  # the same release takes its kind up again
    assert runs(team) == ["smallest"]


def test_uninstall_deletes_the_kind_if_it_is_told_not_to_keep_it(helm: Helm, kube: Kubectl) -> None:
    notes = install(helm, "--set", "crds.keep=false")
    assert "`helm uninstall` deletes the kind and ALL runs" in notes
    uninstall(helm)
    kube.wait(f"crd/{CRD}", "delete", 20)


def test_a_kind_that_was_applied_by_hand_is_taken_over_on_request(helm: Helm, kube: Kubectl) -> None:
    kube.apply(CHART / CRD_FILE)
    with pytest.raises(HelmFailed, match="exists and cannot be imported into the current release"):
        install(helm)
    install(helm, "--take-ownership")
    assert kube.get("crd", CRD)["metadata"]["annotations"]["meta.helm.sh/release-name"] == RELEASE


def test_a_kind_that_is_somebody_elses_is_left_alone(helm: Helm, kube: Kubectl) -> None:
    kube.apply(CHART / CRD_FILE)
    before = kube.get("crd", CRD)
    assert "srr crd | kubectl apply --server-side -f -" in install(helm, "--set", "crds.enabled=false")
    uninstall(helm)
    after = kube.get("crd", CRD)
    assert after["spec"] == before["spec"]
    for field in ("uid", "generation", "labels", "annotations"):
        assert after["metadata"].get(field) == before["metadata"].get(field)


def test_the_operator_holds_what_its_role_says_and_no_more(helm: Helm, kube: Kubectl, team: Kubectl) -> None:
    install(helm)
    held = rights(team, ACCOUNT) - rights(team, "nobody")
    (role,) = [one for one in kube.list("clusterrole", OF_THE_RELEASE) if one["metadata"]["name"] == NAME]
    assert held == {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    in_its_own_namespace = rights(kube.of(NAMESPACE), ACCOUNT) - rights(kube.of(NAMESPACE), "nobody")
    assert {resource for _, resource, _ in in_its_own_namespace - held} == {"leases"}


def test_the_operator_may_not_read_secrets_or_raise_its_own_rights(released: Kubectl) -> None:
    wrong = [
        ("get", "", "secrets"), ("list", "", "secrets"), ("create", "", "pods/exec"), ("create", "", "pods"),
        ("delete", "", "pods"), ("update", "", "configmaps"), ("create", "", "serviceaccounts/token"), ("list", "", "namespaces"),
        ("update", *RUNS), ("create", *RUNS), ("delete", *RUNS), ("list", "apiextensions.k8s.io", "customresourcedefinitions"),
        ("create", "rbac.authorization.k8s.io", "rolebindings"),
    ]  # fmt: skip
    assert [right for right in wrong if may(released, *right)] == []


def test_it_may_take_its_own_lease_only(released: Kubectl) -> None:
    lease = ("update", "coordination.k8s.io", "leases")
    assert may(released.of(NAMESPACE), *lease, name=NAME)
    assert not may(released.of(NAMESPACE), *lease, name="another")
    assert not may(released.of("kube-system"), *lease, name=NAME)


@pytest.fixture
def released(helm: Helm, team: Kubectl) -> Kubectl:
    """A namespace of users beside an installed release."""
    install(helm)
    return team


def test_rights_end_at_the_watched_namespaces(helm: Helm, team: Kubectl) -> None:
    install(helm, "--set", f"watchNamespaces={{{team.namespace}}}")
    job = ("create", "batch", "jobs")
    assert may(team, *job)
    assert not may(team.of("default"), *job)
    assert not may(team.of(""), "list", *RUNS)
    assert not may(team, "get", "", "secrets")


def test_users_who_may_edit_or_view_may_so_with_runs(released: Kubectl) -> None:
    for role in ("edit", "view"):
        released("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}or")

    def user_may(user: str, verb: str, resource: str = RUNS[1]) -> bool:
        return may(released, verb, RUNS[0], resource, account=user)

    eventually(lambda: user_may("editor", "create") and user_may("viewor", "list"), "the aggregated roles")
    assert user_may("editor", "delete")
    assert user_may("editor", "watch"), "edit includes view"
    assert not user_may("editor", "patch", f"{RUNS[1]}/status"), "a status is the operator's to write"
    assert not user_may("viewor", "create")
    assert not user_may("viewor", "patch")
