"""A user's pod template may change much, but takes nothing away silently that the programs need."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import V1PodTemplateSpec
from manifest_scenarios import merged, plan

from selfrewarding.contract.stages import StageKind
from selfrewarding.manifests import InvalidPodTemplate

BLOCKS = {
    "training": ("pytorch", StageKind.PREFERENCE_OPTIMIZE),
    "sampler": ("sampler", StageKind.ROLLOUT),
    "serving": ("vllm", None),
}


def template(block: str, theirs: dict[str, Any]) -> dict[str, Any]:
    made = plan({block: {"podTemplate": theirs}})
    kind = BLOCKS[block][1]
    if kind is None:
        return dict(made.pool()["Deployment"]["spec"]["template"])
    workload = made.workload(kind)["spec"]
    if block == "training":
        workload = workload["pytorchReplicaSpecs"]["Worker"]
    return dict(workload["template"])


def in_program(block: str, **fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": BLOCKS[block][0], **fields}]}}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_template_reaches_the_pods_of_its_block(block: str) -> None:
    made = template(
        block,
        merged(
            in_program(block, env=[{"name": "OWN", "value": "1"}]),
            {
                "metadata": {"annotations": {"a": "b", "prometheus.io/scrape": "false"}},
                "spec": {"nodeSelector": {"disk": "fast"}},
            },
        ),
    )
    assert made["metadata"]["annotations"].items() >= {"a": "b", "prometheus.io/scrape": "false"}.items(), (
        "over ours"
    )
    assert made["spec"]["nodeSelector"] == {"disk": "fast"}
    assert {"name": "OWN", "value": "1"} in made["spec"]["containers"][0]["env"]


@pytest.mark.parametrize("block", BLOCKS)
def test_sidecars_and_volumes_may_be_added(block: str) -> None:
    made = template(
        block,
        {
            "spec": {
                "containers": [{"name": "logs", "image": "logs:1"}],
                "volumes": [{"name": "own", "emptyDir": {}}],
            }
        },
    )
    assert [one["name"] for one in made["spec"]["containers"]] == [BLOCKS[block][0], "logs"]


@pytest.mark.parametrize("block", ["training", "sampler"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"volumeMounts": [{"mountPath": "/etc/selfrewarding", "$patch": "delete"}]},
            r"volumeMounts\[/etc/selfrewarding\]: the program needs this mount",
        ),
        ({"volumeMounts": None}, r"volumeMounts\[/etc/selfrewarding\]"),
        (
            {"volumeMounts": [{"mountPath": "/etc/selfrewarding", "name": "tmp"}]},
            r"volumeMounts\[/etc/selfrewarding\]",
        ),
        ({"volumeMounts": [{"mountPath": "/scratch", "$patch": "delete"}]}, r"volumeMounts\[/scratch\]"),
        (
            {"env": [{"name": "SRR_STAGE_CONFIG", "value": "/x"}]},
            r"env\[SRR_STAGE_CONFIG\] is set by the operator",
        ),
        (
            {"env": [{"name": "SRR_POD_UID", "$patch": "delete"}]},
            r"env\[SRR_POD_UID\] is set by the operator",
        ),
        ({"$patch": "delete"}, r"this container runs the stage, it cannot be removed"),
    ],
)
def test_what_the_program_needs_cannot_be_taken_away(
    block: str, fields: dict[str, Any], message: str
) -> None:
    name = BLOCKS[block][0]
    place = rf"^{block}\.podTemplate\.spec\.containers\[{name}\].*"
    with pytest.raises(InvalidPodTemplate, match=place + message):
        template(block, in_program(block, **fields))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"spec": {"volumes": [{"name": "config", "$patch": "delete"}]}}, r"spec\.volumes\[config\]"),
        (
            {"spec": {"volumes": [{"name": "config", "emptyDir": {}}]}},
            r"volumes\[config\] comes from the operator",
        ),
        (
            {"spec": {"volumes": [{"name": "tmp", "$patch": "delete"}]}},
            r"volumes\[tmp\]: our containers mount it",
        ),
        ({"spec": {"restartPolicy": "OnFailure"}}, r"spec\.restartPolicy: retries are the operator's"),
        (
            {"spec": {"containers": [{"name": "other", "env": []}]}},
            r"containers\[other\] has no image: .* the container",
        ),
        (
            {"metadata": {"labels": {"selfrewarding.dev/run": "x"}}},
            r"labels\.selfrewarding\.dev/run: this label is set",
        ),
        (
            {"metadata": {"labels": {"selfrewarding.dev/own": "x"}}},
            r"labels\.selfrewarding\.dev/own: labels of",
        ),
        ({"metadata": None}, r"\.metadata takes our `metadata` away"),
        ({"template": {}}, r"\.template: a pod template has `metadata` and `spec`"),
    ],
)
def test_what_the_operator_relies_on_cannot_be_changed(
    block: str, theirs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidPodTemplate, match=rf"^{block}\.podTemplate.*{message}"):
        template(block, theirs)


SCRAPS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 2)
    | st.sampled_from(["vllm", "tmp", "delete", "replace", "/tmp", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "containers",
                    "initContainers",
                    "volumes",
                    "env",
                    "volumeMounts",
                    "name",
                    "mountPath",
                    "$patch",
                    "image",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=16,
)


@given(SCRAPS | st.fixed_dictionaries({"spec": SCRAPS}))
def test_any_template_is_taken_or_refused_with_its_place(theirs: object) -> None:
    if not isinstance(theirs, dict):
        return
    try:
        made = template("serving", theirs)
    except InvalidPodTemplate as error:
        place = str(error)
    else:
        place = "serving.podTemplate"
        assert [one["name"] for one in made["spec"]["containers"]].count("vllm") == 1
        assert made["spec"]["initContainers"][0]["name"] == "fetch-model"
    assert place.startswith("serving.podTemplate")


def test_a_merged_template_is_still_what_kubernetes_knows() -> None:
    made = template("training", in_program("training", resources={"limits": {"rdma/hca": "1"}}))
    V1PodTemplateSpec.model_validate(made)


def test_the_init_container_keeps_its_configuration_too() -> None:
    gone = {"spec": {"initContainers": [{"name": "fetch-model", "volumeMounts": None}]}}
    with pytest.raises(
        InvalidPodTemplate, match=r"serving\.podTemplate\.spec\.initContainers\[fetch-model\]"
    ):
        template("serving", gone)


def test_errors_of_a_pool_of_its_own_name_its_place() -> None:
    block = {
        "judge": {"modelUri": "s3://models/judge"},
        "serving": {"judge": {"podTemplate": {"spec": {"restartPolicy": "Never"}}}},
    }
    with pytest.raises(InvalidPodTemplate, match=r"^serving\.judge\.podTemplate\.spec\.restartPolicy"):
        plan(block).pool("judge")
    plan(block).pool("policy")
